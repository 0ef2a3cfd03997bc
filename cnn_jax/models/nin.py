"""Network in Network (Lin, Chen, Yan 2013).

A stage is a convolution and two 1x1 convolutions, each with ReLU: a small network that slides over the map ("mlpconv",
section 3.1). The last 1x1 convolution has one map for each class, and global average pooling makes the scores (section
3.2). The paper (section 4.1, Fig. 2) gives no sizes; these are those of the networks in Caffe's model zoo:

    ImageNet                                            CIFAR
    stage  output    convolution       1x1         output   convolution      1x1
    1      55x55     11x11/4, 96       96, 96      32x32    5x5 pad 2, 192   160, 96
    pool   27x27     3x3/2 max                     16x16    3x3/2 max, dropout
    2      27x27     5x5 pad 2, 256    256, 256    16x16    5x5 pad 2, 192   192, 192
    pool   13x13     3x3/2 max                     8x8      3x3/2 average, dropout
    3      13x13     3x3 pad 1, 384    384, 384    8x8      3x3 pad 1, 192   192, classes
    pool   6x6       3x3/2 max, dropout            1x1      global average
    4      6x6       3x3 pad 1, 1024   1024, classes
    pool   1x1       global average

Pools round their output sizes up, so the last window may reach past the edge (Caffe's rule); an average counts only
what is inside. With ceil=False sizes are rounded down, as in PyTorch: on 224x224 the maps are 54, 26, 12 and 5.
"""

from collections.abc import Iterator
from typing import Any

from flax import nnx

from cnn_jax.core.rules import Choice, option
from cnn_jax.nn.family import DROPOUT, Family, LayerMaker
from cnn_jax.nn.pooling import POOLS

# One row for each stage: kernel, stride, padding, channels of its convolutions, and ("max" or "average", dropout
# follows?) for the pooling behind it. The head adds the last 1x1 convolution.
LAYOUTS = {
    "imagenet": (
        (11, 4, 0, (96, 96, 96), ("max", False)),
        (5, 1, 2, (256, 256, 256), ("max", False)),
        (3, 1, 1, (384, 384, 384), ("max", True)),
        (3, 1, 1, (1024, 1024), None),
    ),
    "cifar": (
        (5, 1, 2, (192, 160, 96), ("max", True)),
        (5, 1, 2, (192, 192, 192), ("average", True)),
        (3, 1, 1, (192, 192), None),
    ),
}


class NiN(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]."""

    layout: str = option("imagenet", "One of the two networks above.", Choice(*LAYOUTS))
    mlpconv: bool = option(True, "False: the stages without their 1x1 convolutions, plain convolutions.")
    pool: str = option("paper", "paper: the table's; or one kind for all.", Choice("paper", *POOLS))
    overlapping: bool = option(True, "Pooling windows of 3x3 with stride 2; False: 2x2.")
    ceil: bool = option(True, "Pools round their output sizes up; False: down.")
    input_shape: tuple[int, ...] = (227, 227, 3)
    head: str = "conv"
    dropout: float = option(0.5, "Dropout rate after the pools of the table, and in head=fc.", DROPOUT)

    bias_before_norm = False

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        for stage, (*window, maps, pooling) in enumerate(LAYOUTS[self.layout], start=1):
            for i, channels in enumerate(maps if self.mlpconv else maps[:1], start=1):
                yield f"conv{stage}_{i}", make.block(channels, *(window if i == 1 else (1, 1, 0)))
            if pooling is not None:
                kind, drops = pooling
                kind = kind if self.pool == "paper" else self.pool
                yield f"pool{stage}", make.pool(kind, 3 if self.overlapping else 2, 2, ceil=self.ceil)
                if drops:
                    yield f"dropout{stage}", nnx.Dropout(self.dropout)

    def head_options(self) -> dict[str, Any]:
        return {} if self.head == "fc" else dict(dropout=0.0)


class SmallNiN(NiN):
    """The network for images of 32x32, with `layout="cifar"`."""

    num_classes: int = 10
    input_shape: tuple[int, ...] = (32, 32, 3)
