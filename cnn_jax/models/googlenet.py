"""GoogLeNet (Szegedy et al. 2014, "Going Deeper with Convolutions").

Table 1 of the paper. "reduce" are 1x1 convolutions before the 3x3 and the 5x5, "proj" the one behind the max pooling:

    layer            output      1x1   3x3 reduce   3x3   5x5 reduce   5x5   pool proj
    conv1  7x7/2     112x112x64
    pool1  3x3/2     56x56x64
    conv2  3x3       56x56x192         64           192
    pool2  3x3/2     28x28x192
    3a               28x28x256   64    96           128   16           32    32
    3b               28x28x480   128   128          192   32           96    64
    pool3  3x3/2     14x14x480
    4a               14x14x512   192   96           208   16           48    64
    4b               14x14x512   160   112          224   24           64    64
    4c               14x14x512   128   128          256   24           64    64
    4d               14x14x528   112   144          288   32           64    64
    4e               14x14x832   256   160          320   32           128   128
    pool4  3x3/2     7x7x832
    5a               7x7x832     256   160          320   32           128   128
    5b               7x7x1024    384   192          384   48           128   128
    head             1x1x1024    global average pool, dropout (40%), linear

Local response normalisation follows pool1 and conv2 (Fig. 3). The auxiliary classifiers on 4a and 4d (section 5):
5x5/3 average pooling, 1x1 convolution of 128, linear 1024, dropout (70%), linear; their losses count 0.3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn import windows
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import ConvBlock, LocalResponseNorm
from cnn_jax.nn.network import Network, feature_shape, fold_in
from cnn_jax.nn.pooling import AdaptiveAveragePool, Pool, make_pool

# The Inception modules in the order of Table 1: (1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj); and max pooling.
MODULES: dict[str, tuple[int, ...] | None] = {
    "inception_3a": (64, 96, 128, 16, 32, 32),
    "inception_3b": (128, 128, 192, 32, 96, 64),
    "pool3": None,
    "inception_4a": (192, 96, 208, 16, 48, 64),
    "inception_4b": (160, 112, 224, 24, 64, 64),
    "inception_4c": (128, 128, 256, 24, 64, 64),
    "inception_4d": (112, 144, 288, 32, 64, 64),
    "inception_4e": (256, 160, 320, 32, 128, 128),
    "pool4": None,
    "inception_5a": (256, 160, 320, 32, 128, 128),
    "inception_5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = {"inception_4a": "auxiliary_4a", "inception_4d": "auxiliary_4d"}  # the module that each stands on
VARIANTS = ("paper", "torchvision")

Block = Callable[..., ConvBlock]  # (input channels, output channels, kernel, stride, padding)


class Inception(nnx.Module):
    """Four branches on one input, concatenated: 1x1; 3x3; 5x5; max pooling (Fig. 2), [B, H, W, C] -> [B, H, W, C'].

    row: of `MODULES`. reduction=False: the naive module (Fig. 2a), without reductions and without projection.
    small: the branch of 5x5 has 3x3. kernel_plan: see `GoogLeNet`.
    """

    def __init__(
        self, in_channels: int, row: Sequence[int], block: Block, *, reduction: bool, small: bool, kernel_plan: str
    ):
        ones, reduce3, threes, reduce5, fives, projection = row
        self.conv1x1 = block(in_channels, ones, 1)
        self.reduce3x3 = block(in_channels, reduce3, 1) if reduction else None
        self.conv3x3 = block(reduce3 if reduction else in_channels, threes, 3, 1, 1)
        self.reduce5x5 = block(in_channels, reduce5, 1) if reduction else None
        first, *second = [(3, 1, 1)] if small else windows.kernel_plan(kernel_plan, 5, 1, 2)
        self.conv5x5 = block(reduce5 if reduction else in_channels, fives, *first)
        self.conv5x5_second = block(fives, fives, *second[0]) if second else None
        self.pool = Pool("max", 3, 1, 1)
        self.projection = block(in_channels, projection, 1) if reduction else None
        self.out_channels = ones + threes + fives + (projection if reduction else in_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        ones = self.conv1x1(x)
        threes = self.conv3x3(x if self.reduce3x3 is None else self.reduce3x3(x))
        fives = self.conv5x5(x if self.reduce5x5 is None else self.reduce5x5(x))
        fives = fives if self.conv5x5_second is None else self.conv5x5_second(fives)
        pooled = self.pool(x)
        pooled = pooled if self.projection is None else self.projection(pooled)
        return jnp.concatenate([ones, threes, fives, pooled], axis=-1)


class AuxiliaryClassifier(Network):
    """Average pooling, 1x1 convolution, one hidden layer: maps [B, H, W, C] -> class scores [B, num_classes].

    variant "torchvision" pools to 4x4 whatever the map.
    """

    def __init__(
        self, in_shape: Sequence[int], num_classes: int, block: Block, *, variant: str, width: float, **head: Any
    ):
        self.append("pool", AdaptiveAveragePool(4) if variant == "torchvision" else Pool("average", 5, 3))
        self.append("conv", block(in_shape[-1], scaled(128, width), 1))
        self.append_head(in_shape, num_classes, head="fc", fc_sizes=(1024,), width=width, **head)


class GoogLeNet(Network):
    """GoogLeNet: images [B, H, W, C] -> class scores [B, num_classes].

    auxiliary: builds the two auxiliary classifiers. In training the result is then a tuple: scores, (scores of 4a,
      scores of 4d), `auxiliary_weight`; in evaluation (`nnx.view(model, deterministic=True)`) it is the scores.
    auxiliary_dropout: the dropout rate of theirs.
    norm: "lrn" (the paper; constants of Krizhevsky et al. 2012), "batch" (after every convolution, which then has no
      bias) or "none".
    variant: "torchvision" has 3x3 in the place of 5x5, a pool4 of 2x2/2, epsilon 1e-3 in BatchNorm and another pooling
      of the auxiliary classifiers; with norm="batch" it is torchvision's network.
    reduction: False makes the modules naive (Fig. 2a): no 1x1 reductions and projections.
    kernel_plan: "single", or "stacked": two 3x3 convolutions in the place of each 5x5 (Szegedy et al. 2016, Fig. 5) and
      three in that of the first 7x7.
    pool: "max", "average" or "conv", of the four pools between modules. overlapping: their windows are 3x3, or 2x2.
    head, fc_sizes, dropout: see `network.Head`. width: multiplies all channels, and the hidden units of the auxiliary
      classifiers.
    norm_decay: of BatchNorm's running averages. init: of the kernels, see `init.INITS`.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (224, 224, 3),
        variant: str = "paper",
        norm: str = "lrn",
        auxiliary: bool = False,
        auxiliary_weight: float = 0.3,
        auxiliary_dropout: float = 0.7,
        reduction: bool = True,
        kernel_plan: str = "single",
        pool: str = "max",
        overlapping: bool = True,
        activation: str = "relu",
        head: str = "gap",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.4,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "glorot_uniform",
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("variant", variant, VARIANTS)
        check_choice("norm", norm, ("lrn", "batch", "none"))
        check(
            (variant, kernel_plan) != ("torchvision", "stacked"),
            "kernel_plan is 'stacked', but variant 'torchvision' has no 5x5 to replace: use variant='paper'",
        )
        check(auxiliary_weight >= 0, f"auxiliary_weight is {auxiliary_weight}, but must not be negative")
        check(0 <= auxiliary_dropout < 1, f"auxiliary_dropout is {auxiliary_dropout}, but must be in [0, 1)")
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)
        block = partial(
            ConvBlock,
            bias=norm != "batch",
            norm="batch" if norm == "batch" else "none",
            norm_decay=norm_decay,
            norm_epsilon=1e-3 if variant == "torchvision" else 1e-5,
            activation=activation,
            **options,
        )
        head_options: dict[str, Any] = dict(activation=activation, classifier_init=init, **options)
        channels, channels2 = scaled(64, width), scaled(192, width)

        window = (3 if overlapping else 2, 2)  # size and stride
        self.append_row("conv1", block, input_shape[-1], channels, windows.kernel_plan(kernel_plan, 7, 2, 3))
        self.append("pool1", make_pool(pool, channels, *window, ceil=True, **options))
        if norm == "lrn":
            self.append("norm1", LocalResponseNorm())
        self.append("conv2_reduce", block(channels, channels, 1))
        self.append("conv2", block(channels, channels2, 3, 1, 1))
        if norm == "lrn":
            self.append("norm2", LocalResponseNorm())
        self.append("pool2", make_pool(pool, channels2, *window, ceil=True, **options))

        # In training the network says what its auxiliary classifiers do; nnx.view sets it, as that of nnx.Dropout.
        self.deterministic = False
        self.auxiliary = auxiliary
        self.auxiliary_weight = auxiliary_weight
        channels = channels2
        for name, row in MODULES.items():
            if row is None:
                small = name == "pool4" and variant == "torchvision"
                size = (2, 2) if small else window
                self.append(name, make_pool(pool, channels, *size, ceil=True, **options))
                continue
            row = [scaled(n, width) for n in row]
            inception = Inception(
                channels, row, block, reduction=reduction, small=variant == "torchvision", kernel_plan=kernel_plan
            )
            self.append(name, inception)
            channels = inception.out_channels
            if auxiliary and name in AUXILIARY:
                shape = feature_shape(self, input_shape)
                check(
                    variant == "torchvision" or min(shape[:-1]) >= 5,
                    f"an image of {input_shape[0]}x{input_shape[1]} is too small for auxiliary classifiers: the map of "
                    f"{name} is {shape[0]}x{shape[1]}, but they pool 5x5. Use larger images, or auxiliary=False",
                )
                classifier = AuxiliaryClassifier(
                    shape, num_classes, block, variant=variant, width=width, dropout=auxiliary_dropout, **head_options
                )
                setattr(self, AUXILIARY[name], classifier)

        self.append_head(
            input_shape, num_classes, head=head, fc_sizes=fc_sizes, width=width, dropout=dropout, **head_options
        )

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode; `nnx.view` calls it."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> Any:
        if not self.auxiliary:
            return super().__call__(x, rngs=rngs)
        # Auxiliary classifiers run in evaluation too, so that a table of layers has them; a compiled program drops
        # what nobody uses.
        others = []
        for i, name in enumerate(self.order):
            x = getattr(self, name)(x)
            if name in AUXILIARY:
                others.append(getattr(self, AUXILIARY[name])(x, rngs=fold_in(rngs, i)))
        scores = self.head(x, rngs=fold_in(rngs, len(self.order)))
        return scores if self.deterministic else (scores, tuple(others), self.auxiliary_weight)
