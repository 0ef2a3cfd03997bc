"""Mixing two examples of a batch, as the last augmentation: mixup and CutMix.

The partner of an example is the one before it in its batch (with accumulation: in its micro-batch), that of the first
is the last. How they mix depends on (key, the example's position in the run).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cnn_jax.data.augment import rectangle, values
from cnn_jax.data.augmentations import MIXING, parse


def partners(values: jax.Array) -> jax.Array:
    """Returns those of each example's partner, for values [B, ...] of the examples of a batch."""
    return jnp.roll(values, 1, axis=0)


def mixup(key: jax.Array, image: jax.Array, other: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns (weight x image + (1 - weight) x other, weight), the weight from Beta(alpha, alpha) (Zhang et al. 2018).

    The mixture is float32, in [0, 1]: nothing is rounded.
    """
    weight = jax.random.beta(key, alpha, alpha)
    return weight * values(image) + (1 - weight) * values(other), weight


def cutmix(key: jax.Array, image: jax.Array, other: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns (image with a rectangle of `other`, the share of the area that is still its own) (Yun et al. 2019).

    The rectangle has the image's aspect and, where the image does not cut it off, 1 - Beta(alpha, alpha) of its area;
    its centre lies anywhere. The share is that of the pixels.
    """
    height, width, _ = image.shape
    area_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(area_key, alpha, alpha))
    cut = [jnp.floor(length * side).astype(jnp.int32) for length in (height, width)]
    centre = jax.random.randint(place_key, (2,), 0, jnp.array([height, width]))
    inside = rectangle((height, width), [middle - size // 2 for middle, size in zip(centre, cut, strict=True)], cut)
    return jnp.where(inside[..., None], other, image), 1 - inside.mean()


def mix(
    key: jax.Array, images: jax.Array, positions: jax.Array, names: Sequence[str]
) -> tuple[jax.Array, jax.Array | None]:
    """Mixes each image with its partner if the last of `names` says so.

    Args:
      key, positions, names: as for `augment.augment`. images: uint8 [B, H, W, C], after it.

    Returns:
      (images [B, H, W, C], after mixup float32 in [0, 1]; the share of each that is its own, float32 [B], or None if
      nothing mixes).
    """
    kind, numbers = parse(names[-1]) if names else ("", ())
    if kind not in MIXING:
        return images, None
    stage = jax.random.fold_in(key, len(names) - 1)
    function = {"mixup": mixup, "cutmix": cutmix}[kind]

    def one(position: jax.Array, image: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        return function(jax.random.fold_in(stage, position), image, other, *numbers)

    return jax.vmap(one)(positions, images, partners(images))
