"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) and ZFNet (Zeiler, Fergus 2013), which differ by a table.

AlexNet, the paper's Fig. 2 on 227x227 (its text says 224, which does not fit an 11x11 kernel with stride 4):

layer   kernel, maps                 output    parameters   with the paper's 2 groups
conv1   11x11/4, pad 0, 96           55x55         34,944
pool1   3x3/2 (normalized before)    27x27
conv2   5x5, pad 2, 256              27x27        614,656   307,456 (2 groups)
pool2   3x3/2 (normalized before)    13x13
conv3   3x3, pad 1, 384              13x13        885,120
conv4   3x3, pad 1, 384              13x13      1,327,488   663,936 (2 groups)
conv5   3x3, pad 1, 256              13x13        884,992   442,624 (2 groups)
pool3   3x3/2                        6x6
fc6     4096                                   37,752,832
fc7     4096                                   16,781,312
fc8     1000                                    4,097,000

ZFNet, the paper's Fig. 3: conv1 7x7/2, pad 1, 110x110; conv2 5x5/2, 26x26; pool1 and pool2 with padding 1.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

from cnn_jax.core.rules import Choice, Rule, option
from cnn_jax.nn import windows
from cnn_jax.nn.family import Family, LayerMaker
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import NORMS, LocalResponseNorm
from cnn_jax.nn.network import Network


class Variant(NamedTuple):
    """One row of the table."""

    convolutions: tuple[tuple[int, int, int, int], ...]  # (maps, kernel, stride, padding) of conv1 to conv5
    groups: int = 1  # of conv2, conv4 and conv5
    pool_padding: int = 0  # of pool1 and pool2


