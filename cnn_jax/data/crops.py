"""On the host: from a stored image of any size to the size that the network sees, uint8 [H, W, C] to [h, w, C].

All resizing is Pillow's, by one of `dataset.INTERPOLATIONS`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.data.decode import Box, Picture, UnreadableError, resample

MOST_RESIZED = 2**24  # pixels; a file of a kilobyte can be a line of any length


def _resample(image: Any, size: Sequence[int], box: Box | None = None, *, interpolation: str) -> np.ndarray:
    """Returns `image` (or its part `box`: left, top, right, bottom) at (height, width), antialiased."""
    if box is None and tuple(image.shape[:-1]) == tuple(size):
        return np.asarray(image)
    if isinstance(image, Picture):
        return image.resize(size, box, interpolation)
    return resample(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), size, box, interpolation)


def resize(image: np.ndarray, size: Sequence[int], interpolation: str = "bilinear") -> np.ndarray:
    """Stretches the whole image to `size` (height, width)."""
    return _resample(image, size, interpolation=interpolation)


def resize_shorter(image: np.ndarray, shorter_side: int, interpolation: str = "bilinear") -> np.ndarray:
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
    return _resample(image, (height, width), interpolation=interpolation)


def middle(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns the center of `size` (height, width)."""
    top, left = (round((have - want) / 2) for have, want in zip(image.shape[:2], size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


def center_crop(
    image: np.ndarray, size: Sequence[int], shorter_side: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resizes the shorter side to `shorter_side` pixels, then takes the center of `size` (height, width)."""
    return middle(resize_shorter(image, shorter_side, interpolation), size)


def random_resized_crop(
    image: np.ndarray, size: Sequence[int], random: np.random.Generator, interpolation: str = "bilinear"
) -> np.ndarray:
    """Takes 8-100% of the area with aspect 3/4 to 4/3, resized to `size` (Szegedy et al. 2015, section 6).

    After 10 boxes that do not fit, the largest centered box with an allowed aspect is taken.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return _resample(image, size, (left, top, left + w, top + h), interpolation=interpolation)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    top, left = (height - h) // 2, (width - w) // 2
    return _resample(image, size, (left, top, left + w, top + h), interpolation=interpolation)


def random_crop(
    image: Any,
    size: Sequence[int],
    sides: tuple[int, int],
    random: np.random.Generator,
    *,
    central: bool = False,
    interpolation: str = "bilinear",
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
    return _resample(image, size, (left, top, right, bottom), interpolation=interpolation)


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
    how = config.interpolation
    if len(config.image_size) != 2:
        length, *size = config.image_size
        part = window(image, length, random if config.placement == "stream" else None)
        return np.stack([resize(frame, size, how) for frame in part]) if size else part
    if train and config.scaled_decoding:
        image.scaled = True
    if random is not None and config.train_crop == "random_resized":
        return random_resized_crop(image, config.image_size, random, how)
    if random is not None and config.train_crop != "resize":
        central = config.train_crop == "random_central"
        return random_crop(image, config.image_size, config.train_resize, random, central=central, interpolation=how)
    if not train and config.test_crop == "center":
        return center_crop(image, config.image_size, config.test_resize, how)
    return resize(image, config.image_size, how)
