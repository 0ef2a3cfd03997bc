"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) and ZFNet (Zeiler, Fergus 2013), which differ by a table.

AlexNet, the paper's Fig. 2 on 227x227 (its text says 224, which does not fit an 11x11 kernel with stride 4):

layer   kernel, maps                 output    parameters   with the paper's 2 groups
conv1   11x11/4, pad 0, 96           55x55         34,944
pool1   3x3/2 (normalised before)    27x27
conv2   5x5, pad 2, 256              27x27        614,656   307,456 (2 groups)
pool2   3x3/2 (normalised before)    13x13
conv3   3x3, pad 1, 384              13x13        885,120
conv4   3x3, pad 1, 384              13x13      1,327,488   663,936 (2 groups)
conv5   3x3, pad 1, 256              13x13        884,992   442,624 (2 groups)
pool3   3x3/2                        6x6
fc6     4096                                   37,752,832
fc7     4096                                   16,781,312
fc8     1000                                    4,097,000

ZFNet, the paper's Fig. 3: conv1 7x7/2, pad 1, 110x110; conv2 5x5/2, 26x26; pool1 and pool2 with padding 1.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn import windows
from cnn_jax.nn.init import InitKeys, scaled
from cnn_jax.nn.layers import NORMS, ConvBlock, LocalResponseNorm
from cnn_jax.nn.network import Network
from cnn_jax.nn.pooling import make_pool


class Variant(NamedTuple):
    """One row of the table."""

    convolutions: tuple[tuple[int, int, int, int], ...]  # (maps, kernel, stride, padding) of conv1 to conv5
    groups: int = 1  # of conv2, conv4 and conv5
    pool_padding: int = 0  # of pool1 and pool2


PADDED = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
ONE_TOWER = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
UNPADDED = ((96, 11, 4, 0), (256, 5, 1, 0), (384, 3, 1, 0), (384, 3, 1, 0), (256, 3, 1, 0))
ZFNET = ((96, 7, 2, 1), (256, 5, 2, 0), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
ZFNET_WIDE = ((96, 7, 2, 1), (256, 5, 2, 0), (512, 3, 1, 1), (1024, 3, 1, 1), (512, 3, 1, 1))
ZFNET_UNPADDED = ((96, 7, 4, 0), (256, 5, 1, 0), (512, 3, 1, 0), (1024, 3, 1, 0), (512, 3, 1, 0))

VARIANTS = {
    "grouped": Variant(PADDED, groups=2),  # the paper's, halved over two GPUs
    "ungrouped": Variant(PADDED),  # as most lectures have it, on 227x227, or on 224x224 with sizes rounded down
    "unpadded": Variant(UNPADDED),  # as some lectures have it: no padding at all, ends in 2x2
    "one_tower": Variant(ONE_TOWER),  # Krizhevsky 2014; with norm="none" on 224x224 it is torchvision's
    "zfnet": Variant(ZFNET, pool_padding=1),  # the paper's
    "zfnet_wide": Variant(ZFNET_WIDE, pool_padding=1),  # as lectures have it: 512, 1024, 512 maps
    "zfnet_unpadded": Variant(ZFNET_UNPADDED),  # "unpadded" with a 7x7 kernel and these maps: no stride changes
}
POOLED = (1, 2, 5)  # the convolutions that a pooling layer follows
NORMALISED = (1, 2)  # those with a local response normalisation (section 3.3)
BIASED = (2, 4, 5)  # those whose biases start at `initial_bias` (section 5), as do those of the hidden linear layers


class AlexNet(Network):
    """AlexNet: images [B, H, W, C] -> class scores [B, num_classes].

    variant: a row of `VARIANTS`. groups: of conv2, conv4 and conv5; 0 takes the variant's.
    kernel_plan: "single", or "stacked": two 3x3 convolutions in the place of a 5x5, three in that of a 7x7.
    norm: "lrn" after conv1 and conv2, "batch" after every convolution, or "none".
    lrn_after_pool: norm="lrn" stands behind the pooling (ZFNet, and lectures) and not before it.
    activation: "relu", or another of `init.ACTIVATIONS` (section 3.1 compares with tanh).
    pool: "max", "average" or "conv". overlapping: windows of 3x3, or of 2x2 without padding, with stride 2 (section
      3.4): from the paper's images the maps have the same sizes.
    head: "fc" (the paper's) with `fc_sizes`, "gap", "flatten" or "conv"; see `network.Head`, also for `dropout`.
    width: multiplies maps and hidden units. norm_decay: of BatchNorm's running averages. init: of the kernels.
    initial_bias: of the biases that the paper starts at 1, those of conv2, conv4, conv5 and the hidden linear layers;
      the others start at 0. Caffe's reference network takes 0.1.

    Raises:
      UserError: a field has an impossible value, or the image is too small.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        input_shape: Sequence[int] = (227, 227, 3),
        variant: str = "grouped",
        groups: int = 0,
        kernel_plan: str = "single",
        norm: str = "lrn",
        lrn_after_pool: bool = False,
        activation: str = "relu",
        pool: str = "max",
        overlapping: bool = True,
        head: str = "fc",
        fc_sizes: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        width: float = 1.0,
        norm_decay: float = 0.9,
        init: str = "normal_0.01",
        initial_bias: float = 1.0,
        dtype: Any = None,
        rngs: InitKeys,
    ):
        check_choice("variant", variant, VARIANTS)
        check_choice("norm", norm, NORMS)
        check_choice("kernel_plan", kernel_plan, ("single", "stacked"))
        check(groups >= 0, f"groups is {groups}, but must be at least 1, or 0 for the groups of the variant")
        row = VARIANTS[variant]
        options: dict[str, Any] = dict(init=init, dtype=dtype, rngs=rngs)

        channels = input_shape[-1]
        for i, (maps, *window) in enumerate(row.convolutions, start=1):
            block = partial(
                ConvBlock,
                groups=(groups or row.groups) if i in BIASED else 1,
                norm="batch" if norm == "batch" else "none",
                norm_decay=norm_decay,
                activation=activation,
                **options,
            )
            plan = kernel_plan if window[0] in (5, 7) else "single"
            before, channels = channels, scaled(maps, width)
            self.append_row(f"conv{i}", block, before, channels, windows.kernel_plan(plan, *window))
            normalised = norm == "lrn" and i in NORMALISED
            if normalised and not lrn_after_pool:
                self.append(f"norm{i}", LocalResponseNorm())
            if i in POOLED:
                padding = row.pool_padding if overlapping and i in NORMALISED else 0
                size = 3 if overlapping else 2
                self.append(f"pool{POOLED.index(i) + 1}", make_pool(pool, channels, size, 2, padding, **options))
            if normalised and lrn_after_pool:
                self.append(f"norm{i}", LocalResponseNorm())

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
        # Section 5.
        biased = tuple(f"conv{i}" for i in BIASED)
        convolutions = [getattr(self, name).conv for name in self.order if name.startswith(biased)]
        for layer in (*convolutions, *self.head.hidden):
            layer.bias.set_value(jnp.full(layer.bias.shape, initial_bias, jnp.float32))


# Section 3.1 of the paper starts all biases at 0, and its normalisation follows the pooling (Fig. 3).
zfnet = partial(AlexNet, variant="zfnet", input_shape=(224, 224, 3), lrn_after_pool=True, initial_bias=0.0)
