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

Pools reach over the end where the strides leave a rest (Caffe's rule); an average counts only what is there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from flax import nnx

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool

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


class NiN(Network):
    """Network in Network: images [B, H, W, C] -> class scores [B, num_classes].

    layout: "imagenet" or "cifar", a table above.
    mlpconv: False leaves the 1x1 convolutions of the stages out: plain convolutions.
    pool: "paper", or one kind for all: "max", "average" or "conv". overlapping: windows of 3x3, or of 2x2, stride 2.
    norm: "none" (the paper), "lrn", or "batch", after every convolution of the stages, which then has no bias.
    head: "conv" (the paper) or "gap", "flatten", "fc" with `fc_sizes`; see `network.Head`.
    dropout: the rate after the pools of the table. width: multiplies all channels.
    norm_decay: of BatchNorm's running averages. init: of the kernels, see `init.INITS`.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        layout: str,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (227, 227, 3),
        mlpconv: bool = True,
        pool: str = "paper",
        overlapping: bool = True,
        norm: str = "none",
        activation: str = "relu",
        head: str = "conv",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("layout", layout, LAYOUTS)
        check_choice("pool", pool, ("paper", "max", "average", "conv"))
        check(0 <= dropout < 1, f"dropout is {dropout}, but must be in [0, 1): the share of features set to zero")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        block = partial(
            ConvBlock, bias=norm != "batch", norm=norm, norm_decay=norm_decay, activation=activation, **options
        )
        channels = input_shape[-1]
        for stage, (*window, maps, pooling) in enumerate(LAYOUTS[layout], start=1):
            for i, n in enumerate(maps if mlpconv else maps[:1], start=1):
                before, channels = channels, scaled(n, width)
                self.append(f"conv{stage}_{i}", block(before, channels, *(window if i == 1 else (1, 1, 0))))
            if pooling is not None:
                kind, drops = pooling
                kind = kind if pool == "paper" else pool
                size = 3 if overlapping else 2
                self.append(f"pool{stage}", make_pool(kind, channels, size, 2, ceil=True, **options))
                if drops:
                    self.append(f"dropout{stage}", nnx.Dropout(dropout))

        self.append_head(
            input_shape,
            num_classes,
            head=head,
            fc_sizes=fc_sizes,
            width=width,
            dropout=dropout if head == "fc" else 0.0,
            activation=activation,
            classifier_init=init,
            **options,
        )


nin = partial(NiN, layout="imagenet")
nin_cifar = partial(NiN, layout="cifar", num_classes=10, input_shape=(32, 32, 3))
