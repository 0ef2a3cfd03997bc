"""Forms of convolutions and max pooling that are fast on a CPU. Layers take them inside `fast()` only.

XLA's CPU backend is several times slower than need be where a convolution is a plain matrix product, where its map is
smaller than its kernel, where it has few channels, and in some of the gradients. The functions here compute the same
sums in another form and change results by rounding only. Some of the forms have no forward-mode derivative
(`jax.jvp`), which XLA's own operations have: so those are the default, and the steps of training, evaluation and
prediction ask for the fast ones. GPUs and TPUs always run XLA's. Parameters and MACs are those of the layer, whichever
form runs.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_fast = jax.make_user_context(default_value=False)  # part of the key of jit's caches


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """Inside the block, in this thread, layers are traced in the forms that are fast on a CPU.

    Also a decorator of a function that is going to be jitted: `@cpu.fast()`.
    """
    with _fast(True):
        yield


def use_fast_path() -> bool:
    """Returns whether a layer takes its fast form: inside of `fast()`, on a CPU."""
    return _fast.value and jax.default_backend() == "cpu"


# ---------------------------------------------------------------- convolution

# The forms were timed on two cores with AVX-512, on the layers and steps of ResNet-50, ResNet-20 and LeNet-5.
SMALL_MAP = 4  # output positions: on a map smaller than its kernel XLA is up to 50 times slower
FEW_CHANNELS = 8  # of the input: XLA's gradient with respect to it is 3 to 7 times slower
DEPTHWISE = 25  # elements of a kernel that sees one channel: up to here XLA is 3 to 20 times slower
NARROW = 8  # kernels in a row: up to this width a row with few channels is faster as one product with a banded matrix


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

    def suits_bands(self, x: jax.Array) -> bool:
        """Returns whether the convolution and its gradients are faster as products of rows with banded matrices."""
        row = x.shape[-2] + sum(self.padding[-1])
        return math.prod(self.kernel) > 1 and x.shape[-1] <= FEW_CHANNELS and row <= NARROW * self.kernel[-1]

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
    """Returns `lax.conv_general_dilated` in channels-last layout; inside of `fast()` in a form that is fast on a CPU.

    Most of those forms have gradients of any order, but no forward mode (`jax.jvp`).
    """
    kernel = rhs.shape[:-2]
    depthwise = feature_group_count == lhs.shape[-1] == rhs.shape[-1] and feature_group_count > 1
    depthwise &= math.prod(kernel) <= DEPTHWISE
    ordinary = (feature_group_count == 1 or depthwise) and set(lhs_dilation or (1,)) == {1}
    ordinary &= preferred_element_type in (None, lhs.dtype) and set(options.values()) <= {None}
    if ordinary and not isinstance(padding, str) and use_fast_path():
        pads = tuple((low, high) for low, high in padding)
        window = Window(kernel, tuple(window_strides), pads, tuple(rhs_dilation or (1,) * len(kernel)))
        if depthwise:
            return _depthwise(lhs, rhs, window)
        if window.suits_bands(lhs):
            single = lhs.astype(jnp.float32), rhs.astype(jnp.float32)  # see `_by_kernel`
            return _by_bands(*single, window, precision).astype(lhs.dtype)
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


def _depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A convolution of each channel by itself, as a sum of products with what each element of the kernel sees."""
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
    y, *others = (view * w for view, w in zip(window.views(x.astype(jnp.float32), 0), weights, strict=True))
    for other in others:
        y += other
    return y.astype(x.dtype)


