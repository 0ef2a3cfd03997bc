"""Drawn data: the same on every machine, disjoint between parts, balanced, and with the documented properties."""

import hashlib
import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from cnn_jax.config import recipes
from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources, splits
from cnn_jax.data.dataset import VARIATIONS
from cnn_jax.training.config_check import check_config
from lecture_images import X

NAMES = ("xo", "sequences", "moving_digits")
CONFIGS = {"xo": "toy", "sequences": "conv1d", "moving_digits": "c3d"}
every_data_set = pytest.mark.parametrize("name", NAMES)


def load(name: str, *, seed: int = 0, exact: bool = False, **fields) -> dataset.Dataset:
    """Opens small parts; `exact` turns off all variation that can be turned off."""
    config = get_config(name).data
    if exact:
        config.update({field: 0.0 for field in VARIATIONS[name]})
    config.update(dict(num_images=(160, 80, 80)) | fields)
    return sources.open_dataset(config, seed)


def everything(source: dataset.Source) -> tuple[np.ndarray, np.ndarray]:
    examples = source.read(range(len(source)))
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


# ---------------------------------------------------------------- all


@pytest.mark.parametrize(
    ("name", "shape", "checksum"),
    [
        ("xo", (9, 9, 1), "a56de7a110d06a9f"),
        ("sequences", (128, 1), "346b568281bea098"),
        ("moving_digits", (16, 16, 16, 1), "b83f5fbf76ae28db"),
    ],
)
def test_examples_do_not_depend_on_machine_or_seed(name, shape, checksum):
    images, labels = everything(load(name).parts["train"])
    assert images.shape == (160, *shape) and images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()[:16] == checksum
    other = load(name, seed=7, num_images=(1000, 1, 1)).parts["train"]  # nor on the number of examples
    for i in (159, 3, 0, 3):
        (example,) = other.read([i])
        np.testing.assert_array_equal(example["image"], images[i])
        assert example["label"] == labels[i]


@every_data_set
def test_parts_share_no_example_and_have_every_class_equally_often(name):
    dataset = load(name)
    images = []
    for source in dataset.parts.values():
        pictures, labels = everything(source)
        images += [picture.tobytes() for picture in pictures]
        counts = np.bincount(labels, minlength=len(dataset.class_names))
        assert len(counts) == len(dataset.class_names) and set(counts) == {len(source) // len(counts)}
    assert len(set(images)) == 320


@every_data_set
def test_resident_and_streamed_examples_are_the_same(name):
    config = get_config(name).data
    config.update(dict(num_images=(32, 8, 8), normalize="none", mean=(), std=(), workers=2))
    resident = splits.Splits(config, seed=0).parts["train"]
    config.placement = "stream"
    stream = splits.Splits(config, seed=0).parts["train"]
    for ours, theirs in zip(resident.train_batches(0, 3, 16), stream.train_batches(0, 3, 16), strict=True):
        for key in ("image", "label"):
            np.testing.assert_array_equal(resident.resident[key][ours["index"]], theirs[key])


@pytest.mark.parametrize(("name", "most"), [("xo", 0.8), pytest.param("sequences", 0.2, marks=pytest.mark.slow)])
def test_a_linear_model_is_not_enough(name, most):
    dataset = load(name, num_images=(500, 1, 500))
    assert 0.5 / len(dataset.class_names) < sources.linear_accuracy(dataset) < most


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("xo", {"noise": -0.1}, r"data\.noise is -0\.1, but must be finite and not negative"),
        ("xo", {"scale": 1.0}, r"data\.scale is 1\.0, but must be in \[0, 1\)"),
        ("xo", {"drift": 0.5}, r"data\.drift is 0\.5, but the source 'xo' does not vary in it"),
        ("moving_digits", {"rotation": 5.0}, r"data\.rotation is 5\.0, but the source 'moving_digits' does not vary"),
        ("sequences", {"image_size": (16, 16)}, r"image_size is \(16, 16\), but must be \(length,\)"),
        ("moving_digits", {"image_size": (16, 16)}, r"image_size is \(16, 16\), but must be \(time, height, width\)"),
        ("sequences", {"augment": ("flip",)}, r"augment is \('flip',\).*sequences are neither augmented nor cropped"),
        ("moving_digits", {"augment": ("flip",)}, r"clips are neither augmented nor cropped"),
        ("moving_digits", {"test_crop": "center"}, r"test_crop 'center', but clips"),
    ],
)
def test_impossible_fields_are_errors_of_the_configuration(name, fields, message):
    config = recipes.get_config(CONFIGS[name])
    check_config(config)
    config.data.update(fields)
    with pytest.raises(UserError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("xo", {"num_images": (10, 10)}, "num_images"),
        ("xo", {"num_classes": 3}, "num_classes is 3, but 'xo' has 2 classes"),
        ("xo", {"image_size": (4, 9)}, r"image_size is \(4, 9\), but 'xo' needs at least \(5, 5\)"),
        ("sequences", {"image_size": (31,)}, r"needs at least \(32,\)"),
        ("sequences", {"channels": 3}, "channels is 3, but the images of 'sequences' have 1"),
        ("moving_digits", {"image_size": (16, 8, 16)}, r"needs at least \(2, 16, 16\)"),
        ("moving_digits", {"num_classes": 10}, "num_classes is 10, but 'moving_digits' has 40 classes"),
        ("moving_digits", {"train": "90%"}, "add up to 100%"),
    ],
)
def test_impossible_drawings_are_errors_that_name_the_field(name, fields, message):
    with pytest.raises(UserError, match=message):
        load(name, **fields)


