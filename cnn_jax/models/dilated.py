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

from collections.abc import Sequence
from typing import Any

from cnn_jax.core.errors import check
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network


class DilatedNet(Network):
    """Dilated convolutions in a row, then a head: images [B, H, W, C] -> class scores [B, num_classes].

    rates: the dilation of each layer; (1, 1, 1, 1) is the plain twin, with the same parameters and MACs.
    channels: of every layer; their number is ours. kernel: an odd size, so that the resolution stays.
    norm: "none", "batch" or "lrn". head, fc_sizes, dropout: see `network.Head`.
    width: multiplies channels and hidden units.

    Raises:
      UserError: a field has an impossible value.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (32, 32, 3),
        rates: Sequence[int] = (1, 2, 4, 8),
        channels: int = 32,
        kernel: int = 3,
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
        check(len(rates) > 0 and min(rates) >= 1, f"rates is {tuple(rates)}, but needs at least one rate, all above 0")
        check(kernel % 2 == 1, f"kernel is {kernel}, but must be odd: an even one cannot keep the resolution")
        options: dict[str, Any] = dict(activation=activation, init=init, dtype=dtype, rngs=rngs)
        before, channels = input_shape[-1], scaled(channels, width)
        for i, rate in enumerate(rates, start=1):
            padding = rate * (kernel // 2)
            block = ConvBlock(
                before, channels, kernel, 1, padding, dilation=rate, norm=norm, norm_decay=norm_decay, **options
            )
            self.append(f"conv{i}", block)
            before = channels
        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout,
            classifier_init=init,
            **options,
        )
