"""A 1-D convolutional network for sequences: the same layers as for images, with one spatial axis.

The layers and their sizes are ours. With the default fields, on 128 steps of 1 channel:

    stage     convolution    after the pool of 2    parameters
    conv1     3, 32 maps     64x32                         128
    conv2     3, 64 maps     32x64                       6,208
    conv3     3, 128 maps    16x128                     24,704
    head      global average pool, linear to 10          1,290
"""

from collections.abc import Sequence
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool


class ConvNet1D(Network):
    """Stages of convolution, activation and pooling along time: sequences [B, L, C] -> class scores [B, num_classes].

    channels: of each stage. kernel, stride, padding: of the convolutions; the padding stands on both sides.
    pool: "max", "average", or "conv" (strided convolution), of pool_size steps without overlap.
    norm: "none", "batch" or "lrn". head, fc_sizes, dropout: see `network.Head`.
    width: multiplies channels and hidden units.

    Raises:
      UserError: a field has an impossible value, or the sequence is too short.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (128, 1),
        channels: Sequence[int] = (32, 64, 128),
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        pool: str = "max",
        pool_size: int = 2,
        activation: str = "relu",
        norm: str = "none",
        norm_decay: float = 0.9,
        head: str = "gap",
        fc_sizes: Sequence[int] = (128,),
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        for field, value in (("kernel", kernel), ("stride", stride), ("pool_size", pool_size)):
            check(value >= 1, f"{field} is {value}, but must be at least 1 step")
        check(
            len(input_shape) == 2,
            f"the input has the shape {tuple(input_shape)}, but conv1d takes sequences: [length, channels]",
        )
        check(len(channels) > 0, "channels is (), but needs one number for each stage: at least one")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        before = input_shape[-1]
        for i, after in enumerate((scaled(n, width) for n in channels), start=1):
            block = ConvBlock(
                before,
                after,
                (kernel,),
                stride,
                padding,
                norm=norm,
                norm_decay=norm_decay,
                activation=activation,
                **options,
            )
            self.append(f"conv{i}", block)
            self.append(f"pool{i}", make_pool(pool, after, (pool_size,), pool_size, **options))
            before = after
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