# ---------------------------------------------------------------- X's and O's

RING = """
.........
...###...
..#...#..
.#.....#.
.#.....#.
.#.....#.
..#...#..
...###...
.........
"""


def test_without_variation_the_images_are_those_of_the_lecture():
    source = load("xo", exact=True).parts["test"]
    for i, picture in enumerate((X, RING, X, RING)):
        expected = [[255 * (pixel == "#") for pixel in row] for row in picture.split()]
        np.testing.assert_array_equal(source.read([i])[0]["image"][..., 0], expected)
    assert load("xo").class_names == ["X", "O"]


def test_larger_images_are_the_same_drawing():
    small, large = (
        load("xo", image_size=size, noise=0.0).parts["train"].read([0, 1, 2, 3]) for size in ((9, 9), (45, 63))
    )
    for one, other in zip(small, large, strict=True):
        pixels = other["image"][:, 9:-9, 0].astype(float).reshape(9, 5, 9, 5)  # the middle square, 5x5 for each pixel
        # The middle of the 25 is the small image's pixel.
        np.testing.assert_array_equal(pixels[:, 2, :, 2], one["image"][..., 0])


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_only_the_named_variation_is_applied(degrees):
    exact = [e["image"].astype(int) for e in load("xo", exact=True).parts["train"].read(range(40))]
    for field, value in dict(noise=0.2, thickness=1.0, scale=0.5, rotation=degrees, shift=1.0).items():
        images = [
            e["image"].astype(int) for e in load("xo", exact=True, **{field: value}).parts["train"].read(range(40))
        ]
        differences = np.stack(images) - np.stack(exact)
        assert (differences != 0).any(axis=(1, 2, 3)).mean() > 0.9
        if field == "noise":  # at most a fifth of 255, cut off outside 0..255
            assert abs(differences).max() == 51
        if field == "thickness":  # ink is added only
            assert differences.min() == 0 and differences.max() == 255
        if field == "scale":  # smaller shapes leave the outermost strokes
            assert all(image[0].max() == image[:, 0].max() == 0 for image in images)
        if field == "rotation":  # the center of the X stays
            assert all(image[4, 4, 0] > 240 for image in images[::2])


def test_shifts_are_uniform_up_to_the_largest():
    images, _ = everything(
        load("xo", exact=True, shift=1.0, num_images=(600, 1, 1), image_size=(45, 45)).parts["train"]
    )
    rows, columns = np.mgrid[:45, :45]
    for axis in (rows, columns):  # the center of mass moves with the shape
        centers = (images[..., 0] * axis).sum((1, 2)) / images[..., 0].sum((1, 2)) - 22
        assert abs(centers).max() <= 5.05 and abs(centers).max() > 4.8
        np.testing.assert_allclose(np.quantile(centers, [0.25, 0.5, 0.75]), [-2.5, 0, 2.5], atol=0.5)


# ---------------------------------------------------------------- sequences


def test_a_sequence_without_noise_is_one_motif_and_zeros():
    images, labels = everything(load("sequences", exact=True, num_images=(400, 1, 1)).parts["train"])
    values = (images[..., 0] / 255 - 0.5) * 5
    silent = 0.011  # of rounding to 255 steps of 0.0196
    starts = []
    for value, label in zip(values, labels, strict=True):
        heard = np.flatnonzero(abs(value) > silent)
        assert heard[-1] - heard[0] < 32
        starts.append(heard[0])
        if label == 1:  # a square wave is at its height everywhere
            assert len(heard) == 32 and np.ptp(abs(value[heard])) < 2 * silent
        assert 0.4 < abs(value).max() < 1.01
    assert min(starts) < 5 and max(starts) > 92  # anywhere
    assert 0.4 < np.mean(values[labels == 7].sum(1) > 0) < 0.6  # arches upwards and downwards


