"""The views of test images that an evaluation protocol asks for, in batches of one shape. See `protocols`."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnn_jax.data import crops
from cnn_jax.data.loader import Batch, Split

# The longer side of a dense image is cropped to a multiple of this, so that few shapes are compiled: networks for
# ImageNet have a total stride of 32 pixels.
DENSE_MULTIPLE = 32
MOST_WAITING = 8  # batches of images that wait for others of their shape


def views(image: np.ndarray, config: Any, protocol: str, shorter_side: int) -> np.ndarray:
    """Returns the views of one image without their mirror images: uint8 [H, W, C] -> uint8 [V, h, w, C].

    V is 5 for "10-crop", 18 at each size of "144-crop", else 1.

    Args:
      config: config.data. shorter_side: its length in pixels after resizing; unused by "flip" and "single".
    """
    size, how = config.image_size, config.interpolation
    if protocol == "10-crop":
        square = crops.center_crop(image, (shorter_side, shorter_side), shorter_side, how)
        return np.stack(corners_and_center(square, size))
    if protocol == "144-crop":
        found = []
        for square in squares(crops.resize_shorter(image, shorter_side, how)):
            found += [*corners_and_center(square, size), crops.resize(square, size, how)]
        return np.stack(found)
    if protocol == "dense":
        resized = crops.resize_shorter(image, shorter_side, how)
        height, width = (max(shorter_side, side // DENSE_MULTIPLE * DENSE_MULTIPLE) for side in resized.shape[:2])
        return crops.middle(resized, (height, width))[None]
    return crops.crop(image, config, train=False)[None]


def corners_and_center(image: np.ndarray, size: Sequence[int]) -> list[np.ndarray]:
    """Returns the crops of `size` (height, width) at the top left, top right, bottom left, bottom right and center."""
    bottom, right = image.shape[0] - size[0], image.shape[1] - size[1]
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    return [*(image[y : y + size[0], x : x + size[1]] for y, x in places), crops.middle(image, size)]


def squares(image: np.ndarray) -> list[np.ndarray]:
    """Returns the left, central and right square of an image; of an upright one, the top, central and bottom square."""
    side, longer = min(image.shape[:2]), max(image.shape[:2])
    starts = (0, round((longer - side) / 2), longer - side)
    if image.shape[0] > image.shape[1]:
        return [image[start : start + side] for start in starts]
    return [image[:, start : start + side] for start in starts]


def batches(part: Split, protocol: str, scales: Sequence[int], batch_size: int, devices: int) -> Iterator[Batch]:
    """Yields every example of a streamed part once at each scale, in batches of one shape.

    A batch holds "image" uint8 [B, V, h, w, C], "label" and "index" int32 [B], and "mask" float32 [B], 0 where a place
    is filled up. It has about as many pixels as `batch_size` single views, and B is a multiple of `devices`. Examples
    that cannot be read are left out. Images that wait for others of their shape have at most as many pixels as
    `MOST_WAITING` batches.
    """
    pixels = batch_size * math.prod(part.config.image_size)

    def most(shape: tuple[int, ...]) -> int:
        return max(1, pixels // math.prod(shape[:-1]) // devices) * devices

    for scale in scales:
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray, int]]] = {}

        def transform(image: np.ndarray, scale: int = scale) -> np.ndarray:
            return views(image, part.config, protocol, scale)

        for example in part.examples(transform):
            shape = example[1].shape
            waiting.setdefault(shape, []).append(example)
            if len(waiting[shape]) == most(shape):
                yield _batch(waiting.pop(shape), most(shape))
            held = {shape: len(group) * math.prod(shape[:-1]) for shape, group in waiting.items()}
            if sum(held.values()) > MOST_WAITING * pixels:
                shape = max(held, key=lambda shape: held[shape])
                yield _batch(waiting.pop(shape), most(shape))
        for shape, group in waiting.items():
            yield _batch(group, most(shape))


def _batch(examples: list[tuple[int, np.ndarray, int]], count: int) -> Batch:
    mask = (np.arange(count) < len(examples)).astype(np.float32)
    index, image, label = zip(*examples, *examples[:1] * (count - len(examples)), strict=True)
    return {
        "image": np.stack(image),
        "label": np.asarray(label, np.int32),
        "index": np.asarray(index, np.int32),
        "mask": mask,
    }
