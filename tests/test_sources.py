"""Sources: what is in each part, that reading is in order, and that every mistake has a message with the way out."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from tfds_files import prepare

from cnn_jax.data import pipeline, sources
from cnn_jax.errors import UserError
from configs import datasets


def everything(source: sources.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a source."""
    examples = source.read(range(len(source)))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


# ---------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits():
    return sources.load(datasets.get_dataset("digits"))


def test_the_digits_have_the_documented_sizes(digits):
    assert {part: len(source) for part, source in digits.parts.items()} == dict(train=1258, validation=180, test=359)
    assert digits.class_names == [str(digit) for digit in range(10)]


def test_the_parts_of_the_digits_are_disjoint_and_together_complete(digits):
    bunch = load_digits()
    images, labels = (np.concatenate(arrays) for arrays in zip(*map(everything, digits.parts.values()), strict=True))
    assert images.dtype == np.uint8 and images.shape == (1797, 8, 8, 1)
    # As multisets (image, label) the parts equal scikit-learn's: so nothing is missing and nothing is there twice.
    expected = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    assert expected.min() == 0 and expected.max() == 255
    ours = sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))
    theirs = sorted((image.tobytes(), label) for image, label in zip(expected, bunch.target, strict=True))
    assert ours == theirs
    assert len({image for image, _ in theirs}) == 1797  # no duplicates among them, so the parts are disjoint


def test_every_part_of_the_digits_has_every_class(digits):
    for source in digits.parts.values():
        assert set(everything(source)[1]) == set(range(10))


