"""The command that prepares data sets, as a user runs it, without a network."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import tfds_files
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.data import prepare as prepare_data
from cnn_jax.data import sources
from cnn_jax.data.prepared import parse, read_info
from tfds_files import as_tfrecord, example, flip_a_byte, read_shard, rewrite_shard


def picture(_split: str, i: int) -> np.ndarray:
    return np.full((28, 28, 1), i, np.uint8)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    sizes = dict(splits=dict(train=30, test=9), shape=(28, 28, 1), num_classes=10)
    return tfds_files.prepare(tmp_path_factory.mktemp("original"), "mnist", "3.0.1", picture, **sizes)


@pytest.fixture
def data_dir(original, tmp_path):
    """A copy of a small prepared "mnist", to be damaged."""
    return shutil.copytree(original, tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one data set, such as cifar10"),
        (("mnist", "cifar10"), "the first word is 'mnist', but must be one of prepare, check"),
        (("prepare", "mnist", "cifar10"), "name one data set"),
        (("chek", "mnist"), "did you mean 'check'?"),
        (("mnits",), "no data set is called 'mnits'; did you mean 'mnist'?"),
        (("digits",), "'digits' is not a data set of TFDS, and needs no preparing"),
        (("mnist", "--check", "--from-tfrecord"), "are two commands: give one"),
        (("mnist", "--to=here"), "--to goes with --from-tfrecord"),
        (("mnist", "--chek"), "there is no flag --chek; did you mean '--check'?"),
        (("mnist", "--check"), "data set 'mnist' is not prepared"),
        (("mnist", "--from-tfrecord"), "data set 'mnist' is not prepared"),
    ],
)
def test_mistake_gets_one_message(refused, tmp_path, arguments, message):
    assert message in refused("prepare_data", *arguments, f"--dir={tmp_path / 'data'}")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [("mnist",), ("prepare", "mnist")])
def test_prepared_data_set_is_described_and_left_alone(call, data_dir, words):
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    printed = call("prepare_data", *words, f"--dir={data_dir}").out
    assert printed.replace("\n", "") == f"mnist/3.0.1: 30 train, 9 test; 10 classes; in {data_dir}/mnist/3.0.1"
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


def test_tfrecord_is_named_converted_and_read(call, refused, data_dir, tmp_path):
    as_tfrecord(data_dir / "mnist/3.0.1")
    plain = refused("prepare_data", "mnist", f"--dir={data_dir}")
    assert f"data prepare mnist --dir={data_dir} --from-tfrecord" in plain
    for options, result_dir in (((f"--to={tmp_path / 'to'}",), tmp_path / "to"), ((), data_dir), ((), data_dir)):
        printed = call("prepare_data", "mnist", f"--dir={data_dir}", "--from-tfrecord", *options)
        assert printed.err == ""
        config = get_config("mnist").data
        config.update(dict(dir=str(result_dir), train="train[:80%]", validation="train[80%:]"))
        test = sources.open_dataset(config).parts["test"].read(range(9))
        assert [(np.asarray(e["image"]).mean(), e["label"]) for e in test] == [(i, i) for i in range(9)]
    assert "has array_record already" in printed.out
    for words in (("mnist", "--check"), ("check", "mnist")):
        printed = call("prepare_data", *words, f"--dir={data_dir}")
        assert "all 39 records can be read and decoded" in printed.out


def test_folder_that_cannot_be_written_is_a_storage_error(call, data_dir, tmp_path):
    as_tfrecord(data_dir / "mnist/3.0.1")
    (tmp_path / "file").write_text("")
    words = ("mnist", f"--dir={data_dir}", "--from-tfrecord", f"--to={tmp_path / 'file'}")
    error = call("prepare_data", *words, code=74).err
    assert error.startswith("error: ") and str(tmp_path / "file") in error and "Traceback" not in error


# ---------------------------------------------------------------- check


def test_check_names_everything_that_is_wrong_by_file(refused, data_dir):
    folder = data_dir / "mnist/3.0.1"
    train, test = (folder / f"mnist-{split}.array_record-00000-of-00001" for split in ("train", "test"))
    records = read_shard(train)
    rewrite_shard(train, [*records[:3], example(b"text", 1), b"\xff", *records[5:]])
    flip_a_byte(train, records[20])
    shutil.move(test, folder / "elsewhere")
    lines = refused("prepare_data", "mnist", f"--dir={data_dir}", "--check").splitlines()
    assert lines[0] == f"error: {folder} is not whole:"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        *(f"{train}, record {i}" for i in (3, 4, 20)),
        f"{test} is missing",
    ]


@pytest.mark.parametrize(("labels", "code"), [([12], 2), ([-1], 2), ([-1] * 9, 0)])
def test_check_finds_invalid_labels_and_splits_without_labels(call, data_dir, labels, code):
    file = data_dir / "mnist/3.0.1/mnist-test.array_record-00000-of-00001"
    records = read_shard(file)
    png, _ = parse(records[0], "")
    rewrite_shard(file, [*(example(png, label) for label in labels), *records[len(labels) :]])
    printed = call("prepare_data", "mnist", f"--dir={data_dir}", "--check", code=code)
    if labels == [12]:
        assert f"{file}, record 0: its label is 12, but must be in 0..9" in printed.err
    elif code:
        assert "1 of 9 records of 'test' have no label" in printed.err
    else:
        assert "the split 'test' has no labels: training cannot use it" in printed.out


def test_check_lists_only_the_first_errors(refused, data_dir):
    file = data_dir / "mnist/3.0.1/mnist-train.array_record-00000-of-00001"
    rewrite_shard(file, [b"\xff"] * 30)
    lines = refused("prepare_data", "mnist", f"--dir={data_dir}", "--check").splitlines()
    assert len(lines) == 1 + prepare_data.MOST_LINES + 1 and lines[-1] == "  and 10 more"


def test_the_test_part_of_the_real_mnist_is_complete():
    folder = Path(os.environ.get("TFDS_DATA_DIR", "")) / "mnist/3.0.1"
    if not folder.is_dir():
        pytest.skip("TFDS_DATA_DIR has no mnist")
    told: list[int] = []
    (file,) = folder.glob("mnist-test.array_record*")
    assert prepare_data.check_shard(file, 10_000, read_info(folder).features, told.append) == ([], 0)
    assert sum(told) == 10_000


# ---------------------------------------------------------------- download


def test_imagenets_manual_step_is_explained_with_what_is_wrong(refused, tmp_path):
    error = refused("prepare_data", "imagenet2012", f"--dir={tmp_path}")
    assert not list(tmp_path.iterdir())
    manual = tmp_path / "downloads/manual"
    for told in (
        "ILSVRC2012_img_train.tar, 147,897,477,120 bytes",
        "ILSVRC2012_img_val.tar, 6,744,924,160 bytes",
        f"into {manual}",
        "155 GB",
        f"{manual / 'ILSVRC2012_img_train.tar'} is not there",
        f"{manual / 'ILSVRC2012_img_val.tar'} is not there",
        "--from-tfrecord",
    ):
        assert told in error
    manual.mkdir(parents=True)
    with (manual / "ILSVRC2012_img_train.tar").open("wb") as file:
        file.truncate(147_897_477_120)  # takes no room
    (manual / "ILSVRC2012_img_val.tar").write_bytes(b"half")
    with pytest.raises(UserError) as error:
        prepare_data.check_manual("imagenet2012", manual)
    wrong = str(error.value).split("What is wrong:\n")[1]
    assert f"{manual / 'ILSVRC2012_img_val.tar'} has 4 bytes: it is cut off" in wrong and "train.tar" not in wrong
    with (manual / "ILSVRC2012_img_val.tar").open("wb") as file:
        file.truncate(6_744_924_160)
    prepare_data.check_manual("imagenet2012", manual)


def test_room_for_imagenet_is_checked_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_data, "check_manual", lambda name, folder: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9}))
    with pytest.raises(StorageError, match="has 1 GB free, but 155 GB are needed"):
        prepare_data.prepare("imagenet2012", tmp_path, Console())


def test_preparing_names_the_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs tensorflow and importlib_resources, once; .*\n  pip install 'cnn-jax\[prep"
    ):
        prepare_data.check_installed()


@pytest.fixture
def registered(monkeypatch, tmp_path):
    """A data set of TFDS that needs no TensorFlow and no network."""
    import tensorflow_datasets as tfds

    def generate(self):
        for i in range(12):
            path = tmp_path / f"{i}.png"
            Image.fromarray(np.full((28, 28), i, np.uint8)).save(path)
            if self.fails and i == 7:
                raise ConnectionError("no route to host")
            yield i, {"image": str(path), "label": i % 10}

    class Handmade(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "handmade"
        fails = False

        def _info(self):
            image = tfds.features.Image(shape=(28, 28, 1), encoding_format="png")
            features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=10)})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        _generate_examples = generate

    monkeypatch.setattr(tfds, "builder", lambda name, **options: Handmade(**options))
    monkeypatch.setattr(prepare_data, "check_installed", lambda: None)
    return Handmade


def test_what_is_prepared_can_be_read(registered, tmp_path):
    prepare_data.prepare("handmade", tmp_path / "data", Console())
    config = get_config("handmade").data
    config.update(dict(dir=str(tmp_path / "data"), channels=1, mean=(), std=()))
    dataset = sources.open_dataset(config)
    assert [e["label"] for e in dataset.parts["test"].read(range(12))] == [i % 10 for i in range(12)]


def test_an_error_of_tfds_is_one_message_and_leaves_no_data_set(registered, tmp_path):
    registered.fails = True
    with pytest.raises(UserError, match="handmade could not be prepared: ConnectionError: no route to host"):
        prepare_data.prepare("handmade", tmp_path / "data", Console())
    config = get_config("handmade").data
    config.dir = str(tmp_path / "data")
    with pytest.raises(UserError, match="'handmade' is not prepared"):
        sources.open_dataset(config)
    registered.fails = False
    prepare_data.prepare("handmade", tmp_path / "data", Console())  # the same command again
    config.update(dict(channels=1, mean=(), std=()))
    assert len(sources.open_dataset(config).parts["test"]) == 12


# ---------------------------------------------------------------- folders of pictures


def save(file, *, value=0, size=(8, 9)):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(image).save(file)


@pytest.fixture
def photos(tmp_path):
    """Two parts of two classes, without a fault."""
    for i, name in enumerate(("train/ants/1", "train/ants/2", "train/bees/1", "val/ants/3", "val/bees/1")):
        save(tmp_path / f"photos/{name}.png", value=i, size=(8 + i, 9))
    return tmp_path / "photos"


def test_complete_folder_is_described(call, photos):
    printed = call("prepare_data", "check", photos)
    lines = [line.split() for line in printed.out.splitlines()]
    assert "5 pictures" in printed.out and ["train", "ants", "2", "8x9", "9x9"] in lines
    assert ["val", "bees", "1", "12x9", "12x9"] in lines and printed.err == ""
    assert "note: names in more than one part: 1, such as bees/1.png" in printed.out


def test_folder_without_parts_has_classes_at_its_top(call, photos):
    assert ["all", "ants"] in [
        line.split()[:2] for line in call("prepare_data", "check", photos / "train").out.splitlines()
    ]


def test_everything_wrong_in_a_folder_is_named(call, photos):
    (photos / "train/bees/cut.png").write_bytes((photos / "train/bees/1.png").read_bytes()[:60])
    (photos / "train/bees/list.txt").write_text("")
    shutil.copy(photos / "train/ants/1.png", photos / "val/ants/again.png")
    shutil.copy(photos / "train/ants/1.png", photos / "train/ants/copy.png")
    printed = call("prepare_data", "check", photos, code=2)
    assert "train/bees/cut.png: it cannot be read" in printed.err
    assert "train/ants/1.png and train/ants/copy.png and val/ants/again.png are the same picture" in printed.err
    assert "files of other kinds, which are not used: 1" in printed.out


def test_faulty_class_folders_are_named(call, photos):
    save(photos / "val/wasps/1.png")
    printed = call("prepare_data", "check", photos, code=2)
    assert "is of no class of the train part" in printed.err
    shutil.rmtree(photos / "val/wasps")
    (photos / "train/wasps").mkdir()
    assert "train/wasps has no images" in call("prepare_data", "check", photos, code=2).err