PADDED = ((96, 11, 4, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
PADDED_224 = ((96, 11, 4, 2), *PADDED[1:])
ONE_TOWER = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
UNPADDED = ((96, 11, 4, 0), (256, 5, 1, 0), (384, 3, 1, 0), (384, 3, 1, 0), (256, 3, 1, 0))
ZFNET = ((96, 7, 2, 1), (256, 5, 2, 0), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
ZFNET_WIDE = ((96, 7, 2, 1), (256, 5, 2, 0), (512, 3, 1, 1), (1024, 3, 1, 1), (512, 3, 1, 1))
ZFNET_STRIDE_1 = ((96, 7, 2, 0), (256, 5, 1, 2), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))
ZFNET_STRIDES_2 = ((96, 7, 2, 0), (256, 5, 2, 0), (384, 3, 1, 0), (384, 3, 1, 0), (256, 3, 1, 0))
ZFNET_UNPADDED = ((96, 7, 4, 0), (256, 5, 1, 0), (512, 3, 1, 0), (1024, 3, 1, 0), (512, 3, 1, 0))

VARIANTS = {
    "grouped": Variant(PADDED, groups=2),  # the paper's, halved over two GPUs
    "ungrouped": Variant(PADDED),  # as in most lectures, on 227x227, or on 224x224 with sizes rounded down
    "grouped_224": Variant(PADDED_224, groups=2),  # on 224x224, with padding 2 in conv1: the same maps as on 227x227
    "ungrouped_224": Variant(PADDED_224),
    "unpadded": Variant(UNPADDED),  # as in some lectures: no padding at all, ends in 2x2
    "one_tower": Variant(ONE_TOWER),  # Krizhevsky 2014; with norm="none" on 224x224 it is torchvision's
    "zfnet": Variant(ZFNET, pool_padding=1),  # the paper's
    "zfnet_wide": Variant(ZFNET_WIDE, pool_padding=1),  # as in lectures: 512, 1024, 512 maps
    "zfnet_stride_1": Variant(ZFNET_STRIDE_1),  # conv1 without padding, and no stride in conv2
    "zfnet_strides_2": Variant(ZFNET_STRIDES_2),  # the paper's strides, and no padding at all
    "zfnet_unpadded": Variant(ZFNET_UNPADDED),  # "unpadded" with a 7x7 kernel and these maps: no stride changes
}
POOLED = (1, 2, 5)  # the convolutions that a pooling layer follows
NORMALIZED = (1, 2)  # those with a local response normalization (section 3.3)
BIASED = (2, 4, 5)  # those whose biases start at `initial_bias` (section 5), as do those of the hidden linear layers

OWN_GROUPS = Rule("at least 1, or 0 for the groups of the variant", lambda groups: groups >= 0)


class AlexNet(Family):
    """Images [B, H, W, C] -> class scores [B, num_classes]."""

    variant: str = option(
        "grouped",
        "grouped: the paper's, halved over two GPUs; ungrouped, unpadded: as in lectures; ..._224: for images of "
        "224x224, with padding 2 in conv1; one_tower: Krizhevsky 2014, with norm=none torchvision's; zfnet: ZFNet's; "
        "zfnet_wide, zfnet_unpadded, zfnet_stride_1, zfnet_strides_2: ZFNet's elsewhere.",
        Choice(*VARIANTS),
    )
    groups: int = option(0, "Groups of conv2, conv4 and conv5; 0: the variant's.", OWN_GROUPS)
    kernel_plan: str = option(
        "single", "stacked: two 3x3 convolutions replace a 5x5, three replace a 7x7.", Choice(*windows.KERNEL_PLANS)
    )
    norm: str = option("lrn", "lrn: after conv1 and conv2; the others: after every convolution.", Choice(*NORMS))
    lrn_after_pool: bool = option(False, "norm=lrn follows the pooling (ZFNet, and lectures) and not the convolution.")
    overlapping: bool = option(True, "Pooling windows of 3x3 with stride 2 (section 3.4); False: 2x2 without padding.")
    initial_bias: float = option(
        1.0,
        "Initial bias of conv2, conv4, conv5 and the hidden linear layers (section 5); all others start at 0. Caffe's "
        "reference network has 0.1.",
    )
    input_shape: tuple[int, ...] = (227, 227, 3)
    dropout: float = 0.5
    init: str = "normal_0.01"

    def layers(self, make: LayerMaker) -> Iterator[tuple[str, Any]]:
        row = VARIANTS[self.variant]
        for i, (maps, *window) in enumerate(row.convolutions, start=1):
            plan = self.kernel_plan if window[0] in (5, 7) else "single"
            groups = (self.groups or row.groups) if i in BIASED else 1
            norm = "none" if self.norm == "lrn" else self.norm
            yield from make.blocks(f"conv{i}", maps, windows.kernel_plan(plan, *window), groups=groups, norm=norm)
            normalized = self.norm == "lrn" and i in NORMALIZED
            if normalized and not self.lrn_after_pool:
                yield f"norm{i}", LocalResponseNorm()
            if i in POOLED:
                padding = row.pool_padding if self.overlapping and i in NORMALIZED else 0
                size = 3 if self.overlapping else 2
                yield f"pool{POOLED.index(i) + 1}", make.pool(self.pool, size, 2, padding)
            if normalized and self.lrn_after_pool:
                yield f"norm{i}", LocalResponseNorm()

    def build(self, rngs: InitKeys) -> Network:
        network = super().build(rngs)
        biased = tuple(f"conv{i}" for i in BIASED)
        convolutions = [getattr(network, name).conv for name in network.order if name.startswith(biased)]
        for layer in (*convolutions, *network.head.hidden):
            layer.bias.set_value(jnp.full(layer.bias.shape, self.initial_bias, jnp.float32))
        return network


class ZFNet(AlexNet):
    """Its paper starts all biases at 0 (section 3.1), and normalizes after the pooling (Fig. 3)."""

    variant: str = "zfnet"
    input_shape: tuple[int, ...] = (224, 224, 3)
    lrn_after_pool: bool = True
    initial_bias: float = 0.0
