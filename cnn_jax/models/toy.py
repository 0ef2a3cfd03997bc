"""The X/O network of the lecture "How convolutional neural networks work": does an image of 9x9 show an X or an O?

    layer        output    parameters
    conv1        7x7x3       3*9 + 3 = 30    3x3, three features, each a mean of products with the patch
    ReLU
    pool1        4x4x3                       2x2 maximum, stride 2; the last windows reach over the border
    classifier   2 votes    48*2 + 2 = 98    every value gets a vote

White pixels are 1, black ones -1. The three features are the pieces of an X: both diagonals and the crossing. Where a
feature agrees with all 9 pixels of a patch, the match is 9/9 = 1.00; 8 of 9 give 7/9 = 0.77, as the lecture cuts it.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import Conv, ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool

FEATURES = {
    "diagonal": ((1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
    "crossing": ((1, -1, 1), (-1, 1, -1), (1, -1, 1)),
    "antidiagonal": ((-1, -1, 1), (-1, 1, -1), (1, -1, -1)),
}


def lecture_kernels() -> np.ndarray:
    """Returns the three features, divided by their 9 pixels, as a kernel [3, 3, 1, 3]."""
    return np.stack([np.asarray(feature, np.float32) / 9 for feature in FEATURES.values()], axis=-1)[:, :, None]


class ToyNet(Network):
    """Convolution, ReLU and pooling, stacked, then votes: images [B, H, W, C] -> class scores [B, num_classes].

    The lecture's knobs: num_features and kernel (number and size of the features), pool_size and pool_stride (of the
    window), fc_sizes (neurons of hidden layers that vote on votes).
    features_from: "learning" starts conv1 at random; "lecture" at the three features above, with zero biases, for
      images of one channel. Training goes on from there (`optim.lr_multipliers` of 0 for conv1 keeps them).
    stages: how often convolution, ReLU and pooling follow one another.
    norm: "none", "batch" or "lrn". pool: "max", "average" or "conv". head, fc_sizes, dropout: see `network.Head`.
    width: multiplies features and hidden units.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        input_shape: Sequence[int] = (9, 9, 1),
        features_from: str = "learning",
        num_features: int = 3,
        kernel: int = 3,
        stages: int = 1,
        pool: str = "max",
        pool_size: int = 2,
        pool_stride: int = 2,
        activation: str = "relu",
        norm: str = "none",
        norm_decay: float = 0.9,
        head: str = "fc",
        fc_sizes: Sequence[int] = (),
        dropout: float = 0.0,
        width: float = 1.0,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("features_from", features_from, ("learning", "lecture"))
        check(stages >= 1, f"stages is {stages}, but must be at least 1: a convolution, ReLU and a pool")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        before, channels = input_shape[-1], scaled(num_features, width)
        for i in range(1, 1 + stages):
            block = ConvBlock(
                before, channels, kernel, norm=norm, norm_decay=norm_decay, activation=activation, **options
            )
            if i == 1 and features_from == "lecture":
                self._set_features(block.conv)
            self.append(f"conv{i}", block)
            self.append(f"pool{i}", make_pool(pool, channels, pool_size, pool_stride, 0, ceil=True, **options))
            before = channels
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

    @staticmethod
    def _set_features(conv: Conv) -> None:
        patterns, (*size, inputs, outputs) = lecture_kernels(), conv.kernel.shape
        check(
            patterns.shape == conv.kernel.shape,
            "features_from is 'lecture', whose kernels are 3x3 on 1 channel with 3 features, but this network's are "
            f"{'x'.join(map(str, size))} on {inputs} with {outputs}: set kernel=3, num_features=3 and width=1 with "
            "images of one channel, or features_from='learning'",
        )
        conv.kernel[...] = jnp.asarray(patterns)
