"""Augmentation: sizes for images of any shape, the distributions of the papers, and randomness by position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from cnn_jax.config.fields import get_config
from cnn_jax.data import augment, crops


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose first channel is the column and whose second is the row, at most 256 of each."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


def box_of(result: np.ndarray) -> tuple[float, float, float, float]:
    """Measures which box (left, top, right, bottom) of a `ramp` was resized to `result`; exact to about a pixel."""
    found = []
    for channel, axis in ((0, 0), (1, 1)):
        profile = result[..., channel].astype(float).mean(axis)
        places = np.arange(len(profile)) + 0.5
        inner = slice(len(profile) // 6, -len(profile) // 6)  # filters are cut off at the borders
        slope, offset = np.polyfit(places[inner], profile[inner], 1)
        found.append((offset + 0.5, offset + 0.5 + slope * len(profile)))
    return found[0][0], found[1][0], found[0][1], found[1][1]


# ---------------------------------------------------------------- host: shapes

sides = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 3, 299, 300]))  # down to 1x300 and 300x1
sizes = st.tuples(st.integers(1, 33), st.integers(1, 33))


@given(sides, sides, st.sampled_from([1, 3]), sizes, st.integers(0, 20), st.integers(0, 1000))
def test_every_crop_has_the_requested_size(height, width, channels, size, extra, position):
    image = noise(height, width, channels)
    random = np.random.default_rng(position)
    for result in (
        crops.resize(image, size),
        crops.center_crop(image, size, max(size) + extra),
        crops.random_resized_crop(image, size, random),
        crops.random_crop(image, size, (max(size), max(size) + extra), random),
        crops.random_crop(image, size, (max(size), max(size) + extra), random, central=True),
    ):
        assert result.shape == (*size, channels)
        assert result.dtype == np.uint8
        # Interpolation never leaves the range of the values.
        assert result.min() >= image.min() and result.max() <= image.max()


def test_resizing_keeps_a_ramp_and_the_same_size_changes_nothing():
    image = noise(9, 7, 3)
    np.testing.assert_array_equal(crops.resize(image, (9, 7)), image)
    left, top, right, bottom = box_of(crops.resize(ramp(200, 240), (50, 48)))
    np.testing.assert_allclose((left, top, right, bottom), (0, 0, 240, 200), atol=0.5)


@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.data())
def test_the_center_crop_without_resizing_is_the_plain_center(shorter, extra, tall, data):
    height, width = (shorter + extra, shorter) if tall else (shorter, shorter + extra)
    size = data.draw(st.tuples(st.integers(1, shorter), st.integers(1, shorter)))
    image = np.arange(height * width, dtype=np.uint16).reshape(height, width, 1)
    image = np.concatenate([image // 256, image % 256, image * 0], axis=-1).astype(np.uint8)  # all pixels differ
    result = crops.center_crop(image, size, shorter)
    # An odd margin has two centers.
    tops, lefts = ({(n - m) // 2, (n - m + 1) // 2} for n, m in zip((height, width), size, strict=True))
    centers = [image[top : top + size[0], left : left + size[1]] for top in tops for left in lefts]
    assert any(np.array_equal(result, center) for center in centers)


def test_the_center_crop_scales_the_shorter_side_and_keeps_the_aspect():
    # 120x200 -> 60x100 -> the middle 40x40, which is 80x80 of the image.
    box = box_of(crops.center_crop(ramp(120, 200), (40, 40), 60))
    np.testing.assert_allclose(box, (60, 20, 140, 100), atol=0.6)


# ---------------------------------------------------------------- host: the random crop


@functools.cache
def random_boxes(count: int = 3000, height: int = 200, width: int = 256) -> np.ndarray:
    image, random = ramp(height, width), np.random.default_rng(1)
    return np.array([box_of(crops.random_resized_crop(image, (32, 32), random)) for _ in range(count)])


def test_random_crops_have_the_area_and_aspect_of_the_paper():
    left, top, right, bottom = random_boxes().T
    share, aspect = (right - left) * (bottom - top) / (200 * 256), (right - left) / (bottom - top)
    assert min(left.min(), top.min()) > -1 and right.max() < 257 and bottom.max() < 201
    assert 0.07 < share.min() < 0.10 and 0.90 < share.max() < 1.03
    assert 0.72 < aspect.min() < 0.80 and 1.27 < aspect.max() < 1.38
    # The distribution: area uniform in 8-100%, log aspect uniform, boxes that do not fit drawn again.
    random = np.random.default_rng(2)
    area = 200 * 256 * random.uniform(0.08, 1, 100_000)
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 100_000))
    fits = (np.sqrt(area * ratio) <= 256) & (np.sqrt(area / ratio) <= 200)
    for ours, expected in ((share, area[fits] / (200 * 256)), (np.log(aspect), np.log(ratio[fits]))):
        assert abs(ours.mean() - expected.mean()) < 4 * expected.std() / np.sqrt(len(ours))
        assert abs(ours.std() / expected.std() - 1) < 0.1


def test_random_crops_lie_anywhere():
    left, top, right, bottom = random_boxes().T
    small = (right - left < 200) & (bottom - top < 150)  # enough room to measure where it lies
    for place in (left / (256 - right + left), top / (200 - bottom + top)):
        place = place[small]
        assert len(place) > 1000
        assert abs(place.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(place))
        assert place.min() < 0.05 and place.max() > 0.95


def test_if_no_box_fits_the_largest_centered_one_is_used():
    # 8% of 3x240 are 58 pixels: a box of any allowed aspect is at least 6 high.
    result = crops.random_resized_crop(ramp(3, 240), (30, 30), np.random.default_rng(0))
    left, _, right, _ = box_of(result)
    np.testing.assert_allclose((left, right), (118, 122), atol=0.6)  # 4 wide, 3 high
    result = crops.random_resized_crop(ramp(240, 3), (30, 30), np.random.default_rng(0))
    _, top, _, bottom = box_of(result)
    np.testing.assert_allclose((top, bottom), (118, 122), atol=0.6)


class Chosen:
    """Replaces a random generator: returns the integers that a test chooses, and checks that they are possible."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, low, high=None, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        value = self.values.pop(0)
        assert endpoint and low <= value <= high, (low, value, high)
        return value


