"""Sources: what is in each part, that reading is in order, and that every mistake has a message with the way out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources


def everything(source: dataset.Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images and labels of a source."""
    examples = source.read(range(len(source)))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


# ---------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits():
    return sources.open_dataset(get_config("digits").data)


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
    other = sources.open_dataset(get_config("digits").data, seed=7)
    for part, source in digits.parts.items():
        for ours, theirs in zip(everything(source), everything(other.parts[part]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_wrong_number_of_classes_or_channels_is_an_error():
    config = get_config("digits").data
    config.num_classes = 12
    with pytest.raises(UserError, match=r"num_classes is 12, but 'digits' has 10 classes"):
        sources.open_dataset(config)
    config = get_config("digits").data
    config.channels = 2
    with pytest.raises(UserError, match=r"channels is 2, but the images of 'digits' have 1"):
        sources.open_dataset(config)


def test_digits_are_gray_in_three_channels_for_color_networks(digits):
    config = get_config("digits").data
    config.channels = 3
    for part, source in sources.open_dataset(config).parts.items():
        np.testing.assert_array_equal(everything(source)[0], everything(digits.parts[part])[0].repeat(3, -1))


def test_shares_of_the_digits_must_add_up_and_leave_no_part_empty():
    for shares in (("70%", "10%", "30%"), ("80%", "0%", "20%"), ("99.98%", "0.01%", "0.01%")):
        config = get_config("digits").data
        config.train, config.validation, config.test = shares
        with pytest.raises(UserError, match=r"add up to 100%|part of 'digits' is empty"):
            sources.open_dataset(config)


# ---------------------------------------------------------------- synthetic


def synthetic(**fields) -> dataset.Dataset:
    seed = fields.pop("seed", 0)
    config = get_config("synthetic").data
    config.update(dict(num_images=(20, 10, 10), image_size=(5, 7), channels=3) | fields)
    return sources.open_dataset(config, seed)


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


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_concatenated_parts_are_read_in_the_requested_order(first, second, data):
    images = np.arange(first + second, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.arange(first + second) * 10
    joined = dataset.Concatenated(
        dataset.ArraySource(images[:first], labels[:first]), dataset.ArraySource(images[first:], labels[first:])
    )
    assert len(joined) == first + second
    indices = data.draw(st.lists(st.integers(0, first + second - 1), max_size=12))  # any order, repeats too
    examples = joined.read(indices)
    assert [e["image"].item() for e in examples] == indices
    assert [e["label"] for e in examples] == [10 * i for i in indices]


# ---------------------------------------------------------------- some of the classes, some of the examples


def subset(seed=0, **fields):
    config = get_config("digits").data
    config.update(fields)
    return sources.open_dataset(config, seed)


def test_classes_are_chosen_by_name_and_counted_anew():
    whole, some = subset(), subset(classes=("7", "1"))
    assert some.class_names == ["7", "1"]
    for part, source in some.parts.items():
        images, labels = everything(whole.parts[part])
        kept = np.isin(labels, (1, 7))
        found, found_labels = everything(source)
        np.testing.assert_array_equal(found, images[kept])
        np.testing.assert_array_equal(found_labels, np.where(labels[kept] == 7, 0, 1))


def test_the_seed_draws_the_training_examples_of_each_class():
    first, again, other = (everything(subset(seed, images_per_class=5).parts["train"]) for seed in (0, 0, 1))
    assert np.bincount(first[1]).tolist() == [5] * 10
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert len(subset(images_per_class=5).parts["test"]) == 359
    more = everything(subset(0, images_per_class=6).parts["train"])[0]
    assert {image.tobytes() for image in first[0]} < {image.tobytes() for image in more}  # nested, for learning curves


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(classes=("1", "seven")), "is 'seven', but must be one of 0, 1"),
        (dict(classes=("1",)), "at least two classes"),
        (dict(classes=("1", "1")), "none of them twice"),
        (dict(images_per_class=500), r"is 500, but class '\d' has 1\d\d in the train part"),
    ],
)
def test_missing_classes_and_examples_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        subset(**fields)
