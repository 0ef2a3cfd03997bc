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

import jax
from flax import nnx

from cnn_jax.errors import check, check_choice
from cnn_jax.models.layers import ConvBlock, Head, Keys, Pool, feature_shape, scaled

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


class NiN(nnx.Module):
    """Network in Network: images [B, H, W, C] -> class scores [B, num_classes].

    layout: "imagenet" or "cifar", a table above.
    mlpconv: False leaves the 1x1 convolutions of the stages out: plain convolutions.
    norm: "none" (the paper) or "batch", after every convolution of the stages, which then has no bias.
    head: "conv" (the paper) or "gap", "flatten", "fc" with `fc_sizes`; see `layers.Head`.
    dropout: the rate after the pools of the table. width: multiplies all channels.
    norm_decay: of BatchNorm's running averages. init: of the kernels, see `layers.INITS`.

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
        norm: str = "none",
        activation: str = "relu",
        head: str = "conv",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "he_fan_in",
        dtype: Any = None,
        rngs: Keys,
    ):
        check_choice("layout", layout, LAYOUTS)
        check_choice("norm", norm, ("none", "batch"))
        check(0 <= dropout < 1, f"dropout is {dropout}, but must be in [0, 1): the share of features set to zero")
        options: dict[str, Any] = dict(activation=activation, init=init, dtype=dtype, rngs=rngs)
        block = partial(ConvBlock, bias=norm == "none", norm=norm, norm_decay=norm_decay, **options)
        in_channels = input_shape[-1]
        names: list[str] = []
        for stage, (kernel, stride, padding, channels, pooling) in enumerate(LAYOUTS[layout], start=1):
            for i, n in enumerate(channels if mlpconv else channels[:1], start=1):
                out_channels = scaled(n, width)
                size = (kernel, stride, padding) if i == 1 else (1, 1, 0)
                names.append(f"conv{stage}_{i}")
                setattr(self, names[-1], block(in_channels, out_channels, *size))
                in_channels = out_channels
            if pooling is not None:
                kind, drops = pooling
                names.append(f"pool{stage}")
                setattr(self, names[-1], Pool(kind, 3, 2, ceil=True))
                if drops:
                    names.append(f"dropout{stage}")
                    setattr(self, names[-1], nnx.Dropout(dropout))
        self.names = tuple(names)

        self.head = Head(
            feature_shape(nnx.view(self, deterministic=True), input_shape),
            num_classes,
            kind=head,
            fc_sizes=fc_sizes,
            dropout=dropout if head == "fc" else 0.0,
            classifier_init=init,
            **options,
        )

    def features(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        """Returns the feature maps before the head, [B, H', W', C']."""
        for i, name in enumerate(self.names):
            layer = getattr(self, name)
            if isinstance(layer, nnx.Dropout):
                x = layer(x, rngs=None if rngs is None else jax.random.fold_in(rngs, i))
            else:
                x = layer(x)
        return x

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> jax.Array:
        x = self.features(x, rngs=rngs)
        return self.head(x, rngs=None if rngs is None else jax.random.fold_in(rngs, len(self.names)))


nin = partial(NiN, layout="imagenet")
nin_cifar = partial(NiN, layout="cifar", num_classes=10, input_shape=(32, 32, 3))