@given(st.integers(1, 60), st.integers(0, 50), st.booleans(), st.booleans(), st.data())
def test_a_random_crop_is_a_part_of_the_resized_image(shorter, extra, tall, central, data):
    height, width = (shorter + extra, shorter) if tall else (shorter, shorter + extra)
    image = noise(height, width, 3)
    side = data.draw(st.integers(1, 70))
    size = data.draw(st.tuples(st.integers(1, side), st.integers(1, side)))
    resized = [side * length // shorter for length in (height, width)]
    margins = [(length - side) // 2 if central else 0 for length in resized]
    rooms = [(side if central else length) - part for length, part in zip(resized, size, strict=True)]
    starts = [data.draw(st.integers(0, room)) for room in rooms]
    result = crops.random_crop(image, size, (side, side), Chosen(side, *starts), central=central)
    whole = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)).astype(int)
    top, left = (margin + start for margin, start in zip(margins, starts, strict=True))
    # Pillow rounds after the horizontal pass (values differ by 1 at most), and again after the vertical one.
    np.testing.assert_allclose(result, whole[top : top + size[0], left : left + size[1]], rtol=0, atol=2)


@pytest.mark.parametrize("central", [False, True])
def test_the_scale_and_the_place_of_a_random_crop_are_drawn_uniformly(central):
    image, random = ramp(120, 200), np.random.default_rng(0)
    boxes = [box_of(crops.random_crop(image, (30, 30), (40, 60), random, central=central)) for _ in range(2000)]
    left, top, right, bottom = np.transpose(boxes)
    sides = np.round(30 * 120 / ((right - left + bottom - top) / 2))  # of the resized image
    assert set(sides) == set(range(40, 61))
    assert stats.chisquare([np.sum(sides == side) for side in range(40, 61)]).pvalue > 1e-3
    low, high = (40, 160) if central else (0, 200)
    for first, room in ((top, 120 - (bottom - top)), (left - low, high - low - (right - left))):
        assert stats.kstest(first / room, "uniform").statistic < 0.06  # places are whole pixels of the small image
    assert left.min() > low - 2 and right.max() < high + 2


