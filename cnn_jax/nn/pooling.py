"""Pooling: windows, adaptive and global, and strided convolution instead of it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cnn_jax.core.errors import check_choice
from cnn_jax.nn import cpu
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv
from cnn_jax.nn.windows import check_fits, check_window, per_axis

POOLS = ("max", "average", "conv")


class Pool(nnx.Module):
    """Max or average pooling, [B, *spatial, C] -> [B, *spatial', C].

    Padding is never the maximum; averages count it, and are summed in float32. `ceil` rounds the output sizes up: the
    last window may reach past the edge (Caffe's rule, and torch's `ceil_mode`); averages do not count what lies beyond
    the padding.
    """

    def __init__(
        self,
        kind: str,
        kernel: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] = 0,
        *,
        ceil: bool = False,
    ):
        check_choice("pool", kind, ("max", "average"))
        check_window(kernel, stride, padding)
        self.kind = kind
        self.ceil = ceil
        self.kernel_size = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
        self.strides = per_axis(stride, len(self.kernel_size))
        self.pads = per_axis(padding, len(self.kernel_size))

    def __call__(self, x: jax.Array) -> jax.Array:
        check_fits(self, x.shape)
        padding = ceil_padding(x.shape[1:-1], self) if self.ceil else [(pad, pad) for pad in self.pads]
        if self.kind == "max":
            y = cpu.max_pool(x, self.kernel_size, self.strides, padding)
        else:
            window, strides = (1, *self.kernel_size, 1), (1, *self.strides, 1)
            wide = x.astype(jnp.float32)
            total = lax.reduce_window(wide, 0.0, lax.add, window, strides, ((0, 0), *padding, (0, 0)))
            y = (total / self._counts(x.shape[1:-1], padding).astype(np.float32)).astype(x.dtype)
        return emit(self, x, y)

    def _counts(self, sizes: Sequence[int], padding: Sequence[tuple[int, int]]) -> np.ndarray:
        """Returns how many values each window averages, broadcastable to the output, without what `ceil` adds."""
        if not self.ceil:
            return np.array(math.prod(self.kernel_size))
        counts = np.ones(())
        for size, kernel, stride, pad, (_, after) in zip(
            sizes, self.kernel_size, self.strides, self.pads, padding, strict=True
        ):
            starts = np.arange(0, size + pad + after - kernel + 1, stride)
            counts = counts[..., None] * (np.minimum(starts + kernel, size + 2 * pad) - starts)
        return counts[..., None]


def ceil_padding(sizes: Sequence[int], layer: Any) -> list[tuple[int, int]]:
    """Returns the padding (before, after) of each axis of an input of `sizes`, enough for the last window."""
    pads = []
    for size, kernel, stride, pad in zip(sizes, layer.kernel_size, layer.strides, layer.pads, strict=True):
        rest = (size + 2 * pad - kernel) % stride
        # A window that would begin after the input and its leading padding does not count.
        begins = (size + 2 * pad - kernel) // stride * stride + stride
        pads.append((pad, pad + (stride - rest if rest and begins < size + pad else 0)))
    return pads


class StridedConv(Conv):
    """A convolution instead of a pool: [B, *spatial, C] -> [B, *spatial', C], with the output sizes of the pool."""

    def __init__(self, channels: int, *window: Any, ceil: bool, **options: Any):
        super().__init__(channels, channels, *window, **options)
        self.ceil = ceil

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.ceil:
            check_fits(self, x.shape)
            padding = ceil_padding(x.shape[1:-1], self)
            extra = [(0, after - before) for before, after in padding]
            x = jnp.pad(x, ((0, 0), *extra, (0, 0)))
        return super().__call__(x)


def make_pool(
    kind: str,
    channels: int,
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] = 0,
    *,
    ceil: bool = False,
    init: str,
    dtype: Any = None,
    rngs: InitKeys,
) -> Pool | Conv:
    """Returns a layer that makes maps smaller: "max", "average", or "conv", a strided convolution that learns how.

    The convolution (after Springenberg et al. 2014) keeps the channels and is linear, as an average is.
    """
    check_choice("pool", kind, POOLS)
    if kind == "conv":
        return StridedConv(channels, kernel, stride, padding, ceil=ceil, init=init, dtype=dtype, rngs=rngs)
    return Pool(kind, kernel, stride, padding, ceil=ceil)


class AdaptiveAveragePool(nnx.Module):
    """Average pooling to a map of `size` x `size` whatever the input's, [B, H, W, C] -> [B, size, size, C].

    Window i covers positions floor(i * H / size) to ceil((i + 1) * H / size), as torch's `AdaptiveAvgPool2d`.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, x: jax.Array) -> jax.Array:
        rows, columns = (jnp.asarray(self._weights(size), x.dtype) for size in x.shape[1:-1])
        y = jnp.einsum("bhwc,ph,qw->bpqc", x, rows, columns, precision="highest")
        return emit(self, x, y)

    def _weights(self, size: int) -> np.ndarray:
        """Returns the weights [output, input] of the averages along an axis."""
        weights = np.zeros((self.size, size))
        for i, row in enumerate(weights):
            window = slice(i * size // self.size, -(-(i + 1) * size // self.size))
            row[window] = 1 / (window.stop - window.start)
        return weights


class GlobalAveragePool(nnx.Module):
    """Mean over all positions, [B, *spatial, C] -> [B, C], summed in float32."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32).astype(x.dtype)
        return emit(self, x, y)
