"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, Fig. 2), in the fully connected form that is taught today.

layer   28x28 input, pad 2    32x32 input, pad 0    parameters
conv1   5x5,  6 maps, 28x28   5x5,  6 maps, 28x28          156
pool1   2x2/2,        14x14   2x2/2,        14x14
conv2   5x5, 16 maps, 10x10   5x5, 16 maps, 10x10        2,416
pool2   2x2/2,          5x5   2x2/2,          5x5
C5      120 units (linear on 400 features, or the same numbers as a 5x5 convolution)  48,120
F6      84 units                                        10,164
output  10 classes                                         850
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax.errors import check_choice
from cnn_jax.models.layers import Conv, Head, Keys, Pool, feature_shape, get_activation, scaled


class LeNet5(nnx.Module):
    """LeNet-5: images [B, H, W, C] -> class scores [B, num_classes].

    padding: of the first convolution: 2 for 28x28 images, 0 for 32x32 (both have 61,706 parameters with one channel).
    activation: "tanh" as in 1998 (without its scaling constants), "sigmoid" as in many lectures, or "relu".
    pool: "average" or "max".
    c5: "linear", or "conv": the same layer as a 5x5 convolution, which slides over larger images.
    head: "fc" (the paper's), "flatten" or "gap".
    width: multiplies the number of maps and hidden units.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: Sequence[int] = (28, 28, 1),
        padding: int = 2,
        activation: str = "tanh",
        pool: str = "average",
        c5: str = "linear",
        head: str = "fc",
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "glorot_uniform",
        dtype: Any = None,
        rngs: Keys,
    ):
        check_choice("c5", c5, ("linear", "conv"))
        maps1, maps2, units5, units6 = (scaled(n, width) for n in (6, 16, 120, 84))
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)

        self.activation = get_activation(activation)
        self.conv1 = Conv(input_shape[-1], maps1, 5, padding=padding, **options)
        self.pool1 = Pool(pool, 2, 2)
        self.conv2 = Conv(maps1, maps2, 5, **options)
        self.pool2 = Pool(pool, 2, 2)
        self.conv3 = Conv(maps2, units5, 5, **options) if c5 == "conv" else None
        self.head = Head(
            feature_shape(self, input_shape),
            num_classes,
            kind=head,
            fc_sizes=(units6,) if c5 == "conv" else (units5, units6),
            dropout=dropout,
            activation=activation,
            classifier_init=init,
            **options,
        )

    def features(self, x: jax.Array) -> jax.Array:
        """Returns the feature maps before the head, [B, H', W', C']."""
        x = self.pool1(self.activation(self.conv1(x)))
        x = self.pool2(self.activation(self.conv2(x)))
        return x if self.conv3 is None else self.activation(self.conv3(x))

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        return self.head(self.features(x), rngs=rngs)
