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
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn.hooks import emit
from cnn_jax.nn.init import InitKeys, get_activation, get_init, scaled
from cnn_jax.nn.layers import Conv
from cnn_jax.nn.network import Network, feature_shape


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
        # The fan-in is one window's: each position is initialised as a convolution of its own would be.
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
        y, kernel, bias = (v.astype(self.dtype or x.dtype) for v in (x, self.kernel[...], self.bias[...]))
        y = jnp.pad(y, ((0, 0), *((self.padding, self.padding),) * 2, (0, 0)))
        # One view of the image for each of the window's k*k offsets, in the order of a convolution's kernel.
        rows, columns = (self.stride * (n - 1) + 1 for n in (height, width))
        views = [
            y[:, i : i + rows : self.stride, j : j + columns : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        windows = jnp.concatenate(views, axis=-1)
        return emit(self, x, jnp.einsum("bhwp,hwpf->bhwf", windows, kernel) + bias)

    def describe(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, str, int]:
        """Returns (kind, detail, macs) for the layer table."""
        detail = f"{self.size}x{self.size}/{self.stride}, pad {self.padding}, local"
        return "conv", detail, math.prod(out_shape) * self.size**2 * in_shape[-1]


class LocalNet(Network):
    """Locally connected layers, then a head: images [B, H, W, C] -> class scores [B, num_classes].

    sharing: "none": every position has its own weights; "full": a convolution, the same network otherwise.
    channels: of each layer. kernel, stride, padding: of every layer's windows.
    head, fc_sizes, dropout: see `network.Head`. width: multiplies channels and hidden units.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (16, 16, 1),
        sharing: str = "none",
        channels: Sequence[int] = (8, 16),
        kernel: int = 5,
        stride: int = 2,
        padding: int = 2,
        activation: str = "relu",
        head: str = "flatten",
        fc_sizes: Sequence[int] = (64,),
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("sharing", sharing, ("none", "full"))
        check(len(channels) > 0, "channels is (), but needs one number for each layer: at least one")
        for field, value, least in (("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0)):
            check(value >= least, f"{field} is {value}, but must be at least {least}")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        shape = tuple(input_shape)
        for i, after in enumerate((scaled(n, width) for n in channels), start=1):
            image = "x".join(map(str, input_shape[:-1]))
            check(
                min(shape[:-1]) + 2 * padding >= kernel,
                f"an image of {image} is too small for this network: in layer 'layer{i}', a window of {kernel} with "
                f"padding {padding} does not fit its {'x'.join(map(str, shape[:-1]))} input",
            )
            if sharing == "full":
                layer = Conv(shape[-1], after, kernel, stride, padding, **options)
            else:
                layer = LocallyConnected(shape, after, kernel, stride, padding, **options)
            self.append(f"layer{i}", layer)
            self.append(f"activation{i}", get_activation(activation))
            shape = feature_shape(self, input_shape)
        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout,
            activation=activation,
            classifier_init=init,
            **options,
        )
