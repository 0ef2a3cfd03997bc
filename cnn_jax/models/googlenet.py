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

Local response normalization follows pool1 and conv2 (Fig. 3). The auxiliary classifiers on 4a and 4d (section 5):
5x5/3 average pooling, 1x1 convolution of 128, linear 1024, dropout (70%), linear; their losses count 0.3.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.core.errors import check
from cnn_jax.core.rules import NOT_NEGATIVE, SHARE, Choice, option
from cnn_jax.nn import windows
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.layers import NORMS, ConvBlock, LocalResponseNorm
from cnn_jax.nn.network import Network, fold_in
from cnn_jax.nn.pooling import POOLS, AdaptiveAveragePool, Pool

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
AUXILIARY = {"inception_4a": "auxiliary_4a", "inception_4d": "auxiliary_4d"}  # module: the auxiliary classifier on it

Block = Callable[..., ConvBlock]  # (input channels, output channels, kernel, stride, padding)


class Inception(nnx.Module):
    """Four branches on one input, concatenated: 1x1; 3x3; 5x5; max pooling (Fig. 2), [B, H, W, C] -> [B, H, W, C'].

    row: of `MODULES`. reduction=False: the naive module (Fig. 2a), without reductions and without projection.
    small: the 5x5 branch uses 3x3. kernel_plan: see `GoogLeNet`.
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


class AuxiliaryNetwork(Network):
    """A network with auxiliary classifiers, see `GoogLeNet.auxiliary`."""

    def __init__(self, input_shape: Sequence[int], family: "GoogLeNet"):
        super().__init__(input_shape, family)
        self.auxiliary_weight = family.auxiliary_weight
        self.deterministic = False  # as in nnx.Dropout: starts in training mode

    def append(self, name: str, layer: Any) -> None:
        if name in AUXILIARY.values():  # not in the row
            setattr(self, name, layer)
        else:
            super().append(name, layer)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode; `nnx.view` calls it."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, x: jax.Array, *, rngs: jax.Array | None = None) -> Any:
        self.check_input(x)
        # Auxiliary classifiers run in evaluation too, so that the layer table has them; a compiled program drops what
        # is not used.
        others = []
        for i, name in enumerate(self.order):
            x = getattr(self, name)(x)
            if name in AUXILIARY:
                others.append(getattr(self, AUXILIARY[name])(x, rngs=fold_in(rngs, i)))
        scores = self.head(x, rngs=fold_in(rngs, len(self.order)))
        return scores if self.deterministic else (scores, tuple(others), self.auxiliary_weight)


class GoogLeNet(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]."""

    variant: str = option(
        "paper",
        "torchvision: 3x3 for 5x5, a pool4 of 2x2/2, epsilon 1e-3 in BatchNorm and another pooling of the auxiliary "
        "classifiers; with norm=batch it is torchvision's network.",
        Choice("paper", "torchvision"),
    )
    norm: str = option(
        "lrn",
        "lrn: after pool1 and conv2, with the constants of Krizhevsky et al. 2012; batch, group, layer: after every "
        "convolution, which then has no bias.",
        Choice(*NORMS),
    )
    auxiliary: bool = option(
        False,
        "Two auxiliary classifiers. In training the network returns (scores, (scores of 4a, scores of 4d), "
        "auxiliary_weight), in evaluation the scores. Images need 79x79 pixels.",
    )
    auxiliary_weight: float = option(0.3, "Weight of the loss of each auxiliary classifier.", NOT_NEGATIVE)
    auxiliary_dropout: float = option(0.7, "Dropout rate of the auxiliary classifiers.", SHARE)
    reduction: bool = option(True, "False: naive modules (Fig. 2a) without 1x1 reductions and projections.")
    kernel_plan: str = option(
        "single",
        "stacked: two 3x3 convolutions replace each 5x5 (Szegedy et al. 2016, Fig. 5), three replace the first 7x7.",
        Choice(*windows.KERNEL_PLANS),
    )
    pool: str = option("max", "The four pools between modules; conv: a strided convolution.", Choice(*POOLS))
    overlapping: bool = option(True, "Windows of these pools are 3x3 with stride 2; False: 2x2.")
    head: str = "gap"
    dropout: float = 0.4
    init: str = "glorot_uniform"

    bias_before_norm = False

    def check(self) -> None:
        check(
            self.num_classes > 0 or not self.auxiliary,
            "num_classes is 0, but auxiliary classifiers need classes: use auxiliary=False",
        )
        check(
            (self.variant, self.kernel_plan) != ("torchvision", "stacked"),
            "kernel_plan is 'stacked', but variant 'torchvision' has no 5x5 to replace: use variant='paper'",
        )

    def network(self) -> Network:
        return AuxiliaryNetwork(self.input_shape, self) if self.auxiliary else super().network()

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        torchvision, lrn = self.variant == "torchvision", self.norm == "lrn"
        form = dict(norm="none" if lrn else self.norm, norm_epsilon=1e-3 if torchvision else 1e-5)
        block = partial(make.ConvBlock, **form)
        window = (3 if self.overlapping else 2, 2)  # size and stride

        yield from make.blocks("conv1", 64, windows.kernel_plan(self.kernel_plan, 7, 2, 3), **form)
        yield "pool1", make.pool(self.pool, *window, ceil=True)
        if lrn:
            yield "norm1", LocalResponseNorm()
        yield "conv2_reduce", make.block(64, 1, **form)
        yield "conv2", make.block(192, 3, 1, 1, **form)
        if lrn:
            yield "norm2", LocalResponseNorm()
        yield "pool2", make.pool(self.pool, *window, ceil=True)

        for name, row in MODULES.items():
            if row is None:
                small = name == "pool4" and torchvision
                yield name, make.pool(self.pool, *((2, 2) if small else window), ceil=True)
                continue
            row = [make.scaled(n) for n in row]
            inception = Inception(
                make.channels, row, block, reduction=self.reduction, small=torchvision, kernel_plan=self.kernel_plan
            )
            make.channels = inception.out_channels
            yield name, inception
            if self.auxiliary and name in AUXILIARY:
                yield AUXILIARY[name], self.classifier(name, make, block)

    def classifier(self, name: str, make: LayerMaker, block: Block) -> Network:
        """Returns the auxiliary classifier on the module `name`: maps [B, H, W, C] -> class scores."""
        shape = make.shape()
        check(
            self.variant == "torchvision" or min(shape[:-1]) >= 5,
            f"an image of {self.input_shape[0]}x{self.input_shape[1]} is too small for auxiliary classifiers: the map "
            f"of {name} is {shape[0]}x{shape[1]}, but they pool 5x5. Use larger images, or auxiliary=False",
        )
        classifier = Network(shape)
        pool = AdaptiveAveragePool(4) if self.variant == "torchvision" else Pool("average", 5, 3)
        classifier.append("pool", pool)
        classifier.append("conv", block(shape[-1], make.scaled(128), 1))
        head = make.head_options(kind="fc", fc_sizes=(1024,), dropout=self.auxiliary_dropout)
        classifier.append_head(self.num_classes, **head)
        return classifier
