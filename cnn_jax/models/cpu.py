"""What makes convolutions and pooling fast on a CPU, in one place.

XLA's CPU backend is several times slower than need be where a convolution is a plain matrix product, where its map is
smaller than its kernel, and in some of the gradients. The functions here compute the same sums in another form and
change results by rounding only; GPUs and TPUs keep XLA's own operations, as does a CPU inside `stock()`.
Parameters and MACs are those of the layer, whichever form runs.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_stock: ContextVar[bool] = ContextVar("stock", default=False)


def use_fast_path() -> bool:
    """Returns whether computation goes to a CPU, outside of `stock()` (decided when a function is traced)."""
    return jax.default_backend() == "cpu" and not _stock.get()


@contextlib.contextmanager
def stock() -> Iterator[None]:
    """Inside the block, in this thread, functions are traced with XLA's own operations: to compare with them."""
    token = _stock.set(True)
    try:
        yield
    finally:
        _stock.reset(token)


# ---------------------------------------------------------------- convolution

# The forms were timed on two cores with AVX-512, on the layers of ResNet-50, ResNet-20 and LeNet-5.
SMALL_MAP = 4  # output positions: on a map smaller than its kernel XLA is up to 50 times slower
FEW_CHANNELS = 8  # of the input: XLA's gradient with respect to it is 3 to 7 times slower


class Window(NamedTuple):
    """Which inputs each output position sees: all fields have one entry for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def output_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial sizes of the output for an input of `sizes`."""
        return tuple(
            (size + sum(pads) - rate * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pads, rate in zip(sizes, *self, strict=True)
        )

    def views(self, x: jax.Array, fill: float) -> list[jax.Array]:
        """Returns for each offset in the kernel, row-major, what it sees of x, padded with `fill`: [B, *sizes, C]."""
        sizes = self.output_sizes(x.shape[1:-1])
        x = lax.pad(x, x.dtype.type(fill), ((0, 0, 0), *((*pads, 0) for pads in self.padding), (0, 0, 0)))
        views = []
        for offsets in itertools.product(*(range(size) for size in self.kernel)):
            starts = [offset * rate for offset, rate in zip(offsets, self.dilation, strict=True)]
            stops = [s + (size - 1) * stride + 1 for s, size, stride in zip(starts, sizes, self.strides, strict=True)]
            views.append(lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *self.strides, 1)))
        return views

    def patches(self, x: jax.Array) -> jax.Array:
        """Returns what the kernel sees at each output position, [B, *sizes, prod(kernel) * C], in its order."""
        views = self.views(x, 0)
        return views[0] if len(views) == 1 else jnp.concatenate(views, axis=-1)

    def suits_patches(self, x: jax.Array) -> bool:
        """Returns whether the convolution and its gradient by the kernel are faster as products with patches."""
        return math.prod(self.kernel) == 1 or math.prod(self.output_sizes(x.shape[1:-1])) <= SMALL_MAP


