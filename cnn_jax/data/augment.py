"""Augmentation and normalisation as pure functions.

Host side (NumPy and Pillow): from a stored image of any size to the size that the network sees.
Device side (JAX, inside the step): on batches of one size, keyed by each example's position in the run.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnn_jax.config import check_augmentation

# ---------------------------------------------------------------- host: uint8 [H, W, C] -> uint8 [h, w, C]


def _resample(
    image: np.ndarray, size: Sequence[int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Returns `image` (or its part `box`: left, top, right, bottom) at (height, width), bilinear and antialiased."""
    if box is None and image.shape[:-1] == tuple(size):
        return image
    height, width = size
    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))
    return resized[..., None] if grey else resized


def resize(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Stretches the whole image to `size` (height, width); an example of that size, with any axes, stays as it is."""
    return _resample(image, size)


def resize_shorter(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """Resizes the shorter side to `shorter_side` pixels; the longer one is rounded down, as torchvision does."""
    smaller = min(image.shape[:2])
    height, width = (side * shorter_side // smaller for side in image.shape[:2])
    return _resample(image, (height, width))


def middle(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns the centre of `size` (height, width)."""
    top, left = (round((have - want) / 2) for have, want in zip(image.shape[:2], size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


def center_crop(image: np.ndarray, size: Sequence[int], shorter_side: int) -> np.ndarray:
    """Resizes the shorter side to `shorter_side` pixels, then takes the centre of `size` (height, width)."""
    return middle(resize_shorter(image, shorter_side), size)


def random_resized_crop(image: np.ndarray, size: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Takes 8-100% of the area with aspect 3/4 to 4/3, resized to `size` (Szegedy et al. 2015, section 6).

    After 10 boxes that do not fit, the largest centred box with an allowed aspect is taken.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return _resample(image, size, (left, top, left + w, top + h))
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    top, left = (height - h) // 2, (width - w) // 2
    return _resample(image, size, (left, top, left + w, top + h))


def crop(image: np.ndarray, config: Any, *, train: bool, seed: int = 0, position: int = 0) -> np.ndarray:
    """Brings a stored image to config.data.image_size as config.data.train_crop or test_crop says.

    A random crop depends on (seed, position) only.
    """
    if train and config.train_crop == "random_resized":
        return random_resized_crop(
            image, config.image_size, np.random.Generator(np.random.Philox(key=[seed, position]))
        )
    if not train and config.test_crop == "center":
        return center_crop(image, config.image_size, config.test_resize)
    return resize(image, config.image_size)


# ---------------------------------------------------------------- device: uint8 [B, H, W, C] -> uint8 [B, H, W, C]


def pad_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Pads one image [H, W, C] with `padding` zeros on each side and takes a random crop of the old size."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array, _: int) -> jax.Array:
    """Mirrors one image [H, W, C] left to right, with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


AUGMENTATIONS = {"pad_crop": pad_crop, "flip": flip}


def augment(key: jax.Array, images: jax.Array, positions: jax.Array, names: Sequence[str]) -> jax.Array:
    """Applies the augmentations `names` to each image, with random numbers from (key, its position in the run).

    Args:
      images: [B, H, W, C], any dtype. positions: int [B], see `pipeline.Order`.
    """
    for i, name in enumerate(names):
        kind, number = check_augmentation(name)
        stage = jax.random.fold_in(key, i)

        def one(position: jax.Array, image: jax.Array, kind: str = kind, number: int = number, stage: Any = stage):
            return AUGMENTATIONS[kind](jax.random.fold_in(stage, position), image, number)

        images = jax.vmap(one)(positions, images)
    return images


def normalize(images: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    """Returns (images / 255 - mean) / std in float32; `mean` and `std` broadcast against [H, W, C]."""
    return (images.astype(jnp.float32) / 255 - mean) / std