def crop_config(**fields):
    config = get_config("imagenet2012").data
    config.update(dict(image_size=(16, 16), test_resize=20) | fields)
    return config


@pytest.mark.parametrize("train_crop", ["random_resized", "random", "random_central"])
def test_a_random_crop_depends_on_the_seed_and_the_position_only(train_crop):
    image, config = noise(50, 60, 3), crop_config(train_crop=train_crop, train_resize=(20, 40))
    found = {
        (seed, position): crops.crop(image, config, train=True, seed=seed, position=position)
        for seed in (0, 1)
        for position in (0, 1, 70_000)
    }
    for (seed, position), result in reversed(found.items()):
        np.testing.assert_array_equal(
            crops.crop(image, config, train=True, seed=seed, position=position), result, err_msg=f"{seed} {position}"
        )
    assert len({result.tobytes() for result in found.values()}) == len(found)


def test_the_configuration_chooses_the_random_crop():
    image = noise(50, 60, 3)
    for central in (False, True):
        config = crop_config(train_crop="random_central" if central else "random", train_resize=(20, 40))
        result = crops.crop(image, config, train=True, seed=3, position=5)
        random = np.random.Generator(np.random.Philox(key=[3, 5], counter=[0, 0, 0, 1]))
        np.testing.assert_array_equal(result, crops.random_crop(image, (16, 16), (20, 40), random, central=central))


@pytest.mark.parametrize("train_crop", ["resize", "random_resized", "random", "random_central"])
def test_the_test_crop_is_not_random_and_the_configuration_chooses_it(train_crop):
    image = noise(50, 60, 3)
    for test_crop, expected in (
        ("center", crops.center_crop(image, (16, 16), 20)),
        ("resize", crops.resize(image, (16, 16))),
    ):
        config = crop_config(train_crop=train_crop, test_crop=test_crop)
        for position in (0, 1):
            result = crops.crop(image, config, train=False, seed=position, position=position)
            np.testing.assert_array_equal(result, expected)
        if train_crop == "resize":
            result = crops.crop(image, config, train=True, position=3)
            np.testing.assert_array_equal(result, crops.resize(image, (16, 16)))


# ---------------------------------------------------------------- device


@pytest.mark.parametrize(("padding", "channels"), [(1, 3), (2, 1)])
def test_padded_crops_are_uniform_over_all_windows(padding, channels):
    image = noise(4, 5, channels) | 1  # no zeros, so that all windows differ
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    steps = range(2 * padding + 1)
    windows = {padded[top : top + 4, left : left + 5].tobytes(): (top, left) for top in steps for left in steps}
    assert len(windows) == (2 * padding + 1) ** 2
    keys = jax.random.split(jax.random.key(0), 100 * len(windows))
    results = np.asarray(jax.vmap(lambda key: augment.pad_crop(key, jnp.asarray(image), padding))(keys))
    assert results.dtype == np.uint8
    counts = dict.fromkeys(windows.values(), 0)
    for result in results:
        counts[windows[result.tobytes()]] += 1  # a KeyError: not a window
    assert min(counts.values()) > 60 and max(counts.values()) < 140  # 100 each; the standard deviation is 10


