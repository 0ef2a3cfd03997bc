"""Color jitter, grey, blur and rotation against torchvision's functions, in float."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import augment, color
from torchvision_models import import_models

FACTORS = (0.0, 0.3, 1.0, 1.7)


@pytest.fixture(scope="module")
def functional():
    import_models()
    from torchvision.transforms import functional

    return functional


def values(channels=3, height=21, width=17):
    return np.random.default_rng(0).random((height, width, channels), np.float32)


def theirs(function, image, *arguments, **options):
    import torch

    result = function(torch.tensor(image).permute(2, 0, 1), *arguments, **options)
    return result.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_a_factor_changes_an_image_as_in_torchvision(functional, name, channels):
    image = values(channels)
    for factor in FACTORS:
        expected = theirs(getattr(functional, name), image, factor)
        np.testing.assert_allclose(getattr(color, name)(jnp.asarray(image), factor), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hue_is_turned_as_in_torchvision(functional, channels):
    image = values(channels)
    image[:3], image[3:6, :, 0] = 0.25, 0  # grey, and colors with a channel of 0
    for turn in (-0.5, -0.2, 0.0, 0.1, 0.45):
        expected = theirs(functional.adjust_hue, image, turn)
        np.testing.assert_allclose(color.adjust_hue(jnp.asarray(image), turn), expected, atol=2e-5)


@pytest.mark.parametrize(("size", "deviation"), [(3, 0.5), (9, 2.0), (1, 1.0)])
def test_a_blur_is_that_of_torchvision(functional, size, deviation):
    image = values()
    expected = theirs(functional.gaussian_blur, image, [size, size], [deviation, deviation])
    np.testing.assert_allclose(color.blurred(jnp.asarray(image), size, deviation), expected, atol=1e-5)


def test_grey_is_that_of_torchvision(functional):
    image = values()
    expected = theirs(functional.rgb_to_grayscale, image)
    np.testing.assert_allclose(color.luma(jnp.asarray(image)), expected, atol=1e-6)
    pixels = np.round(255 * image).astype(np.uint8)
    made = np.asarray(color.grayscale(jax.random.key(0), jnp.asarray(pixels), 1.0))
    np.testing.assert_array_equal(made[..., 0], made[..., 2])
    whole = np.round(255 * theirs(functional.rgb_to_grayscale, pixels / np.float32(255)))
    np.testing.assert_allclose(made[..., :1], whole, atol=1)


@pytest.mark.parametrize("shape", [(21, 17), (16, 16)])
def test_a_rotation_is_that_of_torchvision(functional, shape):
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), np.uint8)
    for degrees in (-37.0, 3.0, 90.0, 170.0):
        expected = theirs(functional.rotate, image, degrees)
        # Of two pixels that are as near, either may be taken.
        assert np.mean((np.asarray(augment.rotated(jnp.asarray(image), degrees)) != expected).any(-1)) < 0.02
    assert (np.asarray(augment.rotated(jnp.asarray(image), 37.0)) == 0).any()


# ---------------------------------------------------------------- how they are drawn


def draws(name, image, count=400):
    """Returns what an augmentation makes of one image at many positions."""
    images = jnp.broadcast_to(jnp.asarray(image), (count, *image.shape))
    return np.asarray(jax.jit(augment.augment, static_argnums=3)(jax.random.key(0), images, jnp.arange(count), (name,)))


def test_brightness_is_uniform_in_its_range():
    made = draws("color_jitter:0.4:0:0:0", np.full((2, 2, 3), 100, np.uint8))[:, 0, 0, 0]
    assert made.min() in range(60, 64) and made.max() in range(137, 141)
    assert abs(made.mean() - 100) < 5 * 80 / 12**0.5 / 20


def test_without_limits_an_image_stays():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    assert (draws("color_jitter:0:0:0:0", image, 8) == image).all()
    assert (draws("rotation:0.001", image, 8) == image).all()


def test_changes_are_made_in_random_order():
    # Brightness and contrast do not commute where the result is clipped or its mean is another.
    image = np.uint8([[[10, 10, 10], [250, 250, 250], [200, 20, 90]]])
    made = draws("color_jitter:0.9:0.9:0.9:0.5", image, 200)
    assert len({one.tobytes() for one in made}) > 150
    grey = draws("color_jitter:0.9:0.9:0.9:0.5", image[..., :1], 200)
    assert grey.shape == (200, 1, 3, 1)


@pytest.mark.parametrize(
    ("name", "share"), [("vertical_flip", 0.5), ("grayscale:0.2", 0.2), ("gaussian_blur:0.3:5:2", 0.3)]
)
def test_a_share_of_the_images_is_changed(name, share):
    image = np.random.default_rng(0).integers(0, 256, (7, 6, 3), np.uint8)
    made = draws(name, image, 1000)
    changed = (made != image).any((1, 2, 3))
    assert abs(changed.mean() - share) < 5 * (share * (1 - share) / 1000) ** 0.5
    if name == "vertical_flip":
        assert (made[changed] == image[::-1]).all()