def test_the_split_of_the_digits_does_not_depend_on_the_seed(digits):
    other = sources.load(datasets.get_dataset("digits"), seed=7)
    for part, source in digits.parts.items():
        for ours, theirs in zip(everything(source), everything(other.parts[part]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_wrong_number_of_classes_or_channels_is_an_error_with_both_numbers():
    config = datasets.get_dataset("digits")
    config.num_classes = 12
    with pytest.raises(UserError, match=r"num_classes is 12, but 'digits' has 10 classes"):
        sources.load(config)
    config = datasets.get_dataset("digits")
    config.channels = 3
    with pytest.raises(UserError, match=r"channels is 3, but the images of 'digits' have 1"):
        sources.load(config)


def test_shares_of_the_digits_must_add_up_and_leave_no_part_empty():
    for shares in (("70%", "10%", "30%"), ("80%", "0%", "20%"), ("99.98%", "0.01%", "0.01%")):
        config = datasets.get_dataset("digits")
        config.train, config.validation, config.test = shares
        with pytest.raises(UserError, match=r"add up to 100%|part of 'digits' is empty"):
            sources.load(config)


# ---------------------------------------------------------------- synthetic


def synthetic(**fields) -> sources.Dataset:
    seed = fields.pop("seed", 0)
    config = datasets.get_dataset("synthetic")
    config.update(dict(num_images=(20, 10, 10), image_size=(5, 7), channels=3) | fields)
    return sources.load(config, seed)


def test_a_synthetic_example_depends_on_the_seed_and_its_number_only():
    images, labels = everything(synthetic(seed=3).parts["train"])
    assert images.shape == (20, 5, 7, 3) and images.dtype == np.uint8
    assert set(labels) <= set(range(10)) and len(set(labels)) > 3
    # Neither on how many images there are, nor on what was read before.
    longer = synthetic(seed=3, num_images=(500, 1, 1)).parts["train"]
    for i in (7, 19, 0, 7):
        (example,) = longer.read([i])
        np.testing.assert_array_equal(example["image"], images[i])
        assert example["label"] == labels[i]


def test_synthetic_examples_differ_between_numbers_parts_and_seeds():
    images = [
        image.tobytes()
        for seed in range(4)
        for source in synthetic(seed=seed).parts.values()
        for image in everything(source)[0]
    ]
    assert len(set(images)) == 4 * 40


def test_synthetic_needs_three_sizes_above_zero():
    for sizes in ((10, 10), (10, 0, 10), ()):
        with pytest.raises(UserError, match="num_images"):
            synthetic(num_images=sizes)


# ---------------------------------------------------------------- concatenated


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_concatenated_parts_are_read_in_the_order_that_was_asked_for(first, second, data):
    images = np.arange(first + second, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.arange(first + second) * 10
    joined = sources.Concatenated(
        sources.ArraySource(images[:first], labels[:first]), sources.ArraySource(images[first:], labels[first:])
    )
    assert len(joined) == first + second
    indices = data.draw(st.lists(st.integers(0, first + second - 1), max_size=12))  # any order, repeats too
    examples = joined.read(indices)
    assert [e["image"].item() for e in examples] == indices
    assert [e["label"] for e in examples] == [10 * i for i in indices]


# ---------------------------------------------------------------- TFDS


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
    config = datasets.get_dataset("mnist")
    config.update(dict(dir=str(data_dir), train="train[:80%]", validation="train[80%:]") | fields)
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_mnist(tmp_path_factory.mktemp("tfds"))


def test_a_prepared_data_set_is_read_as_its_split_slices_say(prepared):
    dataset = sources.load(mnist_config(prepared))
    assert {part: len(source) for part, source in dataset.parts.items()} == dict(train=40, validation=10, test=20)
    assert dataset.class_names == [str(digit) for digit in range(10)]
    for part, numbers in dict(train=range(40), validation=range(40, 50), test=range(20)).items():
        images, labels = everything(dataset.parts[part])
        assert images.dtype == np.uint8 and images.shape == (len(numbers), 28, 28, 1)
        np.testing.assert_array_equal(images, np.broadcast_to(np.reshape(numbers, (-1, 1, 1, 1)), images.shape))
        np.testing.assert_array_equal(labels, [i % 10 for i in numbers])


def test_a_prepared_data_set_is_read_in_the_order_that_was_asked_for(prepared):
    source = sources.load(mnist_config(prepared)).parts["validation"]
    indices = np.array([3, 9, 0, 3])  # NumPy's integers, as the pipeline has them
    assert [e["image"][0, 0, 0] for e in source.read(indices)] == [43, 49, 40, 43]


def test_the_folder_of_data_sets_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(sources.load(mnist_config("")).parts["test"]) == 20


def test_a_prepared_data_set_is_the_same_resident_and_streamed(prepared):
    resident = pipeline.Data(mnist_config(prepared, image_size=(14, 14)), seed=0).parts["train"]
    fields = dict(image_size=(14, 14), placement="stream", workers=2)
    stream = pipeline.Data(mnist_config(prepared, **fields), seed=0).parts["train"]
    for ours, theirs in zip(resident.train_batches(0, 3, 8), stream.train_batches(0, 3, 8), strict=True):
        for name in ("image", "label"):
            np.testing.assert_array_equal(resident.resident[name][ours["index"]], theirs[name])


def test_a_data_set_that_is_not_there_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError) as error:
        sources.load(mnist_config(tmp_path))
    message = str(error.value)
    assert str(tmp_path / "mnist") in message and "TFDS_DATA_DIR" in message and "--config.data.dir" in message
    # The command prepares this data set in this folder in the format that is read.
    command = message[message.index("python -c") :]
    for needed in ("tfds.builder('mnist'", f"data_dir={str(tmp_path)!r}", "array_record", "download_and_prepare()"):
        assert needed in command
    compile(command.split('"')[1], "command", "exec")  # the quotes are in order


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
def test_what_a_prepared_data_set_does_not_have_is_an_error_that_names_the_field(prepared, fields, message):
    with pytest.raises(UserError, match=message):
        sources.load(mnist_config(prepared, **fields))


@pytest.mark.parametrize(
    ("train", "validation", "shared"),
    [("train", "train[80%:]", True), ("train[:41]", "train[40:]", True), ("train[:-10]", "train[-10:]", False)],
)
def test_parts_that_share_examples_are_refused(prepared, train, validation, shared):
    config = mnist_config(prepared, train=train, validation=validation)
    if shared:
        with pytest.raises(UserError, match="share examples: the parts must be disjoint"):
            sources.load(config)
    else:
        assert len(sources.load(config).parts["train"]) == 40


def test_a_data_set_that_was_prepared_as_tfrecord_is_refused(prepared, tmp_path):
    data_dir = shutil.copytree(prepared, tmp_path / "data")
    edit(data_dir, "dataset_info.json", '"array_record"', '"tfrecord"')
    with pytest.raises(UserError, match=r"prepared as 'tfrecord'.*file_format='array_record'"):
        sources.load(mnist_config(data_dir))


def test_a_data_set_without_labels_is_refused(prepared, tmp_path):
    data_dir = shutil.copytree(prepared, tmp_path / "data")
    edit(data_dir, "features.json", '"label"', '"species"')
    with pytest.raises(UserError, match=r"features \['image', 'species'\], but an image and a label are needed"):
        sources.load(mnist_config(data_dir))


def test_a_label_out_of_range_names_the_data_set_the_example_and_the_label(tmp_path):
    data_dir = prepare_mnist(tmp_path, train=20, test=5, num_classes=20)
    edit(data_dir, "features.json", '"20"', '"10"')  # now labels 10 .. 19 are outside
    source = sources.load(mnist_config(data_dir, train="train[:15]", validation="train[15:]")).parts["train"]
    assert [e["label"] for e in source.read(range(10))] == list(range(10))
    with pytest.raises(UserError, match=r"'mnist': example 12 has label 12, outside 0\.\.9"):
        source.read([3, 12])


def test_the_real_mnist_has_55000_5000_and_10000_images():
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR has no mnist")
    dataset = sources.load(datasets.get_dataset("mnist"))
    sizes = {part: len(source) for part, source in dataset.parts.items()}
    assert sizes == dict(train=55_000, validation=5_000, test=10_000)
    for source in dataset.parts.values():
        last = source.read([0, len(source) - 1])[1]
        assert last["image"].shape == (28, 28, 1) and 0 <= last["label"] < 10
