"""RandAugment (Cubuk et al. 2020): operations of one magnitude, each drawn from 14.

Each gives what Pillow gives, as in the authors' code. `vmap` would turn a switch between 14 operations into all 14 for
every image. They are three here, one after the other, of which all but one leave the image as it is: pixels that move
(one affine map), a table of the 256 values of each channel, and a blend with another image.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize"),
    *("color", "sharpness"),
)
FILL = 128  # what moves in from outside of the image
GREY = np.array([19595, 38470, 7471], np.int32)  # ITU-R 601, of 65536


def rand_augment(key: jax.Array, image: jax.Array, count: int, magnitude: int) -> jax.Array:
    """Applies `count` random operations to one image, uint8 [H, W, C], of one or three channels.

    A magnitude of 10 is the largest change of AutoAugment (Cubuk et al. 2019, table 6), either way where there are
    two: torchvision's 30. As there, and unlike the authors' code, posterize and solarize change more with it.
    """
    for i in range(count):
        number, sign = jax.random.randint(jax.random.fold_in(key, i), (2,), 0, jnp.array([len(OPERATIONS), 2]))
        image = apply(image, number, (2 * sign - 1) * magnitude / 10)
    return image


def apply(image: jax.Array, operation: Any, strength: Any) -> jax.Array:
    """Returns what an operation makes of an image, uint8 [H, W, C].

    Args:
      operation: int, an index of `OPERATIONS`. strength: in [-1, 1]; operations with one direction take its size.
    """
    chosen = {name: operation == i for i, name in enumerate(OPERATIONS)}
    return _blended(_mapped(_moved(image, chosen, strength), chosen, strength), chosen, strength)


def _moved(image: jax.Array, chosen: Mapping[str, Any], strength: Any) -> jax.Array:
    """Shears (up to 0.3), translates (up to 150/331 of the side) or rotates (up to 30 degrees), to nearest pixels."""
    height, width, _ = image.shape
    shear, angle = 0.3 * strength, jnp.where(chosen["rotate"], jnp.deg2rad(30) * strength, 0)
    # The source of the pixel at (y, x); shears keep the upper left corner, rotation keeps the middle.
    middle_y, middle_x = (jnp.where(chosen["rotate"], (side - 1) / 2, -0.5) for side in (height, width))
    y, x = jnp.arange(height)[:, None] - middle_y, jnp.arange(width) - middle_x
    shift_y, shift_x = (
        jnp.where(chosen[name], jnp.trunc(150 / 331 * side * strength), 0)
        for name, side in (("translate_y", height), ("translate_x", width))
    )
    source_y = jnp.cos(angle) * y + (jnp.sin(angle) + jnp.where(chosen["shear_y"], shear, 0)) * x + middle_y - shift_y
    source_x = jnp.cos(angle) * x + (jnp.where(chosen["shear_x"], shear, 0) - jnp.sin(angle)) * y + middle_x - shift_x
    return nearest(image, source_y, source_x, FILL)


def nearest(image: jax.Array, source_y: jax.Array, source_x: jax.Array, fill: int) -> jax.Array:
    """Returns the pixels of an image [H, W, C] nearest to places [H, W]; `fill` where they are outside of it."""
    height, width, _ = image.shape
    rows, columns = jnp.round(source_y).astype(jnp.int32), jnp.round(source_x).astype(jnp.int32)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return jnp.where(inside[..., None], image.at[rows, columns].get(mode="clip"), jnp.uint8(fill))


def _mapped(image: jax.Array, chosen: Mapping[str, Any], strength: Any) -> jax.Array:
    """Maps each value of a channel to another, as the operation and the values of the whole image say."""
    height, width, channels = image.shape
    values = jnp.arange(256)[:, None]  # [256, 1]; tables are [256, 1] or [256, C]
    counts = jnp.zeros((256, channels), jnp.int32).at[image, jnp.arange(channels)].add(1)

    lowest, highest = image.min((0, 1)).astype(jnp.int32), image.max((0, 1)).astype(jnp.int32)
    stretched = 255 * (values - lowest) // jnp.maximum(highest - lowest, 1)

    last = jnp.take_along_axis(counts, highest[None], axis=0)
    step = (height * width - last) // 255
    flat = (jnp.cumsum(counts, axis=0) - counts + step // 2) // jnp.maximum(step, 1)

    unit = 2 ** jnp.round(4 * jnp.abs(strength)).astype(jnp.int32)  # 8 to 4 bits are left
    mean = jnp.floor(_grey(image).mean() + 0.5)
    tables = dict(
        brightness=_blend(0, values, strength),
        contrast=_blend(mean, values, strength),
        posterize=values // unit * unit,
        solarize=jnp.where(values >= 256 * (1 - jnp.abs(strength)), 255 - values, values),
        autocontrast=jnp.where(highest > lowest, stretched, values),
        equalize=jnp.where(step > 0, flat, values),
    )
    table = jnp.broadcast_to(values, (256, channels))
    for name, other in tables.items():
        table = jnp.where(chosen[name], jnp.clip(other, 0, 255), table)
    return table.astype(image.dtype)[image, jnp.arange(channels)]


def _blended(image: jax.Array, chosen: Mapping[str, Any], strength: Any) -> jax.Array:
    """Blends the image with its grey form (color) or with a smoothed one (sharpness)."""
    height, width, _ = image.shape
    whole = jnp.pad(image.astype(jnp.int32), ((1, 1), (1, 1), (0, 0)))
    around = sum(whole[i : i + height, j : j + width] for i in range(3) for j in range(3)) + 4 * image.astype(jnp.int32)
    smooth = image.at[1:-1, 1:-1].set(((2 * around + 13) // 26).astype(image.dtype)[1:-1, 1:-1])  # borders stay
    other = jnp.where(chosen["color"], _grey(image), smooth)
    blended = _blend(other, image, strength).astype(image.dtype)
    return jnp.where(chosen["color"] | chosen["sharpness"], blended, image)


def _grey(image: jax.Array) -> jax.Array:
    """Returns the brightness of each pixel, int32 [H, W, 1], of colors or of grey."""
    if image.shape[-1] == 1:
        return image.astype(jnp.int32)
    return (jnp.sum(image * GREY, axis=-1, keepdims=True) + 2**15) >> 16


def _blend(other: jax.Array | int, image: jax.Array, strength: Any) -> jax.Array:
    """Returns `other` at a factor of 0, `image` at 1 and what lies beyond it above 1, of 1 + 0.9 x strength; int32."""
    mixed = other + (1 + 0.9 * strength) * (image.astype(jnp.float32) - other)
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)  # rounded down