def test_half_of_the_images_are_mirrored_left_to_right():
    image = noise(4, 5, 3)
    keys = jax.random.split(jax.random.key(0), 2000)
    results = np.asarray(jax.vmap(lambda key: augment.flip(key, jnp.asarray(image)))(keys))
    mirrored = np.array([np.array_equal(result, image[:, ::-1]) for result in results])
    for result in results[~mirrored]:
        np.testing.assert_array_equal(result, image)
    assert abs(mirrored.mean() - 0.5) < 0.04


def test_the_colors_shift_along_their_principal_components():
    image = np.full((3, 4, 3), 128, np.uint8)
    keys = jax.random.split(jax.random.key(0), 4000)
    shifted = np.asarray(jax.jit(jax.vmap(lambda key: augment.pca_color(key, image, 0.3)))(keys))
    assert shifted.dtype == np.uint8 and (shifted == shifted[:, :1, :1]).all()  # all pixels alike
    shifts = shifted[:, 0, 0].astype(float) - 128
    # The covariance is 255^2 x 0.3^2 x the sum over components of eigenvalue^2 x v v^T, plus that of rounding.
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = vectors @ np.diag((255 * 0.3 * np.array([0.2175, 0.0188, 0.0045])) ** 2) @ vectors.T + np.eye(3) / 12
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.1)
    assert np.abs(shifts.mean(0)).max() < 4 * np.sqrt(expected.max() / len(shifts))
    # The components are orthogonal, as eigenvectors are, to the digits that are in use.
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)
    assert stats.kstest(shifts @ vectors[:, 0] / (255 * 0.3 * 0.2175), "norm").pvalue > 1e-3


def test_shifted_colors_stay_between_black_and_white():
    image = np.stack([np.full((2, 2), value, np.uint8) for value in (0, 128, 255)], axis=-1)
    keys = jax.random.split(jax.random.key(0), 200)
    shifted = np.asarray(jax.vmap(lambda key: augment.pca_color(key, image, 3.0))(keys)).astype(int)
    assert shifted[..., 0].max() > 50 and shifted[..., 2].min() < 205  # none wraps around:
    direction = np.sign(shifted[:, 0, 0, 1] - 128)
    assert (shifted[direction > 0, 0, 0, 2] > 200).all() and (shifted[direction < 0, 0, 0, 0] < 55).all()


@functools.cache
def erased(probability, count=3000, height=40, width=30):
    """Returns which pixels of black images are erased, bool [N, H, W], and the images."""
    keys = jax.random.split(jax.random.key(1), count)
    image = jnp.zeros((height, width, 3), jnp.uint8)
    results = np.asarray(jax.jit(jax.vmap(lambda key: augment.random_erasing(key, image, probability)))(keys))
    return (results > 0).any(axis=-1), results


def test_an_erased_part_is_one_rectangle_of_noise():
    taken, results = erased(1.0)
    assert results.dtype == np.uint8
    for part in taken[:200]:
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        assert part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.99  # noise is seldom black
    values = results[taken]
    assert stats.chisquare(np.bincount(values.ravel(), minlength=256)[1:]).pvalue > 1e-3


def test_erased_parts_have_the_area_the_aspect_and_the_places_of_the_paper():
    taken, _ = erased(1.0)
    assert taken.any((1, 2)).all()
    rows, columns = taken.any(2), taken.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    tops, lefts = rows.argmax(1), columns.argmax(1)
    # Algorithm 1 in NumPy: area, aspect and corner drawn together, again until the rectangle lies inside.
    random = np.random.default_rng(0)
    area, aspect = 40 * 30 * random.uniform(0.02, 0.4, 100_000), random.uniform(0.3, 1 / 0.3, 100_000)
    high, wide = np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))
    top, left = random.integers(40, size=100_000), random.integers(30, size=100_000)
    fits = (top + high <= 40) & (left + wide <= 30)
    assert fits.mean() > 0.2  # so that 64 tries fail once in a million
    for ours, theirs in ((heights, high), (widths, wide), (tops, top), (lefts, left)):
        assert stats.ks_2samp(ours, theirs[fits]).pvalue > 1e-3
    share = taken.mean((1, 2))
    assert 0.01 < share.min() < 0.03 and 0.3 < share.max() < 0.42


