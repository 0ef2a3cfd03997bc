"""Max pooling as JAX primitives, with forward and reverse mode of any order and `vmap`.

On a CPU the kernels compute it. On a GPU the gradient is a sum of shifted arrays: XLA's own is a scatter with atomic
additions there, whose result differs from run to run, and which writes and reads four indices of 32 bits for each
output.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import ad, batching

from cnn_jax.kernels import lowering

MOST_SHIFTS = 64  # places of a window, each an array in the program: 8x8, 4x4x4


class Windows(NamedTuple):
    """Windows of an input: fields have one entry for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def output_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial sizes of the output for an input of `sizes`."""
        return tuple(
            max(0, (size + sum(pads) - kernel) // stride + 1)
            for size, kernel, stride, pads in zip(sizes, *self, strict=True)
        )


def max_pool(
    x: jax.Array,  # [B, *spatial, C], float32 or bfloat16
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    target: str,
) -> jax.Array:
    """Returns the maximum of each window, [B, *spatial', C]; padding is never the maximum.

    The first maximum of a window, in row-major order, receives its gradient: XLA's rule.

    Args:
      target: from `build.target`, or "" for none.
    """
    pads = tuple((int(low), int(high)) for low, high in padding)
    return largest_p.bind(x, windows=Windows(tuple(kernel), tuple(strides), pads), target=target)


# ---------------------------------------------------------------- the primitives


def _largest(x: jax.Array, *, windows: Windows, target: str = "") -> jax.Array:
    kernel, strides, padding = windows
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def _pick(x: jax.Array, tangent: jax.Array, *, windows: Windows, target: str) -> jax.Array:
    return jax.jvp(lambda x: _largest(x, windows=windows), (x,), (tangent,))[1]


def _scatter(x: jax.Array, cotangent: jax.Array, *, windows: Windows, target: str) -> jax.Array:
    return jax.vjp(lambda x: _largest(x, windows=windows), x)[1](cotangent)[0]


def _sum_of_shifts(x: jax.Array, cotangent: jax.Array, *, windows: Windows, target: str) -> jax.Array:
    """Returns `_scatter` without a scatter: each place of a window adds its share of the cotangent, in float32.

    Windows of more than `MOST_SHIFTS` places, which would make a large program, have XLA's scatter.
    """
    kernel, strides, padding = windows
    if math.prod(kernel) > MOST_SHIFTS:
        return _scatter(x, cotangent, windows=windows, target=target)
    wide = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    outputs = cotangent.shape[1:-1]
    places = list(itertools.product(*map(range, kernel)))  # of a window, in row-major order

    def seen(place: Sequence[int]) -> jax.Array:
        ends = [at + (count - 1) * stride + 1 for at, count, stride in zip(place, outputs, strides, strict=True)]
        return lax.slice(wide, (0, *place, 0), (x.shape[0], *ends, x.shape[-1]), (1, *strides, 1))

    best, which = seen(places[0]), jnp.zeros(cotangent.shape, jnp.int8)
    for i, place in enumerate(places[1:], 1):
        value = seen(place)
        better = (value > best) | (jnp.isnan(value) & ~jnp.isnan(best))
        best, which = jnp.where(better, value, best), jnp.where(better, jnp.int8(i), which)
    total = jnp.zeros(wide.shape, jnp.float32)
    for i, place in enumerate(places):
        share = jnp.where(which == i, cotangent, 0).astype(jnp.float32)
        sizes = zip(place, outputs, strides, wide.shape[1:-1], strict=True)
        shifts = [(at, size - at - (count - 1) * stride - 1, stride - 1) for at, count, stride, size in sizes]
        total += lax.pad(share, np.float32(0), ((0, 0, 0), *shifts, (0, 0, 0)))
    starts = [low for low, _ in padding]
    ends = [low + size for low, size in zip(starts, x.shape[1:-1], strict=True)]
    return lax.slice(total, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1])).astype(x.dtype)


def _attributes(*, windows: Windows) -> dict[str, Any]:
    return dict(kernel=windows.kernel, strides=windows.strides, low=tuple(low for low, _ in windows.padding))


largest_p = lowering.define("cnn_jax_max_pool", "MaxPool", xla=_largest, attributes=_attributes)
# (x, another array of its shape) -> the values of that array where x is the largest of its window.
pick_p = lowering.define("cnn_jax_max_pool_pick", None, xla=_pick, attributes=_attributes)
# (x, an array of the output's shape) -> its values added up at the largest x of each window; zero elsewhere.
scatter_p = lowering.define(
    "cnn_jax_max_pool_scatter", "MaxPoolByX", xla=_scatter, attributes=_attributes, gpu=_sum_of_shifts
)


def _output(x: Any, *others: Any, windows: Windows, target: str) -> Any:
    return ShapedArray((x.shape[0], *windows.output_sizes(x.shape[1:-1]), x.shape[-1]), x.dtype)


largest_p.def_abstract_eval(_output)
pick_p.def_abstract_eval(_output)
scatter_p.def_abstract_eval(lambda x, cotangent, **parameters: ShapedArray(x.shape, x.dtype))

# Which one is the largest does not change with x, but for ties: the derivative by x of the other two is zero.
ad.defjvp(largest_p, lambda tangent, x, **parameters: pick_p.bind(x, tangent, **parameters))
ad.defjvp(pick_p, None, lambda tangent, x, _, **parameters: pick_p.bind(x, tangent, **parameters))
ad.defjvp(scatter_p, None, lambda tangent, x, _, **parameters: scatter_p.bind(x, tangent, **parameters))


def _transposed(primitive: Any) -> Any:
    def rule(cotangent: Any, x: jax.Array, other: Any, **parameters: Any) -> tuple[None, Any]:
        if type(cotangent) is ad.Zero:
            return None, ad.Zero(other.aval)
        return None, primitive.bind(x, cotangent, **parameters)

    return rule


ad.primitive_transposes[pick_p] = _transposed(scatter_p)
ad.primitive_transposes[scatter_p] = _transposed(pick_p)


def _batched(primitive: Any) -> Any:
    def rule(arrays: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any) -> tuple[jax.Array, int]:
        size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
        folded = []
        for array, axis in zip(arrays, axes, strict=True):
            whole = jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
            folded.append(whole.reshape(-1, *whole.shape[2:]))
        y = primitive.bind(*folded, **parameters)
        return y.reshape(size, -1, *y.shape[1:]), 0

    return rule


for primitive in (largest_p, pick_p, scatter_p):
    batching.primitive_batchers[primitive] = _batched(primitive)
