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

import jax
from flax import nnx

from cnn_jax.errors import check
from cnn_jax.models.layers import ConvBlock, Head, Keys, feature_shape, scaled, scaled_sizes


class DilatedNet(nnx.Module):
    """Dilated convolutions in a row, then a head: images [B, H, W, C] -> class scores [B, num_classes].

    rates: the dilation of each layer; (1, 1, 1, 1) is the plain twin, with the same parameters and MACs.
    channels: of every layer; their number is ours. kernel: an odd size, so that the resolution stays.
    norm: "none", "batch" or "lrn". head, fc_sizes, dropout: see `layers.Head`.
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
        rngs: Keys,
    ):
        check(len(rates) > 0 and min(rates) >= 1, f"rates is {tuple(rates)}, but needs at least one rate, all above 0")
        check(kernel % 2 == 1, f"kernel is {kernel}, but must be odd: an even one cannot keep the resolution")
        self.layers = tuple(f"conv{i}" for i in range(1, 1 + len(rates)))
        before, channels = input_shape[-1], scaled(channels, width)
        for name, rate in zip(self.layers, rates, strict=True):
            block = ConvBlock(
                before,
                channels,
                kernel,
                padding=rate * (kernel // 2),
                dilation=rate,
                norm=norm,
                norm_decay=norm_decay,
                activation=activation,
                init=init,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, name, block)
            before = channels
        self.head = Head(
            feature_shape(self, input_shape),
            num_classes,
            kind=head,
            fc_sizes=scaled_sizes(fc_sizes, width),
            dropout=dropout,
            activation=activation,
            init=init,
            classifier_init=init,
            dtype=dtype,
            rngs=rngs,
        )

    def features(self, x: jax.Array) -> jax.Array:
        """Returns the feature maps before the head, [B, H, W, channels]."""
        for name in self.layers:
            x = getattr(self, name)(x)
        return x

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        return self.head(self.features(x), rngs=rngs)
