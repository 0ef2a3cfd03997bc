"""The X/O network of the lecture "How convolutional neural networks work": does an image of 9x9 show an X or an O?

    layer        output    parameters
    conv1        7x7x3       3*9 + 3 = 30    3x3, three features, each a mean of products with the patch
    ReLU
    pool1        4x4x3                       2x2 maximum, stride 2; the last windows reach over the border
    classifier   2 votes    48*2 + 2 = 98    every value gets a vote

White pixels are 1, black ones -1. The three features are the pieces of an X: both diagonals and the crossing. Where a
feature agrees with all 9 pixels of a patch, the match is 9/9 = 1.00; 8 of 9 give 7/9 = 0.77, as the lecture cuts it.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.core.rules import Choice, Rule, option
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.layers import Conv

FEATURES = {
    "diagonal": ((1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
    "crossing": ((1, -1, 1), (-1, 1, -1), (1, -1, 1)),
    "antidiagonal": ((-1, -1, 1), (-1, 1, -1), (1, -1, -1)),
}


def lecture_kernels() -> np.ndarray:
    """Returns the three features, divided by their 9 pixels, as a kernel [3, 3, 1, 3]."""
    return np.stack([np.asarray(feature, np.float32) / 9 for feature in FEATURES.values()], axis=-1)[:, :, None]


class ToyNet(Family):
    """Convolution, ReLU and pooling, stacked, then votes: images [B, H, W, C] -> class scores [B, num_classes]."""

    features_from: str = option(
        "learning",
        "lecture: conv1 starts at the three features above, with zero biases, for images of one channel. Training "
        "continues from there; optim.lr_multipliers of 0 for conv1 keeps them.",
        Choice("learning", "lecture"),
    )
    num_features: int = option(3, "Number of features.")
    kernel: int = option(3, "Size of a feature, pixels.")
    stages: int = option(
        1,
        "Number of stages of convolution, ReLU and pool.",
        Rule("at least 1: a convolution, ReLU and a pool", lambda stages: stages >= 1),
    )
    pool_size: int = option(2, "Pooling window, pixels.")
    pool_stride: int = option(2, "Stride of the pooling window, pixels.")
    num_classes: int = 2
    input_shape: tuple[int, ...] = (9, 9, 1)
    fc_sizes: tuple[int, ...] = option((), "Neurons of hidden layers of head=fc, which vote on votes.")

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for i in range(1, 1 + self.stages):
            block = make.block(self.num_features, self.kernel)
            if i == 1 and self.features_from == "lecture":
                self.set_features(block.conv)
            yield f"conv{i}", block
            yield f"pool{i}", make.pool(self.pool, self.pool_size, self.pool_stride, 0, ceil=True)

    @staticmethod
    def set_features(conv: Conv) -> None:
        """Starts a convolution at the lecture's features; raises UserError unless its kernel has their shape."""
        patterns, (*size, inputs, outputs) = lecture_kernels(), conv.kernel.shape
        check(
            patterns.shape == conv.kernel.shape,
            "features_from is 'lecture', whose kernels are 3x3 on 1 channel with 3 features, but this network's are "
            f"{'x'.join(map(str, size))} on {inputs} with {outputs}: set kernel=3, num_features=3 and width=1 with "
            "images of one channel, or features_from='learning'",
        )
        conv.kernel[...] = jnp.asarray(patterns)
