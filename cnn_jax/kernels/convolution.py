"""A convolution as a JAX primitive that is fast on a CPU, with forward and reverse mode of any order and `vmap`.

For an input x, a kernel w and an output y, the sum of y * convolution(x, w) is linear in each of the three. Its
derivatives with respect to y, x and w are the convolution, its input gradient and its kernel gradient. So the three are
one primitive: `result` says which one it computes, and each is the transpose of the two others.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.interpreters import ad, batching

from cnn_jax.kernels import lowering

Y, X, W = range(3)
OPERANDS = {Y: (X, W), X: (Y, W), W: (X, Y)}
TYPES = ("float32", "bfloat16")
LETTERS = "DHW"


class Convolution(NamedTuple):
    """The sizes that no operand shows, and the window; tuples have one entry for each spatial axis."""

    sizes: tuple[int, ...]  # of the input
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    precision: Any = None  # of XLA's operation

    def output_sizes(self) -> tuple[int, ...]:
        """Returns the spatial sizes of the output."""
        return tuple(
            max(0, (size + sum(pads) - rate * (kernel - 1) - 1) // stride + 1)
            for size, kernel, stride, pads, rate in zip(*self[:5], strict=True)
        )


def convolve(
    x: jax.Array,  # [B, *spatial, C_in]
    kernel: jax.Array,  # [*kernel, C_in // groups, C_out]
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    dilation: Sequence[int],
    groups: int = 1,
    precision: Any = None,
    target: str,
) -> jax.Array:
    """Returns the convolution [B, *spatial', C_out] in the type of x, summed in float32.

    Args:
      precision: for XLA's operation, where it runs instead. target: from `build.target`.
    """
    pads = tuple((int(low), int(high)) for low, high in padding)
    window = Convolution(x.shape[1:-1], kernel.shape[:-2], tuple(strides), pads, tuple(dilation), groups, precision)
    return convolution_p.bind(x, kernel, result=Y, window=window, target=target)


def suits(x: jax.Array, kernel: jax.Array) -> bool:
    """Returns whether the kernels take such arrays: of one type of `TYPES`, one to three spatial axes, not empty."""
    return (
        x.dtype == kernel.dtype
        and str(x.dtype) in TYPES
        and 3 <= x.ndim <= 5
        and all(size != 0 for size in (*x.shape, *kernel.shape))
    )


# ---------------------------------------------------------------- the primitive


def _xla(a: jax.Array, b: jax.Array, *, result: int, window: Convolution, target: str) -> jax.Array:
    """What the primitive computes, in XLA's own operations."""
    letters = LETTERS[-len(window.sizes) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def forward(x: Any, kernel: Any) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window.strides,
            window.padding,
            rhs_dilation=window.dilation,
            feature_group_count=window.groups,
            dimension_numbers=layout,
            precision=window.precision,
        )

    if result == Y:
        return forward(a, b)
    shape = jax.ShapeDtypeStruct(_shape(a.shape, b.shape, result, window), a.dtype)
    if result == X:
        return jax.linear_transpose(lambda x: forward(x, b), shape)(a)[0]
    return jax.linear_transpose(lambda kernel: forward(a, kernel), shape)(b)[0]


def _shape(a: tuple[int, ...], b: tuple[int, ...], result: int, window: Convolution) -> tuple[int, ...]:
    if result == Y:
        return (a[0], *window.output_sizes(), b[-1])
    if result == X:
        return (a[0], *window.sizes, b[-2] * window.groups)
    return (*window.kernel, a[-1] // window.groups, b[-1])


def _attributes(*, result: int, window: Convolution) -> dict[str, Any]:
    return dict(
        strides=window.strides,
        low=tuple(low for low, _ in window.padding),
        dilation=window.dilation,
        groups=window.groups,
        result=result,
    )


convolution_p = lowering.define("cnn_jax_convolution", "Convolve", xla=_xla, attributes=_attributes)


@convolution_p.def_abstract_eval
def _abstract(a: Any, b: Any, *, result: int, window: Convolution, target: str) -> Any:
    return ShapedArray(_shape(a.shape, b.shape, result, window), a.dtype)


def _transpose(operand: int) -> Any:
    """Returns the transpose rule for the first or the second operand: that operand is now the result."""

    def rule(cotangent: jax.Array, a: Any, b: Any, *, result: int, **parameters: Any) -> jax.Array:
        wanted, other = OPERANDS[result][operand], OPERANDS[result][1 - operand]
        arrays = {result: cotangent, other: (b, a)[operand]}
        return convolution_p.bind(*(arrays[kind] for kind in OPERANDS[wanted]), result=wanted, **parameters)

    return rule


ad.defbilinear(convolution_p, _transpose(0), _transpose(1))


def _batch(
    arrays: Sequence[jax.Array], axes: Sequence[int | None], *, result: int, window: Convolution, target: str
) -> tuple[jax.Array, int]:
    """A batch becomes more examples if all share one kernel, and more groups of channels if they do not."""
    size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    kinds = OPERANDS[result]
    if axes[1] is None and kinds[1] == W:
        x = jnp.moveaxis(arrays[0], axes[0] or 0, 0)
        folded = x.reshape(-1, *x.shape[2:])
        y = convolution_p.bind(folded, arrays[1], result=result, window=window, target=target)
        return y.reshape(size, -1, *y.shape[1:]), 0
    folded = []
    for array, axis in zip(arrays, axes, strict=True):
        whole = jnp.broadcast_to(array, (size, *array.shape)) if axis is None else jnp.moveaxis(array, axis, 0)
        whole = jnp.moveaxis(whole, 0, -2)
        folded.append(whole.reshape(*whole.shape[:-2], -1))
    window = window._replace(groups=window.groups * size)
    y = convolution_p.bind(*folded, result=result, window=window, target=target)
    return y.reshape(*y.shape[:-1], size, -1), y.ndim - 1


batching.primitive_batchers[convolution_p] = _batch
