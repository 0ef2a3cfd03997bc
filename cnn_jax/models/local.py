"""A locally connected network: between the fully connected one and the convolution (LeCun 1989, Net-3 to Net-5).

Every unit sees a small window, as in a convolution. With sharing="none" each position has weights of its own; with
sharing="full" all positions of a map have the same ones, which is a convolution. Connections and computation are equal,
parameters are not; the sizes are ours:

    layer      window         output    parameters, shared    positions x parameters of one, not shared
    layer1     5x5/2, pad 2   8x8x8                    208                           64 * 208 = 13,312
    layer2     5x5/2, pad 2   4x4x16                 3,216                         16 * 3,216 = 51,456
    linear                    10                     2,570                                       2,570

A first layer connected fully would have (16*16 + 1) * 8*8*8 = 131,584.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check
from cnn_jax.core.rules import Choice, Rule, fixed, option
from cnn_jax.nn.family import NOT_EMPTY, Family, LayerMaker
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import InitKeys, get_init
from cnn_jax.nn.layers import Conv, add_bias

AT_LEAST_ONE = Rule("at least 1", lambda size: size >= 1)


class LocallyConnected(nnx.Module):
    """A convolution without shared weights, [B, H, W, C_in] -> [B, H', W', C_out], for images of one size.

    The kernel is [H', W', k*k*C_in, C_out], windows flattened as in a convolution's kernel; the bias [H', W', C_out].

    Raises:
      UserError: called on an image of another size than `in_shape`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],  # [H, W, C_in]
        out_channels: int,
        kernel: int,
        stride: int,
        padding: int,
        *,
        init: str,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        self.size, self.stride, self.padding, self.dtype = kernel, stride, padding, dtype
        self.in_shape = tuple(in_shape)
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in in_shape[:-1])
        self.out_shape = (height, width, out_channels)
        # The fan-in is one window's: each position is initialized as a convolution of its own would be.
        window = (kernel, kernel, in_shape[-1], out_channels)
        keys = jax.random.split(rngs.params(), height * width)
        values = jax.vmap(lambda key: get_init(init)(key, window))(keys)
        self.kernel = nnx.Param(values.reshape(height, width, math.prod(window[:-1]), out_channels))
        self.bias = nnx.Param(jnp.zeros(self.out_shape))

    def __call__(self, x: jax.Array) -> jax.Array:
        check(
            x.shape[1:] == self.in_shape,
            f"the input has the shape {x.shape[1:]}, but this layer's weights belong to the positions of "
            f"{self.in_shape}: images of another size need a network of their own, or sharing='full'",
        )
        height, width, _ = self.out_shape
        y, kernel = (v.astype(self.dtype or x.dtype) for v in (x, self.kernel[...]))
        y = jnp.pad(y, ((0, 0), *((self.padding, self.padding),) * 2, (0, 0)))
        # One view of the image for each of the window's k*k offsets, in the order of a convolution's kernel.
        rows, columns = (self.stride * (n - 1) + 1 for n in (height, width))
        views = [
            y[:, i : i + rows : self.stride, j : j + columns : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        windows = jnp.concatenate(views, axis=-1)
        return emit(self, x, add_bias(jnp.einsum("bhwp,hwpf->bhwf", windows, kernel), self.bias))

    def describe(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
        """Returns (kind, detail, macs) for the layer table."""
        detail = f"{self.size}x{self.size}/{self.stride}, pad {self.padding}, local"
        return "conv", detail, math.prod(out_shape) * self.size**2 * in_shape[-1]


class LocalNet(Family):
    """Locally connected layers, then a head: images [B, H, W, C] -> class scores [B, num_classes]."""

    sharing: str = option(
        "none",
        "none: every position has its own weights; full: a convolution, the same network otherwise.",
        Choice("none", "full"),
    )
    channels: tuple[int, ...] = option((8, 16), "Channels of each layer.", NOT_EMPTY)
    kernel: int = option(5, "Size of every window.", AT_LEAST_ONE)
    stride: int = option(2, "Stride of every window.", AT_LEAST_ONE)
    padding: int = option(2, "Padding of every layer.", Rule("at least 0", lambda padding: padding >= 0))
    num_classes: int = 10
    input_shape: tuple[int, ...] = (16, 16, 1)
    pool: str = fixed("max")
    norm: str = fixed("none")
    norm_groups: int = fixed(32)
    norm_decay: float = fixed(0.9)
    head: str = "flatten"
    fc_sizes: tuple[int, ...] = (64,)

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        shape = self.input_shape
        for i, channels in enumerate(self.channels, start=1):
            image = "x".join(map(str, self.input_shape[:-1]))
            check(
                min(shape[:-1]) + 2 * self.padding >= self.kernel,
                f"an image of {image} is too small for this network: in layer 'layer{i}', a window of {self.kernel} "
                f"with padding {self.padding} does not fit its {'x'.join(map(str, shape[:-1]))} input",
            )
            window = (make.scaled(channels), self.kernel, self.stride, self.padding)
            if self.sharing == "full":
                yield f"layer{i}", Conv(shape[-1], *window, **make.options)
            else:
                yield f"layer{i}", LocallyConnected(shape, *window, **make.options)
            yield f"activation{i}", make.activation
            shape = make.shape()
