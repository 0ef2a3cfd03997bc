"""Which pixels a class's score depends on: saliency, integrated gradients, SmoothGrad, occlusion.

`model` is a network in evaluation mode, x are its images, normalized, [B, H, W, C]; classes, int [B, N], are those of
each image whose scores (before the softmax) are explained. All maps are float32 [B, H, W, N].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.introspection import applied

STEPS = 64  # of integrated gradients; Sundararajan et al. 2017, section 5: 20 to 300
SAMPLES, NOISE = 25, 0.15  # of SmoothGrad; Smilkov et al. 2017, section 3.2: 10% to 20%, few gains above 50 samples
PATCH, STRIDE = 1 / 7, 0.5  # of occlusion: the share of a side, and of the patch

NAMES = {
    "saliency": "saliency (Simonyan et al. 2014)",
    "integrated_gradients": "integrated gradients (Sundararajan et al. 2017)",
    "smoothgrad": "SmoothGrad (Smilkov et al. 2017)",
    "occlusion": "occlusion (Zeiler & Fergus 2014)",
}


def gradients(model: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the gradient of each class's score by the image, float32 [B, H, W, C, N]."""
    values, pull = jax.vjp(lambda x: model(x).astype(jnp.float32), x)
    columns = [pull(jax.nn.one_hot(column, values.shape[-1]))[0] for column in classes.T]
    return jnp.stack(columns, axis=-1).astype(jnp.float32)


def saliency(model: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the largest absolute gradient over the channels (Simonyan et al. 2014, section 3.1)."""
    return jnp.abs(gradients(model, x, classes)).max(axis=3)


def integrated_gradients(
    model: Any, x: jax.Array, classes: jax.Array, baseline: jax.Array, steps: int = STEPS
) -> jax.Array:
    """Returns integrated gradients, summed over channels (Sundararajan et al. 2017, eq. 1, by the midpoint rule).

    The sum over all positions is score(x) - score(baseline), up to the error of the rule (their "completeness").

    Args:
      baseline: the image without content, such as a black one, normalized; broadcasts against x.
    """
    path = x - baseline

    def add(total: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
        return total + gradients(model, baseline + (step + 0.5) / steps * path, classes), None

    zero = jnp.zeros((*x.shape, classes.shape[1]), jnp.float32)
    total, _ = jax.lax.scan(add, zero, jnp.arange(steps))
    return (total * path[..., None] / steps).sum(axis=3)


def smoothgrad(
    model: Any,
    x: jax.Array,
    classes: jax.Array,
    key: jax.Array,
    samples: int = SAMPLES,
    noise: float = NOISE,
) -> jax.Array:
    """Returns the largest absolute value over channels of the mean gradient of noisy images (Smilkov et al. 2017).

    Args:
      key: of the noise. noise: its standard deviation as a share of each image's range.
    """
    low, high = (reduce(x, axis=(1, 2, 3), keepdims=True) for reduce in (jnp.min, jnp.max))

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        noisy = x + noise * (high - low) * jax.random.normal(key, x.shape)
        return total + gradients(model, noisy, classes), None

    zero = jnp.zeros((*x.shape, classes.shape[1]), jnp.float32)
    total, _ = jax.lax.scan(add, zero, jax.random.split(key, samples))
    return jnp.abs(total / samples).max(axis=3)


def occlusion(
    model: Any,
    x: jax.Array,
    classes: jax.Array,
    baseline: jax.Array,
    patch: int | None = None,
    stride: int | None = None,
) -> np.ndarray:
    """Returns by how much the score falls where a square patch hides a position: the mean over all patches that do.

    After Zeiler & Fergus 2014, section 4.2, who hide parts with a gray square. It runs the network once for each patch.

    Args:
      baseline: what hides, see `integrated_gradients`. patch, stride: pixels; None: by `PATCH` and `STRIDE`.
    """
    height, width = x.shape[1:3]
    patch = patch or max(1, round(PATCH * min(height, width)))
    stride = stride or max(1, round(STRIDE * patch))
    baseline = jnp.broadcast_to(baseline, x.shape)
    rows, columns = (np.arange(size)[:, None] for size in (height, width))

    def score(model: Any, x: jax.Array, hidden: jax.Array) -> jax.Array:
        values = model(jnp.where(hidden[..., None], baseline, x)).astype(jnp.float32)
        return jnp.take_along_axis(values, classes, axis=1)

    score_of = applied(model, score)
    whole = np.asarray(score_of(x, np.zeros((height, width), bool)))
    total = np.zeros((len(x), height, width, classes.shape[1]), np.float32)
    count = np.zeros((height, width), np.float32)
    for top in _starts(height, patch, stride):
        for left in _starts(width, patch, stride):
            inside = ((rows >= top) & (rows < top + patch)) & ((columns >= left) & (columns < left + patch)).T
            falls = whole - np.asarray(score_of(x, inside))
            total += inside[None, :, :, None] * falls[:, None, None]
            count += inside
    return total / count[None, :, :, None]


def _starts(size: int, patch: int, stride: int) -> list[int]:
    """Returns where patches begin, so that they cover all positions."""
    last = max(0, size - patch)
    return sorted({*range(0, last, stride), last})
