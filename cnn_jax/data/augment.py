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
from cnn_jax.data.images import Box, Picture, UnreadableError, resample
from cnn_jax.errors import check

# ---------------------------------------------------------------- host: uint8 [H, W, C] -> uint8 [h, w, C]


def _resample(image: Any, size: Sequence[int], box: Box | None = None) -> np.ndarray:
    """Returns `image` (or its part `box`: left, top, right, bottom) at (height, width), bilinear and antialiased."""
    if box is None and tuple(image.shape[:-1]) == tuple(size):
        return np.asarray(image)
    if isinstance(image, Picture):
        return image.resize(size, box)
    return resample(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), size, box)


def resize(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Stretches the whole image to `size` (height, width)."""
    return _resample(image, size)


def center_crop(image: np.ndarray, size: Sequence[int], shorter_side: int) -> np.ndarray:
    """Resizes the shorter side to `shorter_side` pixels, then takes the centre of `size` (height, width)."""
    height, width = image.shape[:2]
    scale = shorter_side / min(height, width)
    resized = _resample(image, (max(shorter_side, int(height * scale)), max(shorter_side, int(width * scale))))
    top = round((resized.shape[0] - size[0]) / 2)
    left = round((resized.shape[1] - size[1]) / 2)
    return resized[top : top + size[0], left : left + size[1]]


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


def window(example: Any, length: int, random: np.random.Generator | None) -> Any:
    """Returns `length` steps of a sequence, or frames of a clip, that follow each other.

    With `random` they start anywhere, as the clips that C3D is trained on (Tran et al. 2015, section 4.1); without,
    they are the ones in the middle.

    Raises:
      UnreadableError: there are fewer.
    """
    rest = len(example) - length
    if rest < 0:
        raise UnreadableError(
            f"{example.file}: it has {len(example)} steps or frames, but config.data.image_size begins with {length}"
        )
    start = rest // 2 if random is None else int(random.integers(rest + 1))
    return example[start : start + length]


def crop(image: Any, config: Any, *, train: bool, seed: int = 0, position: int = 0) -> np.ndarray:
    """Brings a stored image to config.data.image_size as config.data.train_crop or test_crop says.

    Of a longer sequence or clip a part is taken (`window`), and the frames of a clip are resized. What is random
    depends on (seed, position) only.

    Args:
      image: uint8 [H, W, C], or what reads one when it is asked for: a `Picture`; of clips and sequences an array,
        `Frames` or a `StoredArray`.
    """
    if len(config.image_size) != 2:
        length, *size = config.image_size
        check(
            not train or config.placement == "stream" or len(image) <= length,
            f"an example has {len(image)} steps or frames, of which training takes other {length} in every epoch: use "
            "config.data.placement 'stream'",
        )
        random = np.random.Generator(np.random.Philox(key=[seed, position])) if train else None
        part = window(image, length, random)
        return np.stack([resize(frame, size) for frame in part]) if size else part
    if train and config.scaled_decoding:
        image.scaled = True
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
    """Returns (images / 255 - mean) / std in float32; `mean` and `std` broadcast against [H, W, C].

    Floats are values as they are: (values - mean) / std.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return (images.astype(jnp.float32) - mean) / std
    return (images.astype(jnp.float32) / 255 - mean) / std
