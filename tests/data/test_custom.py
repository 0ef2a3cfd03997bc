"""Data of the user's own: arrays, lists, data sets of torch and grain, from a function or from a call in Python."""

import json

import numpy as np
import pytest
from PIL import Image

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, splits
from cnn_jax.data.sources import custom

PARTS = ("train", "validation", "test")


def make_config(**fields):
    config = get_config("given").data
    config.update(dict(channels=1) | fields)
    return config


def open_parts(opened, needed=("train", "test"), **fields):
    return custom.open_given(opened, needed, make_config(**fields), 0)


def arrays(count, classes=3, seed=0):
    """Returns images uint8 [count, 5, 4, 1], whose first pixel is their number, and labels."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 5, 4, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images, np.arange(count) % classes


class Examples:
    """A data set of torch or grain: `__len__`, `__getitem__`, and nothing else."""

    def __init__(self, images, labels, form=lambda image, label: (image, label)):
        self.images, self.labels, self.form = images, labels, form

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.form(self.images[index], self.labels[index])


FORMS = {
    "arrays": None,
    "grey arrays": lambda image, label: (image[..., 0], label),
    "pairs": lambda image, label: [image, np.int64(label)],
    "mappings": lambda image, label: {"image": image, "label": label, "id": 7},
    "grey pictures": lambda image, label: (Image.fromarray(image[..., 0]), label),
    "color pictures": lambda image, label: (Image.fromarray(image.repeat(3, -1)), label),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_example_is_the_same_image(form):
    images, labels = arrays(12)
    part = (images, labels) if FORMS[form] is None else Examples(images, labels, FORMS[form])
    found = open_parts({"train": part, "validation": part, "test": part}, num_classes=3)
    assert found.class_names == ["0", "1", "2"]
    for source in found.parts.values():
        examples = source.read([3, 11])
        np.testing.assert_array_equal([example["image"] for example in examples], images[[3, 11]])
        assert [example["label"] for example in examples] == [0, 2]


def test_data_sets_of_torch_are_read():
    data = pytest.importorskip("torch.utils.data")
    torch = pytest.importorskip("torch")
    images, labels = arrays(6)
    part = data.TensorDataset(torch.tensor(images), torch.tensor(labels))
    (example,) = open_parts({"train": part, "test": part}, num_classes=3).parts["test"].read([4])
    np.testing.assert_array_equal(example["image"], images[4])
    assert example["label"] == 1
    pair = (torch.tensor(images), torch.tensor(labels))
    (example,) = open_parts({"train": pair, "test": pair}).parts["test"].read([4])
    np.testing.assert_array_equal(example["image"], images[4])


@pytest.mark.parametrize("wrap", [lambda *pair: pair, Examples])
def test_without_validation_a_tenth_of_train_is_it(wrap):
    found = open_parts({"train": wrap(*arrays(40)), "test": wrap(*arrays(7, seed=1))}, num_classes=3)
    assert {part: len(source) for part, source in found.parts.items()} == dict(train=36, validation=4, test=7)
    numbers = [
        int(example["image"][0, 0, 0])
        for part in ("train", "validation")
        for example in found.parts[part].read(range(len(found.parts[part])))
    ]
    assert sorted(numbers) == list(range(40)) and numbers[36:] != list(range(36, 40))
    assert "train: train[:90%], validation: train[90%:]" in found.description


def test_classes_are_named_by_the_mapping_or_the_train_part():
    part = Examples(*arrays(10))
    part.classes = ["a", "b", "c"]
    assert open_parts({"train": part, "test": part}).class_names == ["a", "b", "c"]
    assert open_parts({"train": part, "test": part, "classes": "xyz"}).class_names == ["x", "y", "z"]
    assert open_parts({"train": arrays(10), "test": arrays(20, 7)}).class_names == [str(i) for i in range(7)]


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        ([1, 2], "data must be a mapping with train, test"),
        ({"train": arrays(4)}, "data must be a mapping with train, test"),
        ({"train": arrays(4), "test": iter([1])}, "data has a list_iterator as its test, but that must have __len__"),
        ({"train": Examples(*arrays(4)), "test": arrays(4)}, "does not name its classes: give them as its entry"),
        ({"train": (arrays(4)[0] / 255, arrays(4)[1]), "test": arrays(4)}, r"train of data has images float64 \[4, 5"),
        ({"train": (arrays(40)[0], arrays(41)[1]), "test": arrays(4)}, "train of data has 40 images and labels int64"),
        ({"train": (arrays(9)[0], arrays(9)[1] - 1), "test": arrays(4)}, "labels from -1 to 1, but they must be from"),
        ({"train": arrays(9), "test": arrays(4, 4), "classes": "abc"}, "test of data has labels from 0 to 3"),
    ],
)
def test_what_is_no_data_set_is_one_message(opened, message):
    with pytest.raises(UserError, match=message):
        open_parts(opened)


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("wrap", [lambda *pair: pair, Examples])
def test_the_digest_is_that_of_images_and_labels(wrap):
    def digest(change):
        images, labels = (array.copy() for array in arrays(20))
        change(images, labels)
        return open_parts({"train": wrap(images, labels), "test": wrap(*arrays(4))}, num_classes=3).digest()

    same = digest(lambda images, labels: None)
    assert len(same) == 64 and digest(lambda images, labels: None) == same
    assert digest(lambda images, labels: images.__setitem__((9, 1, 1, 0), images[9, 1, 1, 0] ^ 1)) != same
    assert digest(lambda images, labels: labels.__setitem__(9, (labels[9] + 1) % 3)) != same


def test_examples_that_change_have_no_digest():
    random = np.random.default_rng(0)
    part = Examples(*arrays(5), lambda image, label: (random.integers(0, 256, image.shape, np.uint8), label))
    assert open_parts({"train": part, "test": part}, num_classes=3).digest() == ""


def test_of_many_examples_some_are_compared():
    read = []
    count = 20 * custom.MOST_READ
    part = Examples(range(count), range(count), lambda i, _: (read.append(i), (np.zeros((2, 2), np.uint8), 0))[1])
    found = open_parts({"train": part, "validation": part, "test": part}, num_classes=1)
    assert found.digest() and len(set(read)) == custom.MOST_READ and max(read) == count - 1


# ---------------------------------------------------------------- from Python


def digits():
    """Returns the bundled digits as a user has them: arrays of 8x8."""
    parts = splits.Splits(recipes.get_config("lenet5").data, 0).parts
    return {
        part: (np.stack([example["image"] for example in split.source.read(range(len(split)))]), labels)
        for part, split in parts.items()
        if len(labels := dataset.labels_of(split.source))
    }


def test_a_run_on_arrays_equals_the_run_on_the_same_data(tmp_path, small_config, console):
    ours = digits()
    with small_config.unlocked():
        small_config.update({"duration": "6 steps"})
        given = small_config.copy_and_resolve_references()
        given.data.update(dict(name="given", source="given", num_classes=0))
    first = cnn_jax.train(small_config, tmp_path / "named", console=console)
    second = cnn_jax.train(given, tmp_path / "given", data=ours, console=console)
    assert second["test"]["loss"] == first["test"]["loss"]
    again = cnn_jax.train(given, tmp_path / "given", data=ours, console=console)
    assert again["test"]["loss"] == first["test"]["loss"]
    scored = cnn_jax.score(tmp_path / "given", {"test": ours["test"]})
    np.testing.assert_allclose(scored["loss"], first["test"]["loss"], rtol=1e-5)
    assert len(json.loads((tmp_path / "given" / "data.json").read_text())["digest"]) == 64
    other = ours | {"train": (ours["train"][0] ^ 1, ours["train"][1])}
    with pytest.raises(UserError, match=r"holds a run on other data:\n.*digest"):
        cnn_jax.train(given, tmp_path / "given", data=other, console=console)
    with pytest.raises(UserError, match=r"an argument of cnn_jax\.train\(\.\.\., data=\.\.\.\): call it in Python"):
        cnn_jax.train(given, tmp_path / "given", console=console)


def test_a_recipe_by_name_takes_the_channels_of_the_images(tmp_path, console):
    images, labels = arrays(200)
    shown = dict(train=Examples(images, labels, FORMS["grey pictures"]), test=(images, labels), classes="abc")
    cnn_jax.train("resnet20", tmp_path, data=shown, dry_run=True, console=console)
    assert "32x32x1" in console.file.getvalue() and "data given in Python" in console.file.getvalue()
    with pytest.raises(UserError, match=r"data are given, but config\.data\.source is 'digits': make"):
        cnn_jax.train("resnet20:digits", tmp_path, data=shown, dry_run=True, console=console)
