"""RandAugment's operations against Pillow's, and how they are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnn_jax.data import rand_augment
from cnn_jax.data.rand_augment import OPERATIONS

apply = jax.jit(rand_augment.apply)
STRENGTHS = (-1.0, -0.9, -0.5, -0.1, 0.0, 0.3, 0.7, 1.0)


def photograph(height, width, channels):
    """Returns a smooth image with noise: all values occur, but not equally often."""
    random = np.random.default_rng(height * width)
    y, x, c = np.mgrid[:height, :width, :channels]
    smooth = 110 + 80 * np.sin(x / 9 + c) * np.cos(y / 7 - c)
    return np.clip(smooth + random.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def dark(height, width, channels):
    """Returns an image of few, low values."""
    return np.random.default_rng(1).integers(20, 60, (height, width, channels), np.uint8)


def flat(height, width, channels):
    return np.full((height, width, channels), 77, np.uint8)


def by_pillow(image, operation, strength):
    """Returns what Pillow makes of an image: the calls of AutoAugment's code, with the fill and the range of ours."""
    height, width, channels = image.shape
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    fill = 128 if channels == 1 else (128,) * channels
    factor, size = 1 + 0.9 * strength, abs(strength)
    affine = functools.partial(picture.transform, (width, height), Image.Transform.AFFINE, fillcolor=fill)
    made = dict(
        identity=lambda: picture,
        shear_x=lambda: affine((1, 0.3 * strength, 0, 0, 1, 0)),
        shear_y=lambda: affine((1, 0, 0, 0.3 * strength, 1, 0)),
        translate_x=lambda: affine((1, 0, -int(150 / 331 * width * strength), 0, 1, 0)),
        translate_y=lambda: affine((1, 0, 0, 0, 1, -int(150 / 331 * height * strength))),
        rotate=lambda: picture.rotate(30 * strength, fillcolor=fill),
        brightness=lambda: ImageEnhance.Brightness(picture).enhance(factor),
        contrast=lambda: ImageEnhance.Contrast(picture).enhance(factor),
        color=lambda: ImageEnhance.Color(picture).enhance(factor),
        sharpness=lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        posterize=lambda: ImageOps.posterize(picture, 8 - round(4 * size)),
        solarize=lambda: ImageOps.solarize(picture, 256 * (1 - size)),
        autocontrast=lambda: ImageOps.autocontrast(picture),
        equalize=lambda: ImageOps.equalize(picture),
    )[operation]()
    return np.asarray(made).reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_equals_pillow(operation, channels):
    for make in (photograph, dark, flat):
        image = make(61, 50, channels)
        for strength in STRENGTHS:
            ours = np.asarray(apply(jnp.asarray(image), OPERATIONS.index(operation), strength)).astype(int)
            theirs = by_pillow(image, operation, strength).astype(int)
            message = f"{make.__name__}, {strength}"
            if operation in ("shear_x", "shear_y", "rotate"):
                # Pillow's coordinates have 16 fractional bits: of two equally near pixels it may take the other.
                assert np.mean(ours != theirs) < 0.005, message
            else:
                # A value that is rounded down may be one lower by the rounding of a float.
                np.testing.assert_allclose(ours, theirs, atol=1, err_msg=message)
                assert np.mean(ours != theirs) < 0.01, message


def test_every_operation_grows_with_the_magnitude():
    image = photograph(61, 50, 3)
    for i, operation in enumerate(OPERATIONS):
        changes = [
            np.abs(np.asarray(apply(jnp.asarray(image), i, s)).astype(float) - image).mean() for s in (0.0, 0.4, 0.9)
        ]
        if operation == "identity":
            assert changes == [0, 0, 0]
        elif operation in ("autocontrast", "equalize"):  # have no magnitude
            assert changes[0] > 0 and len(set(changes)) == 1
        else:
            assert changes[0] == 0 and 0 < changes[1] < changes[2], operation


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 7, 1), (3, 2, 3)])
def test_tiny_images_have_their_operations_too(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for i, operation in enumerate(OPERATIONS):
        ours = np.asarray(apply(jnp.asarray(image), i, 0.5)).astype(int)
        if operation not in ("shear_x", "shear_y", "rotate"):
            np.testing.assert_allclose(ours, by_pillow(image, operation, 0.5).astype(int), atol=1, err_msg=operation)


def test_operations_and_directions_are_drawn_uniformly():
    # An operation is recognized by what it does to an image that all but the identity change.
    image = jnp.asarray(photograph(24, 20, 3))
    results = {}
    for i, operation in enumerate(OPERATIONS):
        for sign in (-1, 1):
            results[np.asarray(apply(image, i, sign * 7 / 10)).tobytes()] = (operation, sign)
    signed = len(OPERATIONS) - 5  # identity, posterize, solarize, autocontrast and equalize have no direction
    assert len(results) == len(OPERATIONS) + signed
    count = 4000
    draw = jax.jit(jax.vmap(lambda key: rand_augment.rand_augment(key, image, 1, 7)))
    drawn = [results[made.tobytes()] for made in np.asarray(draw(jax.random.split(jax.random.key(0), count)))]
    for operation in OPERATIONS:
        share = count / len(OPERATIONS)
        found = [sign for name, sign in drawn if name == operation]
        assert abs(len(found) - share) < 5 * share**0.5, operation
    # Two operations are two draws: the second is not the first again.
    keys = jax.random.split(jax.random.key(3), 300)
    once, twice = (
        draw(keys),
        np.asarray(jax.jit(jax.vmap(lambda key: rand_augment.rand_augment(key, image, 2, 7)))(keys)),
    )
    second = [np.asarray(apply(once[0], i, sign * 7 / 10)) for i in range(len(OPERATIONS)) for sign in (-1, 1)]
    assert any(np.array_equal(twice[0], other) for other in second)
    assert len({made.tobytes() for made in twice}) > 150