def _by_patches(
    x: jax.Array, kernel: jax.Array, window: Window, precision: Any, dimension_numbers: Any = None
) -> jax.Array:
    """A convolution as one matrix product, of the patches that the kernel sees with the kernel."""
    x = window.patches(x)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _by_bands(x: jax.Array, kernel: jax.Array, window: Window, precision: Any) -> jax.Array:
    """A convolution as one matrix product of whole rows, those that a kernel sees side by side, with a banded matrix.

    It multiplies by many zeros, but its inner loops are as long as rows in place of a handful of channels.
    """
    batch, *sizes, in_channels = x.shape[0], *window.output_sizes(x.shape[1:-1]), x.shape[-1]
    row = x.shape[-2] + sum(window.padding[-1])
    # The offsets of all axes but the last are those of another window, in which a row is one position of many channels.
    x = lax.pad(x, x.dtype.type(0), ((0, 0, 0), *((0, 0, 0),) * (x.ndim - 3), (*window.padding[-1], 0), (0, 0, 0)))
    above = Window(window.kernel[:-1], window.strides[:-1], window.padding[:-1], window.dilation[:-1])
    rows = above.patches(x.reshape(*x.shape[:-2], row * in_channels))
    # seen[i, o, k]: output position o sees input position i by element k of the kernel.
    positions, elements = np.ogrid[: sizes[-1], : window.kernel[-1]]
    inputs = positions * window.strides[-1] + elements * window.dilation[-1]
    seen = jnp.asarray(np.arange(row)[:, None, None] == inputs, kernel.dtype)
    offsets = kernel.reshape(-1, *kernel.shape[-3:])
    bands = jnp.einsum("iok,rkcd->ricod", seen, offsets, precision=precision)
    y = jnp.dot(rows, bands.reshape(rows.shape[-1], -1), precision=precision)
    return y.reshape(batch, *sizes, kernel.shape[-1])


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
    adds = patches or max(window.strides) > 1 or x.shape[-1] <= FEW_CHANNELS
    form, dtype = (_by_patches if adds else _by_xla), x.dtype
    if adds and math.prod(window.kernel) > 1:  # sums of bfloat16 would round at every part
        x, kernel, by_y = (array.astype(jnp.float32) for array in (x, kernel, by_y))
    (by_x,) = jax.linear_transpose(lambda x: form(x, kernel, *static), x)(by_y)
    x, kernel, by_y, by_x = (array.astype(dtype) for array in (x, kernel, by_y, by_x))
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
    # Of bfloat16, XLA for CPUs may round every partial sum over a batch: 4% of error in place of 0.3%.
    dtype, x, by_y = x.dtype, x.astype(jnp.float32), by_y.astype(jnp.float32)
    by_kernel = contract(x, by_y) if dense and x.shape[-1] <= by_y.shape[-1] else contract(by_y, x).T
    return by_kernel.astype(dtype)


_convolution.defvjp(_forward, _backward)


# ---------------------------------------------------------------- pooling


def max_pool(
    x: jax.Array,  # [B, *spatial, C], of a floating type
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns the maximum of each window, [B, *spatial', C]; padding is never the maximum.

    The first maximum of a window, in row-major order, receives its gradient. That is XLA's rule; as XLA's own operation
    it costs a CPU about ten times the forward pass.
    """
    kernel, strides, padding = tuple(kernel), tuple(strides), tuple(padding)
    if not use_fast_path():
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))
    tiled = kernel == strides and all(size % k == 0 for size, k in zip(x.shape[1:-1], kernel, strict=True))
    if tiled and not any(map(any, padding)):
        return _max_of_tiles(x, kernel)
    # A chain of comparisons has XLA's rule by those of differentiation.
    largest, *others = Window(kernel, strides, padding, (1,) * len(kernel)).views(x, -jnp.inf)
    for view in others:
        largest = jnp.where((view > largest) | jnp.isnan(view), view, largest)
    return largest


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_of_tiles(x: jax.Array, kernel: tuple[int, ...]) -> jax.Array:
    """Max pooling with windows that touch and do not overlap: no slices, which XLA would fuse into slow loops."""
    tiles, axes = _tiles(x, kernel)
    return tiles.max(axes)


@_max_of_tiles.defjvp
def _max_of_tiles_jvp(
    kernel: tuple[int, ...], primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    tiles, axes = _tiles(primals[0], kernel)
    largest = tiles.max(axes, keepdims=True)
    size = math.prod(kernel)
    order = np.arange(size).reshape([tiles.shape[axis] if axis in axes else 1 for axis in range(tiles.ndim)])
    first = jnp.where(tiles == largest, order, size).min(axes, keepdims=True)
    return largest.squeeze(axes), jnp.where(order == first, _tiles(tangents[0], kernel)[0], 0).sum(axes)


def _tiles(x: jax.Array, kernel: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...]]:
    """Returns [B, H, W, C] as [B, H/h, h, W/w, w, C], for any number of spatial axes, and the axes of h and w."""
    split = itertools.chain(*((size // k, k) for size, k in zip(x.shape[1:-1], kernel, strict=True)))
    return x.reshape(x.shape[0], *split, x.shape[-1]), tuple(range(2, 2 * len(kernel) + 1, 2))
