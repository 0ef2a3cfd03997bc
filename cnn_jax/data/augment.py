"""On the device, inside the step: augmentation as pure functions, keyed by each example's position in the run.

uint8 [B, H, W, C] -> uint8 [B, H, W, C]; after mixup float32 in [0, 1].
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.data.augmentations import MIXING, function_of, parse
from cnn_jax.data.color import color_jitter, gaussian_blur, grayscale
from cnn_jax.data.policies import augmix, auto_augment, trivial_augment
from cnn_jax.data.rand_augment import nearest, rand_augment


def pad_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """Pads one image [H, W, C] with `padding` zeros on each side and takes a random crop of the old size."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors one image [H, W, C] left to right, with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def vertical_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors one image [H, W, C] top to bottom, with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[::-1], image)


def rotation(key: jax.Array, image: jax.Array, degrees: float) -> jax.Array:
    """Rotates one image [H, W, C] around its center by an angle uniform in [-degrees, degrees].

    As torchvision's RandomRotation: nearest pixels, and black outside of the image.
    """
    return rotated(image, jax.random.uniform(key, minval=-degrees, maxval=degrees))


def rotated(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Returns the image rotated counterclockwise, to nearest pixels, black outside of it."""
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    y, x = jnp.arange(height)[:, None] - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    source_y = jnp.cos(angle) * y + jnp.sin(angle) * x + (height - 1) / 2
    source_x = jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2
    return nearest(image, source_y, source_x, 0)


# The principal components of the colors of ImageNet's pixels in [0, 1], as they are in wide use: the paper does not
# print its own. Rows of the vectors are red, green and blue.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)


def pca_color(key: jax.Array, image: jax.Array, deviation: float) -> jax.Array:
    """Shifts the colors of one image [H, W, 3] along their principal components (Krizhevsky et al. 2012, section 4.1).

    Every pixel gets the same shift: the sum of the eigenvectors, each times its eigenvalue and a weight with the
    standard `deviation`; the paper's is 0.1.
    """
    weights = deviation * jax.random.normal(key, (3,)) * EIGENVALUES
    shift = 255 * jnp.sum(EIGENVECTORS * weights, axis=1)
    return jnp.clip(jnp.round(image + shift), 0, 255).astype(image.dtype)


ERASING_TRIES = 64  # of which one in five fits: one image in a million is left as it is


def random_erasing(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Puts noise instead of a random rectangle of one image [H, W, C] (Zhong et al. 2020, algorithm 1).

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
    "vertical_flip": vertical_flip,
    "rotation": rotation,
    "pca_color": pca_color,
    "color_jitter": color_jitter,
    "grayscale": grayscale,
    "gaussian_blur": gaussian_blur,
    "random_erasing": random_erasing,
    "rand_augment": rand_augment,
    "auto_augment": auto_augment,
    "trivial_augment": trivial_augment,
    "augmix": augmix,
}


def augment(key: jax.Array, images: jax.Array, positions: jax.Array, names: Sequence[str]) -> jax.Array:
    """Applies the augmentations `names` to each image, with random numbers from (key, its position in the run).

    Those that mix two images are left to `augment.mix`.

    Args:
      images: uint8 [B, H, W, C]. positions: int [B], see `order.Order`.
    """
    for i, (kind, numbers) in enumerate(map(parse, names)):
        if kind in MIXING:
            continue
        stage = jax.random.fold_in(key, i)
        change = AUGMENTATIONS[kind] if kind in AUGMENTATIONS else function_of(kind)

        def one(position: jax.Array, image: jax.Array, change=change, numbers=numbers, stage=stage) -> jax.Array:
            return change(jax.random.fold_in(stage, position), image, *numbers)

        changed = jax.vmap(one)(positions, images)
        check(
            (changed.shape, changed.dtype) == (images.shape, images.dtype),
            f"config.data.augment has {kind!r}, which makes {changed.dtype} {list(changed.shape[1:])} of "
            f"{images.dtype} {list(images.shape[1:])}, but must keep type and shape",
        )
        images = changed
    return images


def values(images: jax.Array) -> jax.Array:
    """Returns the values of pixels, uint8, in [0, 1] as float32; floats are values as they are."""
    wide = images.astype(jnp.float32)
    return wide if jnp.issubdtype(images.dtype, jnp.floating) else wide / 255


def normalize(images: jax.Array, mean: np.ndarray, std: np.ndarray) -> jax.Array:
    """Returns (values(images) - mean) / std, float32; `mean` and `std` broadcast against [H, W, C]."""
    return (values(images) - mean) / std


# ---------------------------------------------------------------- two examples


def partners(values: jax.Array) -> jax.Array:
    """Returns those of each example's partner, for values [B, ...] of the examples of a batch."""
    return jnp.roll(values, 1, axis=0)


BETA_TRIES = 16  # of which each fails with a probability below 0.05: one draw in 10**20 is not of the distribution


def beta(key: jax.Array, alpha: float) -> jax.Array:
    """Returns a number of the distribution Beta(alpha, alpha), float32.

    `jax.random.beta` tries until it has one: a loop in which several devices would wait for each other at every turn.
    This is the ratio of two gammas of Marsaglia & Tsang 2000, whose tries are all drawn at once.
    """
    normal_key, uniform_key, boost_key = jax.random.split(key, 3)
    d = (alpha + 1 if alpha < 1 else alpha) - 1 / 3
    x = jax.random.normal(normal_key, (2, BETA_TRIES))
    cube = (1 + x / np.sqrt(9 * d)) ** 3
    log_cube = jnp.log(jnp.maximum(cube, 1e-30))
    u = 1 - jax.random.uniform(uniform_key, (2, BETA_TRIES))  # in (0, 1]
    accepted = (cube > 0) & (jnp.log(u) < x**2 / 2 + d * (1 - cube + log_cube))
    log_gamma = jnp.take_along_axis(log_cube, jnp.argmax(accepted, axis=1)[:, None], axis=1)[:, 0]
    if alpha < 1:  # the gamma of alpha is that of alpha + 1, times a power
        log_gamma += jnp.log(1 - jax.random.uniform(boost_key, (2,))) / alpha
    return jax.nn.sigmoid(log_gamma[0] - log_gamma[1])


def mixup(key: jax.Array, image: jax.Array, other: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns (weight x image + (1 - weight) x other, weight), the weight from Beta(alpha, alpha) (Zhang et al. 2018).

    The mixture is float32, in [0, 1]: nothing is rounded.
    """
    weight = beta(key, alpha)
    return weight * values(image) + (1 - weight) * values(other), weight


def cutmix(key: jax.Array, image: jax.Array, other: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns (image with a rectangle of `other`, the share of the area that is still its own) (Yun et al. 2019).

    The rectangle has the image's aspect and, where the image does not cut it off, 1 - Beta(alpha, alpha) of its area;
    its center lies anywhere. The share is that of the pixels.
    """
    height, width, _ = image.shape
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - beta(area_key, alpha))
    cut = [jnp.floor(length * side).astype(jnp.int32) for length in (height, width)]
    center = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]))
    inside = rectangle((height, width), [middle - size // 2 for middle, size in zip(center, cut, strict=True)], cut)
    return jnp.where(inside[..., None], other, image), 1 - inside.mean()


def _mixed(
    kind: str, numbers: Sequence[float], key: jax.Array, images: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns (images, shares) of `mix` for one kind of `MIXING`."""
    function = {"mixup": mixup, "cutmix": cutmix}[kind]

    def one(position: jax.Array, image: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        return function(jax.random.fold_in(key, position), image, other, *numbers)

    return jax.vmap(one)(positions, images, partners(images))


def mix(
    key: jax.Array, images: jax.Array, positions: jax.Array, names: Sequence[str]
) -> tuple[jax.Array, jax.Array | None]:
    """Mixes each image with its partner if the last of `names` says so; of two, one is drawn for the whole batch.

    Args:
      key, positions, names: as for `augment.augment`. images: uint8 [B, H, W, C], after it.

    Returns:
      (images [B, H, W, C], after mixup float32 in [0, 1]; the share of each that is its own, float32 [B], or None if
      nothing mixes).
    """
    results = [
        _mixed(kind, numbers, jax.random.fold_in(key, i), images, positions)
        for i, (kind, numbers) in enumerate(map(parse, names))
        if kind in MIXING
    ]
    if len(results) < 2:
        return results[0] if results else (images, None)
    # By the number of the batch's first example: the same for all of the batch, another in the next one.
    coin = jax.random.bernoulli(jax.random.fold_in(jax.random.fold_in(key, len(names)), positions[0]))
    (one_images, one_shares), (other_images, other_shares) = results
    mixed = jnp.where(coin, values(one_images), values(other_images))
    return mixed, jnp.where(coin, one_shares, other_shares)
