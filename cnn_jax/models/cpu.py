"""What makes convolutions fast on a CPU, in one place.

XLA's CPU backend runs a 1x1 convolution several times slower than the matrix product that it is, and convolutions of
small maps or few channels about twice slower than a product with their patches laid out in memory. The functions here
compute the same sums in another form and change results by rounding only; GPUs and TPUs keep XLA's own convolutions.
Parameters and MACs are those of the layer, whichever form runs.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Where patches pay, measured on two cores with AVX-512: the last stages of residual networks, and first layers.
SMALL_MAP = 64  # output positions
FEW_CHANNELS = 8


_stock = ContextVar("stock", default=False)


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """Functions that are traced inside the block take XLA's own operations only: what a comparison starts from."""
    token = _stock.set(True)
    try:
        yield
    finally:
        _stock.reset(token)


def use_fast_path() -> bool:
    """Returns whether computation goes to a CPU, outside `stock` (decided when a function is traced)."""
    return jax.default_backend() == "cpu" and not _stock.get()


def conv_general_dilated(
    lhs: jax.Array,  # [B, *spatial, C_in]
    rhs: jax.Array,  # [*kernel, C_in // groups, C_out]
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **kwargs: Any,
) -> jax.Array:
    """Drop-in for `lax.conv_general_dilated` in channels-last layout: on a CPU some become matrix products."""
    kernel = rhs.shape[:-2]
    dilation = tuple(rhs_dilation or (1,) * len(kernel))
    ordinary = feature_group_count == 1 and not isinstance(padding, str) and set(lhs_dilation or (1,)) == {1}
    options = dict(precision=precision, preferred_element_type=preferred_element_type)
    if ordinary and use_fast_path():
        sizes = output_sizes(lhs.shape[1:-1], kernel, window_strides, padding, dilation)
        pointwise = math.prod(kernel) == 1
        if pointwise or math.prod(sizes) <= SMALL_MAP or lhs.shape[-1] <= FEW_CHANNELS:

            def product(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
                x = patches(lhs, kernel, window_strides, padding, dilation, sizes)
                return lax.dot_general(x, rhs.reshape(-1, rhs.shape[-1]), (((x.ndim - 1,), (0,)), ((), ())), **options)

            # The backward pass lays the patches out again rather than keep them: they are larger than the input.
            return product(lhs, rhs) if pointwise else jax.checkpoint(product)(lhs, rhs)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        **options,
        **kwargs,
    )


def output_sizes(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Any, dilation: Sequence[int]
) -> tuple[int, ...]:
    """Returns the spatial sizes of a convolution's output."""
    return tuple(
        (size + sum(pads) - rate * (window - 1) - 1) // stride + 1
        for size, window, stride, pads, rate in zip(sizes, kernel, strides, padding, dilation, strict=True)
    )


def patches(
    x: jax.Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Any,
    dilation: Sequence[int],
    sizes: Sequence[int],
) -> jax.Array:
    """Returns what the kernel sees at each output position, [B, *sizes, prod(kernel) * C], in the kernel's order."""
    x = jnp.pad(x, ((0, 0), *(tuple(pads) for pads in padding), (0, 0)))
    views = []
    for offsets in itertools.product(*(range(window) for window in kernel)):
        starts = [offset * rate for offset, rate in zip(offsets, dilation, strict=True)]
        stops = [s + (size - 1) * stride + 1 for s, size, stride in zip(starts, sizes, strides, strict=True)]
        views.append(lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *strides, 1)))
    return views[0] if len(views) == 1 else jnp.concatenate(views, axis=-1)
