"""A 1-D convolutional network for sequences: the same layers as for images, with one spatial axis.

The layers and their sizes are ours. With the default fields, on 128 steps of 1 channel:

    stage     convolution    after the pool of 2    parameters
    conv1     3, 32 maps     64x32                         128
    conv2     3, 64 maps     32x64                       6,208
    conv3     3, 128 maps    16x128                     24,704
    head      global average pool, linear to 10          1,290
"""

from collections.abc import Iterator
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.core.rules import Rule, option
from cnn_jax.nn.family import NOT_EMPTY, Family, LayerMaker

STEPS = Rule("at least 1 step", lambda steps: steps >= 1)


class ConvNet1D(Family):
    """Stages of convolution, activation and pooling along time: sequences [B, L, C] -> class scores [B, num_classes].

    `padding` is added on both sides; pools do not overlap.
    """

    channels: tuple[int, ...] = option((32, 64, 128), "Channels of each stage.", NOT_EMPTY)
    kernel: int = option(3, "Size of every convolution, steps.", STEPS)
    stride: int = option(1, "Stride of every convolution, steps.", STEPS)
    padding: int = option(1, "Padding of every convolution, steps on both sides.")
    pool_size: int = option(2, "Pooling window, steps.", STEPS)
    num_classes: int = 10
    input_shape: tuple[int, ...] = (128, 1)
    head: str = "gap"
    fc_sizes: tuple[int, ...] = (128,)

    def check(self) -> None:
        check(
            len(self.input_shape) == 2,
            f"the input has the shape {self.input_shape}, but conv1d takes sequences: [length, channels]",
        )

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for i, channels in enumerate(self.channels, start=1):
            yield f"conv{i}", make.block(channels, (self.kernel,), self.stride, self.padding)
            yield f"pool{i}", make.pool(self.pool, (self.pool_size,), self.pool_size)
