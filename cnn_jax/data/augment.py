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

from cnn_jax.data.augmentations import MIXING, parse
from cnn_jax.data.images import Box, Picture, UnreadableError, resample
from cnn_jax.data.rand_augment import rand_augment

# ---------------------------------------------------------------- host: uint8 [H, W, C] -> uint8 [h, w, C]

MOST_RESIZED = 2**24  # pixels; a file of a kilobyte can be a line of any length


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


def resize_shorter(image: np.ndarray, shorter_side: int) -> np.ndarray:
    """Resizes the shorter side to `shorter_side` pixels; the longer one is rounded down, as torchvision does.

    Raises:
      UnreadableError: the result would have more than `MOST_RESIZED` pixels: the image is nearly a line.
    """
    smaller = min(image.shape[:2])
    height, width = (side * shorter_side // smaller for side in image.shape[:2])
    if height * width > MOST_RESIZED:
        raise UnreadableError(
            f"{getattr(image, 'file', 'an image')}: it has {image.shape[0]}x{image.shape[1]} pixels, and would have "
            f"{height}x{width} with its shorter side at {shorter_side}: too long to be a picture"
        )
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


def random_crop(
    image: Any,
    size: Sequence[int],
    sides: tuple[int, int],
    random: np.random.Generator,
    *,
    central: bool = False,
) -> np.ndarray:
    """Resizes the shorter side to a random integer in `sides` (lowest, highest), then takes a random part of `size`.

    (256, 512) are those of VGG (Simonyan, Zisserman 2015, section 3.1), (256, 480) of ResNet (He et al. 2016, section
    3.4). With `central` the part is one of the central square: with (256, 256) as in AlexNet (Krizhevsky et al. 2012,
    section 4.1). Only the part is computed, and differs from that of the whole resized image by rounding alone.
    """
    side = int(random.integers(sides[0], sides[1], endpoint=True))
    box: list[float] = []
    for length, part in zip(image.shape[:2], size, strict=True):
        resized = side * length // min(image.shape[:2])
        start = int(random.integers((side if central else resized) - part, endpoint=True))
        start += (resized - side) // 2 if central else 0
        box += [start * length / resized, (start + part) * length / resized]
    top, bottom, left, right = box
    return _resample(image, size, (left, top, right, bottom))


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
    # The counter keeps these numbers apart from those that shuffle an epoch.
    random = np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1])) if train else None
    if len(config.image_size) != 2:
        length, *size = config.image_size
        part = window(image, length, random if config.placement == "stream" else None)
        return np.stack([resize(frame, size) for frame in part]) if size else part
    if train and config.scaled_decoding:
        image.scaled = True
    if random is not None and config.train_crop == "random_resized":
        return random_resized_crop(image, config.image_size, random)
    if random is not None and config.train_crop != "resize":
        central = config.train_crop == "random_central"
        return random_crop(image, config.image_size, config.train_resize, random, central=central)
    if not train and config.test_crop == "center":
        return center_crop(image, config.image_size, config.test_resize)
    return resize(image, config.image_size)


# ---------------------------------------------------------------- device: uint8 [B, H, W, C] -> uint8 [B, H, W, C]


def pad_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Pads one image [H, W, C] with `padding` zeros on each side and takes a random crop of the old size."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors one image [H, W, C] left to right, with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


# The principal components of the colours of ImageNet's pixels in [0, 1], as they are in wide use: the paper does not
# print its own. Rows of the vectors are red, green and blue.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def pca_color(key: jax.Array, image: jax.Array, deviation: float) -> jax.Array:
    """Shifts the colours of one image [H, W, 3] along their principal components (Krizhevsky et al. 2012, section 4.1).

    Every pixel gets the same shift: the sum of the eigenvectors, each times its eigenvalue and a weight with the
    standard `deviation`; the paper's is 0.1.
    """
    weights = deviation * jax.random.normal(key, (3,)) * EIGENVALUES
    shift = 255 * jnp.sum(EIGENVECTORS * weights, axis=1)
    return jnp.clip(jnp.round(image + shift), 0, 255).astype(image.dtype)


ERASING_TRIES = 64  # of which one in five fits: one image in a million is left as it is


def random_erasing(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Puts noise in the place of a random rectangle of one image [H, W, C] (Zhong et al. 2020, algorithm 1).

    The rectangle has 2-40% of the area and an aspect (height to width) of 0.3 to 1/0.3; rectangles that do not lie
    inside the image are drawn again.
    """
    height, width, _ = image.shape
    key, noise_key = jax.random.split(key)
    draws = jax.random.uniform(key, (5, ERASING_TRIES))
    area, aspect = height * width * (0.02 + 0.38 * draws[0]), 0.3 + (1 / 0.3 - 0.3) * draws[1]
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    tops, lefts = jnp.floor(height * draws[2]), jnp.floor(width * draws[3])
    fits = (tops + heights <= height) & (lefts + widths <= width)
    first = jnp.argmax(fits)
    inside = rectangle((height, width), (tops[first], lefts[first]), (heights[first], widths[first]))
    erased = inside & fits[first] & (draws[4, 0] < probability)
    return jnp.where(erased[..., None], jax.random.bits(noise_key, image.shape, jnp.uint8), image)


def rectangle(shape: Sequence[int], start: Sequence[Any] | jax.Array, size: Sequence[Any]) -> jax.Array:
    """Returns which pixels of an image of `shape` lie in the rectangle from `start` on, bool [H, W]."""
    rows, columns = (jnp.arange(length) - first for length, first in zip(shape, start, strict=True))
    return ((rows >= 0) & (rows < size[0]))[:, None] & (columns >= 0) & (columns < size[1])


AUGMENTATIONS = {
    "pad_crop": pad_crop,
    "flip": flip,
    "pca_color": pca_color,
    "random_erasing": random_erasing,
    "rand_augment": rand_augment,
}


def augment(key: jax.Array, images: jax.Array, positions: jax.Array, names: Sequence[str]) -> jax.Array:
    """Applies the augmentations `names` to each image, with random numbers from (key, its position in the run).

    Those that mix two images are left to `mixing.mix`.

    Args:
      images: uint8 [B, H, W, C]. positions: int [B], see `pipeline.Order`.
    """
    for i, (kind, numbers) in enumerate(map(parse, names)):
        if kind in MIXING:
            continue
        stage = jax.random.fold_in(key, i)

        def one(position: jax.Array, image: jax.Array, kind: str = kind, numbers: Any = numbers, stage: Any = stage):
            return AUGMENTATIONS[kind](jax.random.fold_in(stage, position), image, *numbers)

        images = jax.vmap(one)(positions, images)
    return images


def values(images: jax.Array) -> jax.Array:
    """Returns the values of pixels, uint8, in [0, 1] as float32; floats are values as they are."""
    wide = images.astype(jnp.float32)
    return wide if jnp.issubdtype(images.dtype, jnp.floating) else wide / 255


def normalize(images: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    """Returns (values(images) - mean) / std, float32; `mean` and `std` broadcast against [H, W, C]."""
    return (values(images) - mean) / std