def conv_general_dilated(
    lhs: jax.Array,  # [B, *spatial, C_in]
    rhs: jax.Array,  # [*kernel, C_in // groups, C_out]
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    dimension_numbers: Any = None,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """Drop-in for `lax.conv_general_dilated` in channels-last layout, in the forms that are fast on a CPU.

    Those have gradients of any order, but no forward mode (`jax.jvp`), which `stock()` has.
    """
    kernel = rhs.shape[:-2]
    ordinary = feature_group_count == 1 and set(lhs_dilation or (1,)) == {1}
    ordinary &= preferred_element_type in (None, lhs.dtype) and set(options.values()) <= {None}
    if ordinary and not isinstance(padding, str) and use_fast_path():
        pads = tuple((low, high) for low, high in padding)
        window = Window(kernel, tuple(window_strides), pads, tuple(rhs_dilation or (1,) * len(kernel)))
        return _convolution(lhs, rhs, window, precision, dimension_numbers)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        feature_group_count=feature_group_count,
        dimension_numbers=dimension_numbers,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


def _by_patches(
    x: jax.Array, kernel: jax.Array, window: Window, precision: Any, dimension_numbers: Any = None
) -> jax.Array:
    """A convolution as one matrix product, of the patches that the kernel sees with the kernel."""
    x = window.patches(x)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _by_xla(x: jax.Array, kernel: jax.Array, window: Window, precision: Any, dimension_numbers: Any) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=dimension_numbers,
        precision=precision,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(x: jax.Array, kernel: jax.Array, window: Window, precision: Any, dimension_numbers: Any) -> jax.Array:
    form = _by_patches if window.suits_patches(x) else _by_xla
    return form(x, kernel, window, precision, dimension_numbers)


def _forward(x: jax.Array, kernel: jax.Array, *static: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass lays the patches out again rather than keep them: they are larger than the input.
    return _convolution(x, kernel, *static), (x, kernel)


def _backward(
    window: Window, precision: Any, dimension_numbers: Any, kept: tuple[jax.Array, jax.Array], by_y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    static = (window, precision, dimension_numbers)
    patches = window.suits_patches(x)
    # With strides, XLA convolves the gradient with zeros in between; the product adds its parts where they belong.
    form = _by_patches if patches or max(window.strides) > 1 or x.shape[-1] <= FEW_CHANNELS else _by_xla
    (by_x,) = jax.linear_transpose(lambda x: form(x, kernel, *static), x)(by_y)
    if patches:
        return by_x, _by_kernel(window.patches(x), by_y, max(window.strides) == 1, precision).reshape(kernel.shape)
    (by_kernel,) = jax.linear_transpose(lambda kernel: _by_xla(x, kernel, *static), kernel)(by_y)
    return by_x, by_kernel


def _by_kernel(x: jax.Array, by_y: jax.Array, dense: bool, precision: Any) -> jax.Array:
    """Returns the gradient of x [..., K] @ kernel [K, N] with respect to the kernel, for that of the product.

    XLA transposes the left operand, element by element and with what computes it: so here the one of fewer channels
    stands left, and never one that is cut out by strides.
    """
    axes = tuple(range(x.ndim - 1))
    contract = partial(lax.dot_general, dimension_numbers=((axes, axes), ((), ())), precision=precision)
    return contract(x, by_y) if dense and x.shape[-1] <= by_y.shape[-1] else contract(by_y, x).T


_convolution.defvjp(_forward, _backward)


# ---------------------------------------------------------------- pooling


def max_pool(
    x: jax.Array,  # [B, *spatial, C], of a floating type
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns the maximum of each window, [B, *spatial', C]; padding is never the maximum.

    The first maximum of a window, in row-major order, receives its gradient: XLA's rule, which costs a CPU about ten
    times the forward pass as XLA's own operation. A chain of comparisons has it by the rules of differentiation.
    """
    if not use_fast_path():
        return lax.reduce_window(x, -jnp.inf, lax.max, *_dimensions(kernel, strides, padding))
    largest, *others = _windows(kernel, strides, padding).views(x, -jnp.inf)
    for view in others:
        largest = jnp.where((view > largest) | jnp.isnan(view), view, largest)
    return largest


def average_pool(
    x: jax.Array, kernel: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """Returns the mean of each window, [B, *spatial, C] -> [B, *spatial', C]; padding counts as zeros."""
    if use_fast_path():
        first, *others = _windows(kernel, strides, padding).views(x, 0)
        return sum(others, first) / math.prod(kernel)
    return lax.reduce_window(x, 0.0, lax.add, *_dimensions(kernel, strides, padding)) / math.prod(kernel)


def _windows(kernel: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> Window:
    return Window(tuple(kernel), tuple(strides), tuple(padding), (1,) * len(kernel))


def _dimensions(kernel: Sequence[int], strides: Sequence[int], padding: Sequence[tuple[int, int]]) -> Any:
    """Returns them as `lax.reduce_window` takes them, with the axes of batch and channels."""
    return (1, *kernel, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
