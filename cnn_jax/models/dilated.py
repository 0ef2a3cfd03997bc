"""A context network of dilated convolutions (Yu & Koltun 2016, "Multi-Scale Context Aggregation", section 3).

A 3x3 kernel of rate r looks at 3x3 positions that are r apart. Rates that double make the receptive field grow
exponentially with the depth, while resolution, parameters and computation of a layer stay the same:

    layer               conv1    conv2    conv3    conv4
    rate                    1        2        4        8
    receptive field       3x3      7x7    15x15    31x31
    plain, rates 1        3x3      5x5      7x7      9x9

The paper labels every pixel; here a global average pool and a linear layer make it a classifier. Its module has the
rates 1, 1, 2, 4, 8, 16, 1.
"""

from collections.abc import Iterator
from typing import Any

from cnn_jax.core.rules import Rule, fixed, option
from cnn_jax.nn.family import Family, LayerMaker

ODD = Rule("odd: an even one cannot keep the resolution", lambda kernel: kernel % 2 == 1)


class DilatedNet(Family):
    """Dilated convolutions in a row, then a head: images [B, H, W, C] -> class scores [B, num_classes]."""

    rates: tuple[int, ...] = option(
        (1, 2, 4, 8),
        "Dilation of each layer; (1, 1, 1, 1): the plain twin, with the same parameters and MACs.",
        Rule("at least one rate, all above 0", lambda rates: len(rates) > 0 and min(rates) >= 1),
    )
    channels: int = option(32, "Channels of every layer; ours.")
    kernel: int = option(3, "Size of every convolution, odd.", ODD)
    num_classes: int = 10
    input_shape: tuple[int, ...] = (32, 32, 3)
    pool: str = fixed("max")
    head: str = "gap"
    fc_sizes: tuple[int, ...] = (128,)

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for i, rate in enumerate(self.rates, start=1):
            yield f"conv{i}", make.block(self.channels, self.kernel, 1, rate * (self.kernel // 2), dilation=rate)
