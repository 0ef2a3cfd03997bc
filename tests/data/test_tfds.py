"""Prepared TFDS data sets: the parts, the order of reading, and messages that name damaged files."""

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, prepared, sources, splits
from cnn_jax.data.decode import UnreadableError
from cnn_jax.data.sources import tfds
from cnn_jax.training.config_check import check_config
from cnn_jax.training.setup import build
from tfds_files import example, flip_a_byte, prepare, read_shard, rewrite_shard


def everything(source: dataset.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a source."""
    examples = source.read(range(len(source)))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


def prepare_mnist(folder: Path, *, train: int = 50, test: int = 20, num_classes: int = 10) -> Path:
    """Prepares a small "mnist": image i is filled with i, its label is i % num_classes. Returns data_dir."""

    def filled(_split: str, i: int) -> np.ndarray:
        return np.full((28, 28, 1), i, np.uint8)

    sizes = dict(splits=dict(train=train, test=test), shape=(28, 28, 1), num_classes=num_classes)
    return prepare(folder, "mnist", "3.0.1", filled, **sizes)


def edit(data_dir: Path, file: str, old: str, new: str) -> None:
    """Replaces a string in a file of the prepared data set."""
    path = data_dir / "mnist" / "3.0.1" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def mnist_config(data_dir: Path | str, **fields):
    config = get_config("mnist").data
    config.update(dict(dir=str(data_dir), train="train[:80%]", validation="train[80%:]") | fields)
    return config


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return prepare_mnist(tmp_path_factory.mktemp("tfds"))


def test_a_prepared_data_set_is_read_as_its_split_slices_say(mnist):
    dataset = sources.open_dataset(mnist_config(mnist))
    assert {part: len(source) for part, source in dataset.parts.items()} == dict(train=40, validation=10, test=20)
    assert dataset.class_names == [str(digit) for digit in range(10)]
    for part, numbers in dict(train=range(40), validation=range(40, 50), test=range(20)).items():
        images, labels = everything(dataset.parts[part])
        assert images.dtype == np.uint8 and images.shape == (len(numbers), 28, 28, 1)
        np.testing.assert_array_equal(images, np.broadcast_to(np.reshape(numbers, (-1, 1, 1, 1)), images.shape))
        np.testing.assert_array_equal(labels, [i % 10 for i in numbers])


def test_a_prepared_data_set_is_read_in_the_requested_order(mnist):
    source = sources.open_dataset(mnist_config(mnist)).parts["validation"]
    indices = np.array([3, 9, 0, 3])  # NumPy's integers, as the pipeline passes them
    assert [np.asarray(e["image"])[0, 0, 0] for e in source.read(indices)] == [43, 49, 40, 43]


def test_the_folder_of_data_sets_may_come_from_the_environment(mnist, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(mnist))
    assert len(sources.open_dataset(mnist_config("")).parts["test"]) == 20


def test_a_prepared_data_set_is_the_same_resident_and_streamed(mnist):
    resident = splits.Splits(mnist_config(mnist, image_size=(14, 14)), seed=0).parts["train"]
    fields = dict(image_size=(14, 14), placement="stream", workers=2)
    stream = splits.Splits(mnist_config(mnist, **fields), seed=0).parts["train"]
    for ours, theirs in zip(resident.train_batches(0, 3, 8), stream.train_batches(0, 3, 8), strict=True):
        for name in ("image", "label"):
            np.testing.assert_array_equal(resident.resident[name][ours["index"]], theirs[name])


def test_a_missing_data_set_names_the_command_that_prepares_it(tmp_path):
    with pytest.raises(UserError) as error:
        sources.open_dataset(mnist_config(tmp_path / "my data"))
    message = str(error.value)
    assert str(tmp_path / "my data" / "mnist") in message
    assert "TFDS_DATA_DIR" in message and "--config.data.dir" in message
    assert message.endswith(f"cnn_jax data prepare mnist --dir='{tmp_path / 'my data'}'")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(train="trian[:80%]"), r"data\.train is 'trian\[:80%\]'.*splits train, test; did you mean 'train'\?"),
        (dict(test="validation"), r"data\.test is 'validation', but 'mnist' has the splits train, test"),
        (dict(train="train[:80"), r"data\.train is 'train\[:80', which TFDS does not read"),
        (dict(train="train[:55000]"), r"data\.train is 'train\[:55000\]'.*50 examples"),
        (dict(validation="train[50:]"), r"data\.validation"),
        (dict(channels=3), r"channels is 3, but the images of 'mnist' have 1"),
        (dict(num_classes=12), r"num_classes is 12, but 'mnist' has 10"),
    ],
)
def test_fields_that_a_data_set_lacks_are_errors(mnist, fields, message):
    with pytest.raises(UserError, match=message):
        sources.open_dataset(mnist_config(mnist, **fields))


@pytest.mark.parametrize(
    ("train", "validation", "shared"),
    [("train", "train[80%:]", True), ("train[:41]", "train[40:]", True), ("train[:-10]", "train[-10:]", False)],
)
def test_parts_that_share_examples_are_refused(mnist, train, validation, shared):
    config = mnist_config(mnist, train=train, validation=validation)
    if shared:
        with pytest.raises(UserError, match="share examples: the parts must be disjoint"):
            sources.open_dataset(config)
    else:
        assert len(sources.open_dataset(config).parts["train"]) == 40


def test_tfrecord_is_refused_with_the_command_that_converts_it(mnist, tmp_path):
    data_dir = shutil.copytree(mnist, tmp_path / "data")
    edit(data_dir, "dataset_info.json", '"array_record"', '"tfrecord"')
    with pytest.raises(UserError, match=rf"prepared as 'tfrecord'(?s:.*)mnist --dir={data_dir} --from-tfrecord"):
        sources.open_dataset(mnist_config(data_dir))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"label"', '"species"'), ("class_label_feature.ClassLabel", "scalar.Scalar"), ('"uint8"', '"float32"')],
)
def test_a_data_set_that_is_not_for_classification_is_refused(mnist, tmp_path, old, new):
    data_dir = shutil.copytree(mnist, tmp_path / "data")
    if "Scalar" in new:
        edit(data_dir, "features.json", '"classLabel": {', '"tensor": {"shape": {}, "dtype": "int64"}, "x": {')
        text = json.loads((data_dir / "mnist/3.0.1/features.json").read_text())
        text["featuresDict"]["features"]["label"].pop("x")
        (data_dir / "mnist/3.0.1/features.json").write_text(json.dumps(text))
    edit(data_dir, "features.json", old, new)
    with pytest.raises(UserError, match=r"has the features \['image', '\w+'\].*are needed: it is not a classification"):
        sources.open_dataset(mnist_config(data_dir))


# ---------------------------------------------------------------- any data set, by its name


def colors(folder: Path, name: str, splits: dict[str, int], num_classes: int = 5) -> Path:
    """Prepares a data set of color pictures of several sizes; every value of picture i is i."""

    def picture(_split: str, i: int) -> np.ndarray:
        return np.full((20 + i, 30, 3), i, np.uint8)

    return prepare(folder, name, "1.2.0", picture, splits=splits, shape=(None, None, 3), num_classes=num_classes)


def any_config(name: str, data_dir: Path, **fields):
    config = get_config(name).data
    config.update(dict(dir=str(data_dir)) | fields)
    return config


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (dict(train=20, test=6), dict(train="train[:90%]", validation="train[90%:]", test="test")),
        (dict(train=20, validation=5), dict(train="train[:90%]", validation="train[90%:]", test="validation")),
        (dict(train=20, validation=5, test=6), dict(train="train", validation="validation", test="test")),
        (dict(train=20, test=6, extra=3), dict(train="train[:90%]", validation="train[90%:]", test="test")),
    ],
)
def test_a_data_set_without_a_row_has_its_own_parts_and_classes(tmp_path, splits, chosen):
    dataset = sources.open_dataset(any_config("my_colors", colors(tmp_path, "my_colors", splits)))
    assert dataset.chosen == chosen and dataset.name == "my_colors/1.2.0"
    assert dataset.class_names == ["0", "1", "2", "3", "4"]
    train = dataset.parts["train"].read(range(len(dataset.parts["train"])))
    assert [e["image"].shape for e in train] == [(20 + i, 30, 3) for i in range(len(train))]
    assert [e["label"] for e in train] == [i % 5 for i in range(len(train))]
    sizes = {part: len(source) for part, source in dataset.parts.items()}
    assert sizes["test"] == splits[chosen["test"]] and sizes["validation"] == (
        5 if len(splits) == 3 and "extra" not in splits else 2
    )


def test_parts_that_config_names_are_kept_and_the_others_follow(tmp_path):
    data_dir = colors(tmp_path, "my_colors", dict(train=20, validation=5))
    dataset = sources.open_dataset(any_config("my_colors", data_dir, test="train[:5]", train="train[5:]"))
    assert dataset.chosen == dict(train="train[5:]", validation="validation", test="train[:5]")
    with pytest.raises(UserError, match="share examples"):
        sources.open_dataset(any_config("my_colors", data_dir, train="train"))


def test_a_data_set_with_one_split_needs_its_parts_named(tmp_path):
    data_dir = colors(tmp_path, "my_colors", dict(train=20))
    with pytest.raises(UserError, match=r"config\.data\.test is ''.*has the splits train\. Name its part"):
        sources.open_dataset(any_config("my_colors", data_dir))
    parts = dict(train="train[:60%]", validation="train[60%:80%]", test="train[80%:]")
    assert len(sources.open_dataset(any_config("my_colors", data_dir, **parts)).parts["train"]) == 12


def test_a_run_takes_classes_and_parts_from_the_data_set(tmp_path):
    config = recipes.get_config("lenet5", "my_colors")
    config.data.dir = str(colors(tmp_path, "my_colors", dict(train=20, validation=5)))
    config.data.image_size, config.batch_size = (28, 28), 4
    check_config(config)
    resolved = build(config.lock()).config.data
    assert (config.data.num_classes, config.data.train, config.data.test) == (0, "", "")
    assert (resolved.num_classes, resolved.train, resolved.validation) == (5, "train[:90%]", "train[90%:]")
    assert resolved.test == "validation"


def test_a_data_set_of_another_number_of_channels_is_refused(tmp_path):
    data_dir = colors(tmp_path, "my_colors", dict(train=20, test=5))
    fields = dict(channels=1, mean=(0.5,), std=(0.5,))
    with pytest.raises(UserError, match=r"channels is 1, but the images of 'my_colors' have 3"):
        sources.open_dataset(any_config("my_colors", data_dir, **fields))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("foldr", "folder"),
        ("flowers102", "oxford_flowers102"),
        ("mine", "mine2"),
    ],
)
def test_a_mistyped_name_gets_the_near_match_among_all_data_sets(tmp_path, name, meant):
    (tmp_path / "mine2").mkdir()
    with pytest.raises(UserError, match=rf"no data set is called '{name}'; did you mean '{meant}'\?"):
        sources.open_dataset(any_config(name, tmp_path))


def test_a_data_set_in_variants_is_tfds_default_unless_one_is_named(tmp_path):
    assert prepared.full_name("imagenette", tmp_path) == "imagenette/full-size-v2"
    assert prepared.full_name("imagenette/160px", tmp_path) == "imagenette/160px"
    with pytest.raises(UserError, match=r"has no variant '320'; did you mean '320px'\?"):
        sources.open_dataset(any_config("imagenette/320", tmp_path))
    with pytest.raises(UserError, match=r"data set 'mnist' has no variant 'small'\. It has none"):
        sources.open_dataset(any_config("mnist/small", tmp_path))
    folder = tmp_path / "imagenette"
    shutil.copytree(colors(tmp_path / "files", "imagenette", dict(train=20, validation=5), 10) / "imagenette", folder)
    (folder / "320px").mkdir()
    (folder / "1.2.0").rename(folder / "320px" / "1.2.0")
    with pytest.raises(UserError, match=r"no .*imagenette/full-size-v2/VERSION.*Prepared are imagenette/320px\."):
        sources.open_dataset(any_config("imagenette", tmp_path))
    assert len(sources.open_dataset(any_config("imagenette/320px", tmp_path)).parts["test"]) == 5


def test_an_unknown_name_is_refused_by_the_configuration():
    for name in ("", "../mnist", "a/b/c", "mnist/..", "mnist:3.0.1", "a b"):
        with pytest.raises(ValueError, match="NAME or NAME/VARIANT, not"):
            get_config(name)


# ---------------------------------------------------------------- damaged and hostile files


@pytest.fixture
def broken(mnist, tmp_path):
    """A copy of the small mnist, whose train part has images 0..39, to be damaged."""
    return shutil.copytree(mnist, tmp_path / "data")


def train_shard(data_dir: Path) -> Path:
    return data_dir / "mnist/3.0.1/mnist-train.array_record-00000-of-00001"


def test_a_label_out_of_range_names_the_file_the_record_and_the_label(tmp_path):
    data_dir = prepare_mnist(tmp_path, train=20, test=5, num_classes=20)
    edit(data_dir, "features.json", '"20"', '"10"')  # now labels 10 .. 19 are outside
    for on_error in ("raise", "skip"):
        config = mnist_config(data_dir, train="train[:15]", validation="train[15:]", on_error=on_error)
        source = sources.open_dataset(config).parts["train"]
        assert [e["label"] for e in source.read(range(10))] == list(range(10))
        with pytest.raises(UserError, match=r"mnist-train\S*, record 12: its label is 12, but must be in 0\.\.9"):
            source.read([3, 12])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "is missing: copy"),
        (lambda file: file.write_bytes(b""), "is damaged or cut off"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged or cut off"),
        (lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]), "is damaged or cut off"),
        (lambda file: file.write_bytes(b"no records at all\n" * 10_000), "is damaged or cut off"),
        (lambda file: rewrite_shard(file, [b"record"] * 49), "has 49 records, but dataset_info.json .* says 50"),
    ],
)
def test_a_missing_truncated_or_wrong_shard_is_named_first(broken, damage, message):
    damage(train_shard(broken))
    for on_error in ("raise", "skip"):  # a file is not a picture
        with pytest.raises(UserError, match=rf"{train_shard(broken)} {message}"):
            sources.open_dataset(mnist_config(broken, on_error=on_error))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "it is damaged: Corrupted"),
        (b"\xff\xff\xff", "it holds no image with a label"),
        (b"", "it holds no image with a label"),
        (example(b"text, not a picture", 3), "it is no JPEG, PNG"),
    ],
    ids=["damaged", "no-example", "empty", "no-image"],
)
def test_an_unreadable_record_is_named_or_skipped(broken, record, message):
    if record is None:
        flip_a_byte(train_shard(broken), read_shard(train_shard(broken))[5])
    else:
        records = read_shard(train_shard(broken))
        rewrite_shard(train_shard(broken), [*records[:5], record, *records[6:]])
    source = sources.open_dataset(mnist_config(broken)).parts["train"]
    with pytest.raises(UnreadableError, match=rf"{train_shard(broken)}, record 5: {message}"):
        [np.asarray(example["image"]) for example in source.read([4, 5, 6])]
    fields = dict(on_error="skip", placement="stream", workers=2, mean=(0.5,), std=(0.5,))
    skipping = splits.Splits(mnist_config(broken, **fields), seed=0).parts["train"]
    found = {i: (label, image.mean()) for i, image, label in skipping.examples(np.asarray)}
    assert found == {i: (i % 10, i) for i in range(40) if i != 5} and skipping.skipped == {5}


def test_a_stream_counts_the_records_that_it_skips(broken):
    flip_a_byte(train_shard(broken), read_shard(train_shard(broken))[5])
    fields = dict(on_error="skip", placement="stream", workers=2, mean=(0.5,), std=(0.5,))
    part = splits.Splits(mnist_config(broken, **fields), seed=0).parts["train"]
    labels = np.concatenate([batch["label"] for batch in part.train_batches(0, 5, 8)])
    assert part.skipped == {5} and len(labels) == 40


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"splits": 3}', "\x00\xff" * 100])
def test_a_description_that_is_missing_or_damaged_is_named(broken, file, content):
    path = broken / "mnist/3.0.1" / file
    path.unlink() if content is None else path.write_text(content)
    named = r"no \S*/mnist/VERSION/dataset_info\.json" if content is None and "info" in file else str(path.parent)
    with pytest.raises(UserError, match=named):
        sources.open_dataset(mnist_config(broken))


@pytest.mark.parametrize("field", ["pythonClassName", "type"])
def test_a_description_imports_nothing(broken, tmp_path, monkeypatch, field):
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    if field == "type":
        (broken / "mnist/3.0.1/features.json").write_text('{"type": "hostile.Feature", "content": {}}')
    else:
        edit(broken, "features.json", "tensorflow_datasets.core.features.class_label_feature.", "hostile.")
    with pytest.raises(UserError, match=r"has a feature of the class hostile\.\w+, which is not TFDS's"):
        sources.open_dataset(mnist_config(broken))


# ---------------------------------------------------------------- slices of shards


@dataclass
class Slice:
    """As TFDS defines them."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """Three files of 7 records each, with the labels 0..20."""
    picture = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(picture, "png")
    files = [tmp_path_factory.mktemp("shards") / str(i) for i in range(3)]
    for i, file in enumerate(files):
        rewrite_shard(file, [example(picture.getvalue(), 7 * i + j) for j in range(7)])
    return files


@given(st.data())
def test_the_examples_of_slices_of_several_shards_are_the_right_ones(many_shards, data):
    slices = data.draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 7)), min_size=1, max_size=4)
    )
    pieces = [Slice(str(many_shards[n]), skip, min(take, 7 - skip), 7) for n, skip, take in slices]
    expected = [7 * n + p.skip + i for (n, _, _), p in zip(slices, pieces, strict=True) for i in range(p.take)]
    source = tfds.TFDSSource(pieces, num_classes=21, channels=1)
    assert len(source) == len(expected)
    asked = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=10))
    assert [e["label"] for e in source.read(asked)] == [expected[i] for i in asked]
    with pytest.raises(IndexError):
        source.read([len(expected)])


@pytest.mark.parametrize(("hard", "message"), [(2000, ""), (500, "may have 500: raise the limit")])
def test_more_shards_than_a_process_may_open_files_are_read_or_refused(many_shards, hard, message):
    script = f"""
import resource
from types import SimpleNamespace
from cnn_jax.data.sources import tfds
from cnn_jax.core.errors import UserError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
piece = SimpleNamespace(filename={str(many_shards[1])!r}, skip=0, take=7, examples_in_shard=7)
try:
    source = tfds.TFDSSource([piece] * 100, num_classes=21, channels=1)
except UserError as error:
    print(error)
else:
    assert [e["label"] for e in source.read(range(693, 700))] == list(range(7, 14))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert message in result.stdout and bool(message) == bool(result.stdout)


def test_the_real_mnist_has_55000_5000_and_10000_images():
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR has no mnist")
    dataset = sources.open_dataset(get_config("mnist").data)
    sizes = {part: len(source) for part, source in dataset.parts.items()}
    assert sizes == dict(train=55_000, validation=5_000, test=10_000)
    for source in dataset.parts.values():
        last = source.read([0, len(source) - 1])[1]
        assert last["image"].shape == (28, 28, 1) and 0 <= last["label"] < 10


def test_the_first_record_may_be_the_one_that_cannot_be_read(broken):
    records = read_shard(train_shard(broken))
    rewrite_shard(train_shard(broken), [example(b"text, not a picture", 3), *records[1:]])
    fields = dict(on_error="skip", placement="stream", workers=2, mean=(0.5,), std=(0.5,))
    part = splits.Splits(mnist_config(broken, **fields), seed=0).parts["train"]
    assert len([batch for batch in part.train_batches(0, 5, 8)]) == 5 and part.skipped == {0}
