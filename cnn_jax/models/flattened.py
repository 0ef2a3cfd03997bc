"""A network of flattened convolutions (Jin, Dundar, Culurciello 2014, "Flattened Convolutional Neural Networks").

Each 3-D filter c x y x x is replaced by three 1-D ones in a row, over the channels (lateral), the rows (vertical) and
the columns (horizontal), each with a bias and without an activation between (section 3 and Fig. 2):

    filter                  weights of 192 -> 32 channels, 5x5
    dense         5x5       192*25*32               153,600
    lateral       1x1       192*32                    6,144
    vertical      5x1       32*5, in its channel        160
    horizontal    1x5       32*5, in its channel        160    sum 6,464

The paper has two such sets in the place of one convolution, chosen by cross-validation. A first layer of 3 channels is
replaced like the others here. The sizes of the layers are ours:

    conv1    32x32, 5x5, 96 maps     pool1    2x2/2, 16x16
    conv2    16x16, 5x5, 128 maps    pool2    2x2/2, 8x8
    conv3    8x8, 5x5, 256 maps      pool3    2x2/2, 4x4
    head     global average pool, linear
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax.core.errors import check
from cnn_jax.nn.init import InitKeys, get_activation, scaled
from cnn_jax.nn.layers import Conv
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool


class FlattenedConv(nnx.Module):
    """1-D convolutions over channels, rows and columns, `sets` times: [B, H, W, C_in] -> [B, H, W, C_out]."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, sets: int, init: str, dtype: Any, rngs: InitKeys
    ):
        self.sets = sets
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        channels, n, pad = in_channels, out_channels, kernel // 2
        for i in range(1, 1 + sets):
            setattr(self, f"lateral{i}", Conv(channels, n, 1, 1, 0, **options))
            setattr(self, f"vertical{i}", Conv(n, n, (kernel, 1), 1, (pad, 0), groups=n, **options))
            setattr(self, f"horizontal{i}", Conv(n, n, (1, kernel), 1, (0, pad), groups=n, **options))
            channels = n

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, 1 + self.sets):
            for direction in ("lateral", "vertical", "horizontal"):
                x = getattr(self, f"{direction}{i}")(x)
        return x


class FlattenedNet(Network):
    """Stages of convolution, activation and pool: images [B, H, W, C] -> class scores [B, num_classes].

    separable: False puts one dense convolution in each place: the twin.
    sets: of 1-D convolutions in the place of one dense convolution.
    channels: of each stage. kernel: of every convolution, odd. pool: "max", "average" or "conv".
    head, fc_sizes, dropout: see `network.Head`. width: multiplies channels and hidden units.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (32, 32, 3),
        separable: bool = True,
        sets: int = 2,
        channels: Sequence[int] = (96, 128, 256),
        kernel: int = 5,
        pool: str = "max",
        activation: str = "relu",
        head: str = "gap",
        fc_sizes: Sequence[int] = (256,),
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "lecun_normal",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check(sets >= 1, f"sets is {sets}, but must be at least 1; separable=False is the network without them")
        check(kernel >= 1 and kernel % 2 == 1, f"kernel is {kernel}, but must be odd: an even one changes the size")
        check(len(channels) > 0, "channels is (), but needs one number for each stage: at least one")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        before = input_shape[-1]
        for i, after in enumerate((scaled(n, width) for n in channels), start=1):
            if separable:
                conv = FlattenedConv(before, after, kernel, sets=sets, **options)
            else:
                conv = Conv(before, after, kernel, 1, kernel // 2, **options)
            self.append(f"conv{i}", conv)
            self.append(f"activation{i}", get_activation(activation))
            self.append(f"pool{i}", make_pool(pool, after, 2, 2, 0, **options))
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
