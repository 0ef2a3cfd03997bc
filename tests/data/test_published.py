"""Published sizes of data sets, and the parts that recipes make of them, without any data."""

import numpy as np
import pytest

from cnn_jax.config import recipes
from cnn_jax.config.datasets import DATASETS
from cnn_jax.core.errors import NotPreparedError, UserError
from cnn_jax.data import sources
from cnn_jax.data.sources import published
from cnn_jax.data.splits import Splits


def data(dataset, **changes):
    config = recipes.get_config("resnet20", dataset)
    config.data.update(changes)
    return config.data


def sizes(config):
    return {part: len(source) for part, source in published.open_sizes(config).parts.items()}


def test_every_tfds_data_set_of_the_table_has_sizes():
    assert {name for name, row in DATASETS.items() if row.get("source", "tfds") == "tfds"} <= set(published.SIZES)


def test_parts_are_cut_as_the_configuration_says():
    assert sizes(data("imagenet2012")) == {"train": 1268355, "validation": 12812, "test": 50000}
    assert sizes(data("cifar10")) == {"train": 45000, "validation": 5000, "test": 10000}
    assert sizes(data("oxford_flowers102")) == {"train": 1020, "validation": 1020, "test": 6149}


def test_shares_are_rounded_as_tfds_does():
    import tensorflow_datasets as tfds

    infos = {name: tfds.core.SplitInfo(name, [n], 0) for name, n in published.SIZES["svhn_cropped"].splits.items()}
    config = data("svhn_cropped", train="train[:77%]+extra[:33%]", validation="train[77%:]")
    for part in ("train", "validation", "test"):
        pieces = tfds.core.ReadInstruction.from_spec(config[part]).to_absolute(infos)
        ends = [infos[piece.splitname].num_examples if piece.to is None else piece.to for piece in pieces]
        assert sizes(config)[part] == sum(end - (piece.from_ or 0) for piece, end in zip(pieces, ends, strict=True))


def test_bundled_data_are_counted():
    assert sizes(data("digits")) == {"train": 1258, "validation": 180, "test": 359}


def test_nothing_can_be_read():
    for dataset in ("cifar10", "digits"):
        found = published.open_sizes(data(dataset))
        assert found.sizes_only
        with pytest.raises(UserError, match="cannot be read: only its sizes are known"):
            found.parts["train"].read([0])


def test_chosen_classes_count_as_equally_large():
    config = data("cifar10", classes=("cat", "dog"), images_per_class=100)
    assert sizes(config) == {"train": 200, "validation": 1000, "test": 2000}
    assert published.open_sizes(config).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(validation="train[40000:]"), "share examples"),
        (dict(test="tests"), "did you mean 'test'"),
        (dict(train="train[:x]"), "config.data.train is 'train"),
        (dict(channels=1), "config.data.channels is 1, but the images of 'cifar10' have 3"),
        (dict(num_classes=7), "config.data.num_classes is 7, but 'cifar10' has 10 classes"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        published.open_sizes(data("cifar10", **changes))


@pytest.mark.parametrize(("normalize", "shape"), [("pixel", (32, 32, 3)), ("channel", (3,)), ("none", (1,))])
def test_normalization_has_the_shape_of_what_is_measured(normalize, shape):
    config = data("cifar10", normalize=normalize, mean=(), std=())
    found = Splits(config, 0, open_dataset=published.open_sizes).normalization
    assert found["mean"].shape == shape and found["mean"].dtype == found["std"].dtype == np.float32


def test_sizes_replace_data_that_are_not_prepared(tmp_path):
    config = data("cifar10", dir=str(tmp_path))
    with pytest.raises(NotPreparedError):
        sources.open_dataset(config)
    found = published.open_or_sizes(config)
    assert found.description.startswith("not prepared here (cnn_jax data prepare cifar10")
    assert "Krizhevsky" in found.description and len(found.parts["train"]) == 45000
    with pytest.raises(NotPreparedError):  # no published sizes
        published.open_or_sizes(data("cifar10", dir=str(tmp_path), name="kmnist"))
    assert not published.open_or_sizes(data("digits")).sizes_only
