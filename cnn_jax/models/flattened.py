"""A network of flattened convolutions (Jin, Dundar, Culurciello 2014, "Flattened Convolutional Neural Networks").

Each 3-D filter c x y x x is replaced by three 1-D ones in a row, over the channels (lateral), the rows (vertical) and
the columns (horizontal), each with a bias and without an activation between (section 3 and Fig. 2):

    filter                  weights of 192 -> 32 channels, 5x5
    dense         5x5       192*25*32               153,600
    lateral       1x1       192*32                    6,144
    vertical      5x1       32*5, in its channel        160
    horizontal    1x5       32*5, in its channel        160    sum 6,464

The paper replaces one convolution by two such sets, chosen by cross-validation. Here a first layer of 3 channels is
replaced, too. The sizes of the layers are ours:

    conv1    32x32, 5x5, 96 maps     pool1    2x2/2, 16x16
    conv2    16x16, 5x5, 128 maps    pool2    2x2/2, 8x8
    conv3    8x8, 5x5, 256 maps      pool3    2x2/2, 4x4
    head     global average pool, linear
"""

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from cnn_jax.core.rules import Rule, fixed, option
from cnn_jax.nn.family import NOT_EMPTY, Family, LayerMaker
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv

ODD = Rule("odd: an even one changes the size", lambda kernel: kernel >= 1 and kernel % 2 == 1)


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


class FlattenedNet(Family):
    """Stages of convolution, activation and pool: images [B, H, W, C] -> class scores [B, num_classes]."""

    separable: bool = option(True, "False: the twin, with one dense convolution in each stage.")
    sets: int = option(
        2,
        "Sets of 1-D convolutions in a stage.",
        Rule("at least 1; separable=False is the network without them", lambda sets: sets >= 1),
    )
    channels: tuple[int, ...] = option((96, 128, 256), "Channels of each stage.", NOT_EMPTY)
    kernel: int = option(5, "Size of every convolution, odd.", ODD)
    num_classes: int = 10
    input_shape: tuple[int, ...] = (32, 32, 3)
    norm: str = fixed("none")
    norm_groups: int = fixed(32)
    norm_decay: float = fixed(0.9)
    head: str = "gap"
    fc_sizes: tuple[int, ...] = (256,)
    init: str = "lecun_normal"

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for i, channels in enumerate(self.channels, start=1):
            if self.separable:
                before, make.channels = make.channels, make.scaled(channels)
                yield f"conv{i}", FlattenedConv(before, make.channels, self.kernel, sets=self.sets, **make.options)
            else:
                yield f"conv{i}", make.conv(channels, self.kernel, 1, self.kernel // 2)
            yield f"activation{i}", make.activation
            yield f"pool{i}", make.pool(self.pool, 2, 2)