def test_no_motif_is_another_one_mirrored_or_with_changed_sign():
    dataset = load("sequences", exact=True, num_images=(400, 1, 1))
    images, labels = everything(dataset.parts["train"])
    values = (images[..., 0] / 255 - 0.5) * 5
    motifs = []
    for label in range(10):
        value = values[labels == label][0]
        heard = np.flatnonzero(abs(value) > 0.011)
        middle = (heard[0] + heard[-1]) // 2
        motifs.append(np.roll(value, 64 - middle) / np.linalg.norm(value))
    for i, one in enumerate(motifs):
        for other in motifs[:i]:
            assert abs(np.correlate(one, other, "full")).max() < 0.97  # at any place, with any sign


def test_the_base_line_drifts_up_to_its_bound():
    fields = dict(num_images=(400, 1, 1), drift=0.8)
    images, _ = everything(load("sequences", exact=True, **fields).parts["train"])
    ends = (images[:, [0, -1], 0] / 255 - 0.5) * 5
    # slope and bend add up to at most 1.6 at an end; a motif there adds at most 1.
    assert abs(ends).max() <= 2.6 and np.quantile(abs(ends), 0.9) > 0.8


# ---------------------------------------------------------------- moving digits


def moved(clip: np.ndarray, places: tuple[int, int]) -> set[tuple[int, int]]:
    """Returns by how much the top left corner of the ink moves from frame to frame, modulo the number of `places`."""
    inked = [np.argwhere(frame).min(axis=0) for frame in clip]
    return {tuple((b - a) % places) for a, b in itertools.pairwise(inked)}


@pytest.mark.parametrize("directions", [4, 8])
def test_a_clip_moves_as_its_class_says_and_backwards_the_opposite_way(directions):
    steps = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}
    steps |= {"down right": (1, 1), "up left": (-1, -1), "down left": (1, -1), "up right": (-1, 1)}
    dataset = load("moving_digits", exact=True, num_classes=10 * directions, image_size=(7, 16, 20))
    assert len(dataset.class_names) == 10 * directions
    places = (5, 9)  # of a digit of 12x12
    images, labels = everything(dataset.parts["train"])
    for clip, label in zip(images[..., 0], labels, strict=True):
        _, direction = dataset.class_names[label].split(" ", 1)
        step = np.array(steps[direction])
        assert moved(clip, places) == {tuple(step % places)}
        assert moved(clip[::-1], places) == {tuple(-step % places)}
        (opposite,) = (name for name in steps if steps[name] == tuple(-step))
        assert opposite in list(steps)[:directions]


def test_a_frame_alone_does_not_tell_the_direction():
    images, labels = everything(load("moving_digits", exact=True, num_images=(2000, 1, 1)).parts["train"])
    for frame in (0, 9):
        corners = np.array([np.argwhere(clip[frame, ..., 0]).min(axis=0) for clip in images])
        for direction in range(4):  # 500 clips of each: the standard error of a mean place is 0.07 pixels
            mean = corners[labels % 4 == direction].mean(axis=0)
            np.testing.assert_allclose(mean, corners.mean(axis=0), atol=0.3)


@pytest.mark.parametrize("size", [(16, 16), (32, 40)])
def test_the_scans_of_a_part_are_its_own_and_show_the_digit_of_the_class(size):
    side = size[0] * 3 // 4
    owner = {}
    for part, source in sources.open_dataset(get_config("digits").data).parts.items():
        for example in source.read(range(len(source))):
            enlarged = Image.fromarray(example["image"][..., 0]).resize((side, side), Image.Resampling.BILINEAR)
            owner[np.asarray(enlarged).tobytes()] = part, str(example["label"])
    dataset = load("moving_digits", exact=True, image_size=(2, *size))
    for part, source in dataset.parts.items():
        images, labels = everything(source)
        for clip, label in zip(images, labels, strict=True):
            windows = sliding_window_view(clip[0, ..., 0], (side, side)).reshape(-1, side * side)
            found = {owner.get(window.tobytes()) for window in windows} - {None}
            assert found == {(part, dataset.class_names[label].split()[0])}
