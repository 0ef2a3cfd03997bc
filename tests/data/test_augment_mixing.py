"""Mixup and CutMix: the closed forms, the distributions, and the loss of two labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cnn_jax.data import augment

mix = jax.jit(augment.mix, static_argnums=3)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@functools.cache
def mixed(name, count=3000, height=12, width=15, key=0):
    """Returns (mixtures, own shares) of black examples whose partners are white but for the first, of a long batch."""
    images = np.zeros((2 * count, height, width, 1), np.uint8)
    images[::2] = 255
    results, shares = mix(jax.random.key(key), images, np.arange(2 * count, dtype=np.uint32), (name,))
    return np.asarray(results)[1::2], np.asarray(shares)[1::2]


def test_the_partner_of_an_example_is_the_one_before_it():
    np.testing.assert_array_equal(augment.partners(jnp.arange(5)), [4, 0, 1, 2, 3])
    images = noise(5, 3, 4, 2)
    np.testing.assert_array_equal(augment.partners(images)[1:], images[:-1])


@pytest.mark.parametrize("names", [(), ("flip",), ("pad_crop:1", "flip")])
def test_without_mixing_the_images_stay_as_they_are(names):
    images = jnp.asarray(noise(4, 3, 3, 1))
    result, shares = augment.mix(jax.random.key(0), images, jnp.arange(4), names)
    assert result is images and shares is None


# ---------------------------------------------------------------- mixup


def test_mixup_is_the_weighted_mean_of_both_images():
    images, positions = noise(7, 5, 6, 3), np.uint32([3, 1, 70_000, 2**31, 9, 10, 11])
    results, shares = mix(jax.random.key(1), images, positions, ("flip", "mixup:0.4"))
    assert results.dtype == jnp.float32
    weights = np.asarray(shares, np.float64)[:, None, None, None]
    assert len(set(weights.ravel())) == 7 and weights.min() > 0 and weights.max() < 1
    expected = weights * images + (1 - weights) * np.roll(images, 1, axis=0)
    np.testing.assert_allclose(results, expected / 255, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_weights_of_mixup_have_a_beta_distribution(alpha):
    _, shares = mixed(f"mixup:{alpha}")
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_beta_numbers_are_drawn_without_a_loop():
    # On several devices the condition of a loop would be all-reduced at every turn.
    images, positions = noise(4, 3, 3, 1), np.arange(4, dtype=np.uint32)
    for names in (("mixup:0.2",), ("cutmix:1.0",), ("mixup:0.2", "cutmix:1.0")):
        jaxpr = str(jax.make_jaxpr(augment.mix, static_argnums=3)(jax.random.key(0), images, positions, names))
        assert "while" not in jaxpr and "threefry" in jaxpr.replace("random_bits", "threefry")


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.9, 1.0, 4.0])
def test_beta_numbers_have_their_distribution(alpha):
    drawn = jax.vmap(lambda key: augment.beta(key, alpha))(jax.random.split(jax.random.key(2), 20_000))
    drawn = np.asarray(drawn, np.float64)
    inside = np.clip(drawn, 1e-7, 1 - 1e-7)  # float32 has no numbers nearer to 1
    assert stats.kstest(inside[(drawn > 1e-6) & (drawn < 1 - 1e-6)], _between(alpha, 1e-6)).pvalue > 1e-3
    assert abs(np.mean(drawn <= 1e-6) - stats.beta(alpha, alpha).cdf(1e-6)) < 0.015


def _between(alpha, edge):
    low, high = stats.beta(alpha, alpha).cdf([edge, 1 - edge])
    return lambda x: (stats.beta(alpha, alpha).cdf(x) - low) / (high - low)


# ---------------------------------------------------------------- both


def test_of_mixup_and_cutmix_one_is_drawn_for_each_batch():
    images, names = noise(6, 8, 8, 3), ("flip", "mixup:0.2", "cutmix:1.0")
    taken = []
    for first in range(40):
        positions = np.arange(first * 6, first * 6 + 6, dtype=np.uint32)
        results, shares = mix(jax.random.key(0), images, positions, names)
        # As each alone gives it, at its place in the list.
        mixed = [mix(jax.random.key(0), images, positions, names[:2])]
        mixed.append(mix(jax.random.key(0), images, positions, ("flip", "flip", names[2])))
        equal = [np.allclose(augment.values(one), results, atol=1e-6) and np.allclose(s, shares) for one, s in mixed]
        assert sum(equal) == 1
        taken.append(equal[0])
    assert 8 <= sum(taken) <= 32


# ---------------------------------------------------------------- CutMix


def test_cutmix_takes_a_rectangle_of_the_partner_and_counts_its_pixels():
    results, shares = mixed("cutmix:1.0")
    assert results.dtype == np.uint8
    for result, share in zip(results[..., 0], shares, strict=True):
        taken = result == 255
        assert share == pytest.approx(1 - taken.mean(), abs=1e-6)
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        if len(rows):  # a rectangle: all pixels between the first and the last
            assert taken[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert taken.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_the_rectangles_of_cutmix_are_those_of_the_paper():
    # Drawn by NumPy as in the paper: sides sqrt(1 - Beta) of the image's, centers anywhere, cut off at the borders.
    height, width, random = 12, 15, np.random.default_rng(0)
    _, shares = mixed("cutmix:1.0")
    expected = []
    for weight in random.beta(1, 1, 20_000):
        part = 1.0
        for length in (height, width):
            cut = int(length * np.sqrt(1 - weight))
            start = random.integers(length) - cut // 2
            part *= max(0, min(length, start + cut) - max(0, start)) / length
        expected.append(1 - part)
    assert abs(shares.mean() - np.mean(expected)) < 4 * np.std(expected) / len(shares) ** 0.5
    pixels = [np.round(np.array(values) * height * width) for values in (shares, expected)]
    assert stats.ks_2samp(*pixels).pvalue > 1e-3


def test_pixels_outside_of_the_rectangle_are_unchanged():
    images = noise(6, 9, 7, 3) // 2 * 2 + np.arange(6, dtype=np.uint8)[:, None, None, None] % 2  # odd next to even ones
    results, _ = mix(jax.random.key(1), images, np.arange(6, dtype=np.uint32), ("cutmix:1.0",))
    partner = np.roll(images, 1, axis=0)
    taken = np.asarray(results) % 2 != images % 2
    np.testing.assert_array_equal(results, np.where(taken, partner, images))
    assert 0 < taken.mean() < 1 and (taken == taken[..., :1]).all()


# ---------------------------------------------------------------- both


@given(st.sampled_from(["mixup:0.2", "cutmix:1.0"]), st.integers(0, 2**32 - 1))
def test_a_share_depends_on_the_key_and_the_position_only(name, position):
    images = noise(3, 5, 6, 1)
    _, shares = mix(jax.random.key(0), images, np.uint32([position, 5, 7]), (name,))
    _, others = mix(jax.random.key(0), 255 - images, np.uint32([7, position, 5]), (name,))
    np.testing.assert_array_equal(np.asarray(shares)[[2, 0, 1]], others)


def test_keys_and_positions_have_different_shares():
    for name in ("mixup:0.5", "cutmix:1.0"):
        _, first = mixed(name, 500)
        _, other = mixed(name, 500, key=1)
        assert np.mean(first == other) < 0.2  # CutMix has few areas
        assert len(set(first)) > 50


def test_mixing_is_left_out_of_the_augmentation_of_single_images():
    images, positions = noise(4, 6, 6, 1), np.arange(4, dtype=np.uint32)
    key = jax.random.key(0)
    alone, before = (augment.augment(key, images, positions, names) for names in (("flip",), ("flip", "mixup:0.2")))
    np.testing.assert_array_equal(alone, before)
