"""Changes of color and sharpness, as torchvision computes them for floats: pixels are values in [0, 1] until the end.

An augmentation is (key, image uint8 [H, W, C], *numbers) -> image; the functions of a factor are float32 -> float32.
"""

import jax
import jax.numpy as jnp

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, of red, green and blue


def color_jitter(
    key: jax.Array, image: jax.Array, brightness: float, contrast: float, saturation: float, hue: float
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of one image, in random order: torchvision's ColorJitter.

    Factors of the first three are uniform in [max(0, 1 - x), 1 + x]; the hue turns by at most `hue` of the circle, 0.5
    of which is all. Grey images have brightness and contrast only. The values are rounded once, at the end.
    """
    order_key, key = jax.random.split(key)
    limits = jnp.array([brightness, contrast, saturation, hue])
    lowest = jnp.array([*(max(0.0, 1 - x) for x in (brightness, contrast, saturation)), -hue])
    factors = jax.random.uniform(key, (4,), minval=lowest, maxval=limits + jnp.array([1, 1, 1, 0]))
    changes = [adjust_brightness, adjust_contrast, adjust_saturation, *([adjust_hue] if hue else [])]
    values = image.astype(jnp.float32) / 255
    # Each of the four places has every change, of which one is taken: `vmap` would do so with a switch, too.
    for chosen in jax.random.permutation(order_key, 4):
        results = [change(values, factor) for change, factor in zip(changes, factors, strict=False)]
        values = jnp.select([chosen == i for i in range(len(results))], results, values)
    return rounded(values)


def rounded(values: jax.Array) -> jax.Array:
    """Returns values in [0, 1] as uint8."""
    return jnp.round(255 * jnp.clip(values, 0, 1)).astype(jnp.uint8)


def luma(values: jax.Array) -> jax.Array:
    """Returns the brightness of each pixel [H, W, 1], of colors or of grey."""
    return values if values.shape[-1] == 1 else jnp.sum(values * jnp.array(LUMA), axis=-1, keepdims=True)


def _blend(values: jax.Array, other: jax.Array | float, factor: jax.Array | float) -> jax.Array:
    """Returns `other` at a factor of 0, `values` at 1, and what lies beyond it above 1."""
    return jnp.clip(factor * values + (1 - factor) * other, 0, 1)


def adjust_brightness(values: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns the image times a factor."""
    return _blend(values, 0, factor)


def adjust_contrast(values: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns the image with its distance to its mean brightness times a factor."""
    return _blend(values, jnp.mean(luma(values)), factor)


def adjust_saturation(values: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Returns the image with the distance of each pixel to its grey form times a factor; grey images stay."""
    return values if values.shape[-1] == 1 else _blend(values, luma(values), factor)


def adjust_hue(values: jax.Array, turn: jax.Array | float) -> jax.Array:
    """Returns the image with its hues turned by a share of the circle; saturation and value (HSV) and greys stay."""
    if values.shape[-1] == 1:
        return values
    red, green, blue = jnp.moveaxis(values, -1, 0)
    value, chroma = values.max(-1), values.max(-1) - values.min(-1)
    part = jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(  # in sixths
        value == red,
        (green - blue) / part,
        jnp.where(value == green, 2 + (blue - red) / part, 4 + (red - green) / part),
    )
    # How far the hue is from the middle of the half circle in which a color is at its lowest.
    place = (hue + 6 * turn + jnp.array([5, 3, 1])[:, None, None]) % 6
    low = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return jnp.moveaxis(value - chroma * low, 0, -1)


def grayscale(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Replaces the colors of one image by their brightness with a probability: torchvision's RandomGrayscale."""
    grey = jnp.broadcast_to(rounded(luma(image.astype(jnp.float32) / 255)), image.shape)
    return jnp.where(jax.random.bernoulli(key, probability), grey, image)


def gaussian_blur(key: jax.Array, image: jax.Array, probability: float, size: int, sigma: float) -> jax.Array:
    """Blurs one image with a probability by a Gaussian of a random deviation of 0.1 to `sigma` pixels.

    Of torchvision's GaussianBlur with a window of `size` pixels; as in SimCLR it has a probability (Chen et al. 2020).
    """
    coin, key = jax.random.split(key)
    deviation = jax.random.uniform(key, minval=min(0.1, sigma), maxval=sigma)
    soft = rounded(blurred(image.astype(jnp.float32) / 255, size, deviation))
    return jnp.where(jax.random.bernoulli(coin, probability), soft, image)


def blurred(values: jax.Array, size: int, deviation: jax.Array | float) -> jax.Array:
    """Returns the weighted mean of size x size pixels around each one; the image is mirrored at its borders."""
    half = size // 2
    weights = jnp.exp(-0.5 * (jnp.arange(-half, half + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis, length in enumerate(values.shape[:2]):
        around = [(half, half) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(values, around, mode="reflect")
        parts = [jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]
        values = jnp.tensordot(weights, jnp.stack(parts), axes=1)
    return values