def test_a_share_of_the_images_is_erased():
    taken, _ = erased(0.25)
    assert abs(taken.any((1, 2)).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(taken))
    image = noise(20, 20, 3)
    keys = jax.random.split(jax.random.key(0), 40)
    for result in np.asarray(jax.vmap(lambda key: augment.random_erasing(key, image, 0.5))(keys)):
        changed = (result != image).any(-1)
        assert changed.mean() < 0.45  # all outside of the rectangle stays


NAMES = ("pad_crop:2", "flip")
augmented = jax.jit(augment.augment, static_argnums=3)


ALL = ("pad_crop:2", "flip", "pca_color:0.3", "rand_augment:2:9", "random_erasing:0.5")
COLORS = ("vertical_flip", "rotation:20", "color_jitter:0.4:0.4:0.4:0.1", "grayscale:0.2", "gaussian_blur:0.5:3:2.0")
POLICIES = ("auto_augment:imagenet", "trivial_augment", "augmix:3")


@given(st.permutations(range(8)), st.sampled_from([1, 3, 8]))
@pytest.mark.slow
def test_augmentation_does_not_depend_on_the_batch(order, count):
    key, images = jax.random.key(3), noise(8, 6, 6, 3)
    positions = np.uint32([0, 1, 2, 3, 1000, 1001, 2**20, 2**31 + 5])
    whole = np.asarray(augmented(key, images, positions, ALL))
    chosen = np.array(order[:count])
    np.testing.assert_array_equal(augmented(key, images[chosen], positions[chosen], ALL), whole[chosen])


@pytest.mark.slow
@pytest.mark.parametrize("names", [COLORS, POLICIES])
def test_colors_and_policies_depend_on_the_key_and_the_position_only(names):
    key, images = jax.random.key(3), noise(4, 6, 6, 3)
    positions = np.uint32([0, 1000, 2**20, 2**31 + 5])
    whole = np.asarray(augmented(key, images, positions, names))
    np.testing.assert_array_equal(augmented(key, images[2:3], positions[2:3], names)[0], whole[2])
    assert not np.array_equal(augmented(jax.random.key(4), images, positions, names), whole)


def test_augmentation_differs_between_positions_and_keys_and_between_the_entries_of_the_list():
    images = np.broadcast_to(noise(6, 6, 1), (64, 6, 6, 1))
    positions = np.arange(64, dtype=np.uint32)
    first, other = (np.asarray(augmented(jax.random.key(seed), images, positions, NAMES)) for seed in (0, 1))
    assert len({result.tobytes() for result in first}) > 30  # of 25 windows x 2
    assert np.mean([np.array_equal(a, b) for a, b in zip(first, other, strict=True)]) < 0.2
    # Two flips have two coins: if they shared one, nothing would ever be mirrored.
    twice = np.asarray(augmented(jax.random.key(0), images, positions, ("flip", "flip")))
    mirrored = np.mean([np.array_equal(result, images[0][:, ::-1]) for result in twice])
    assert 0.25 < mirrored < 0.75


def test_without_augmentations_the_images_stay_as_they_are():
    images = noise(5, 4, 4, 3)
    result = augment.augment(jax.random.key(0), jnp.asarray(images), jnp.arange(5), ())
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("shape", [(3,), (4, 5, 3), (1,)])
def test_normalization_has_its_formula_in_float32(shape):
    random = np.random.default_rng(0)
    images = noise(2, 4, 5, 3)
    mean, std = random.uniform(size=shape).astype(np.float32), random.uniform(0.1, 1, shape).astype(np.float32)
    result = augment.normalize(jnp.asarray(images), mean, std)
    assert result.dtype == jnp.float32
    expected = (images.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
