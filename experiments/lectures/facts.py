"""The numbers of the lectures: what a slide says, what is right by an independent count, and what our networks give.

`FACTS` is the table. `ours` is computed from the modules each time; `right` is by hand, or the paper's. Lectures are
called by the first three digits of their files.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cnn_jax
from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, Totals, layer_table, stages, totals
from experiments.lectures import (
    axes,
    backprop,
    convolution,
    dilation,
    feedforward,
    flattened,
    layers,
    pixels,
    pooling,
    sizes,
    toy,
)

Value = Any  # int, float, or a list of rows


@dataclass(frozen=True)
class Fact:
    """One number, or one map.

    slide: as it is there, or a map; None where it has none, or a damaged one. right: the independent value.
    """

    lecture: str
    what: str
    slide: Any
    right: Value
    ours: Callable[[], Value]
    why: str = ""

    def verdict(self, ours: Value) -> str:
        """Returns how the slide compares with a value of ours, or "CONTRADICTION" if that is not the right one."""
        if not same(ours, self.right):
            return "CONTRADICTION"
        if self.slide is None:
            return "unreadable" if "damaged" in self.why else "not on the slide"
        if not isinstance(self.slide, str):
            return "agrees" if same(self.slide, ours) else "wrong on the slide"
        low, value, high = interval(self.slide)
        number = float(np.ravel(ours)[0])
        if self.slide.startswith(">"):
            return "agrees" if number > value else "wrong on the slide"
        if math.isclose(value, number, rel_tol=1e-9):
            return "agrees"
        if low <= number <= high:
            return "rounded"
        return "cut off" if value < number < value + (high - low) else "wrong on the slide"


def same(one: Value, other: Value) -> bool:
    return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=1e-6, atol=1e-6))


PREFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 1024, "%": 1}


def interval(text: str) -> tuple[float, float, float]:
    """Returns (lowest, written, highest) of the numbers that are rounded to a text such as "27.55M" or "1.8 G"."""
    match = re.fullmatch(r"[~>]?\s*([\d,]+(?:\.(\d+))?)\s*(Ki|[KMG%]?)", text)
    assert match, text
    unit = PREFIXES[match[3]]
    value, half = float(match[1].replace(",", "")) * unit, unit * 10.0 ** -len(match[2] or "") / 2
    return (
        (value, value, value) if unit == 1 and not match[2] and match[3] != "%" else (value - half, value, value + half)
    )


# ---------------------------------------------------------------- what our networks are


@functools.cache
def _rows(name: str, fields: tuple) -> list[LayerRow]:
    given = dict(fields)
    shape = given.get("input_shape", models.fields(name)["input_shape"])
    return layer_table(lambda: cnn_jax.create(name, **given), shape)


def rows(name: str, **fields: Any) -> list[LayerRow]:
    return _rows(name, tuple(sorted(fields.items())))


def total(name: str, **fields: Any) -> Totals:
    return totals(rows(name, **fields), fields.get("input_shape", models.fields(name)["input_shape"]))


def layer(place: str, name: str, **fields: Any) -> LayerRow:
    """Returns the row of one layer, "conv1" for conv1/conv."""
    return next(row for row in rows(name, **fields) if row.name.removesuffix("/conv") == place)


def weights(found: Sequence[LayerRow]) -> int:
    return sum(row.parameters - row.biases for row in found)


def inception(name: str) -> list[LayerRow]:
    """Returns the layers of a row of GoogLeNet's table, of the paper's network without normalization."""
    parts = stages(rows("googlenet", norm="none")).items()
    return [row for key, part in parts for row in part if key in (name, f"{name}_reduce", f"inception_{name}")]


def fc_share(name: str, **fields: Any) -> float:
    """Returns the share of linear layers in the parameters, %."""
    found = total(name, **fields)
    return 100 * found.linear_parameters / found.parameters


def stem(name: str, last: str) -> list[LayerRow]:
    """Returns the layers of a network up to the one whose map is 28x28, without normalization."""
    found = [row for row in rows(name) if row.kind != "norm"]
    return found[: 1 + [row.name.removesuffix("/conv") for row in found].index(last)]


def mebibytes(found: Sequence[LayerRow]) -> float:
    return 4 * sum(row.outputs for row in found) / 2**20


def ninths(maps: Any) -> list:
    return np.rint(9 * np.asarray(maps)).astype(int).tolist()


def whole(array: Any) -> list:
    return np.rint(np.asarray(array)).astype(int).tolist()


def difference(place: str, **changed: Any) -> int:
    """Returns by how many weights a layer of the lecture's ZFNet has more than its AlexNet, both without padding."""
    zfnet = dict(variant="zfnet_unpadded", norm="none", input_shape=(227, 227, 3))
    new, old = layer(place, "zfnet", **zfnet), layer(place, "alexnet", variant="unpadded", norm="none")
    return weights([new]) - weights([old])


def sequence(found: Sequence[LayerRow], kinds: Sequence[str] = ("conv", "pool", "linear")) -> list[int]:
    return [row.outputs for row in found if row.kind in kinds]


LENET = dict(input_shape=(28, 28, 1))
A = dict(variant="ungrouped")  # of 227 pixels, "(a)"
C = dict(variant="unpadded", norm="none")
D = dict(variant="ungrouped", norm="none", input_shape=(224, 224, 3))

# ---------------------------------------------------------------- the table

# Row of GoogLeNet's table: parameters and operations on the slide, weights and MACs by hand.
INCEPTION = {
    "conv1": ("2.7Ki", "34M", 9_408, 118_013_952),
    "conv2": ("112Ki", "360M", 114_688, 359_661_568),
    "3a": ("159Ki", "128M", 163_328, 128_049_152),
    "3b": ("380Ki", "304M", 388_096, 304_267_264),
    "4a": ("364Ki", "73M", 375_552, 73_608_192),
    "4b": ("437Ki", "88M", 448_512, 87_908_352),
    "4c": ("463Ki", "100M", 509_440, 99_850_240),
    "4d": ("580Ki", "119M", 604_672, 118_515_712),
    "4e": ("840Ki", "170M", 867_328, 169_996_288),
    "5a": ("1072Ki", "54M", 1_042_432, 51_079_168),
    "5b": ("1388Ki", "71M", 1_442_816, 70_697_984),
    "head": ("1000Ki", "1M", 1_024_000, 1_024_000),
}
# Of the toy's three maps, in ninths; cells of the slides' copies are damaged, the pooled maps are not.
DIAGONAL = [[7, -1, 1, 3, 5, -1, 3], [-1, 9, -1, 3, -1, 1, -1], [1, -1, 9, -3, 1, -1, 5], [3, 3, -3, 5, -3, 3, 3]]
DIAGONAL += [[5, -1, 1, -3, 9, -1, 1], [-1, 1, -1, 3, -1, 9, -1], [3, -1, 5, 3, 1, -1, 7]]
CROSSING = [[3, -5, 1, -1, 1, -5, 3], [-5, 5, -5, 3, -5, 5, -5], [1, -5, 5, -7, 5, -5, 1], [-1, 3, -7, 9, -7, 3, -1]]
CROSSING += CROSSING[2::-1]
POOLED = {
    "diagonal": [[9, 3, 5, 3], [3, 9, 3, 5], [5, 3, 9, 1], [3, 5, 1, 7]],
    "crossing": [[5, 3, 5, 3], [3, 9, 5, 1], [5, 5, 5, 1], [3, 1, 1, 3]],
    "antidiagonal": [[3, 5, 9, 7], [5, 5, 9, 3], [9, 9, 1, 5], [7, 3, 5, 3]],
}
MAPS = {"diagonal": DIAGONAL, "crossing": CROSSING, "antidiagonal": [row[::-1] for row in DIAGONAL]}
EDGE_MAPS = {
    "vertical": [[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16]],
    "horizontal": [[-7, -11, 2, 4], [10, 17, 9, -3], [4, 5, -1, -7], [-7, -6, 1, 2]],
    "sobel": [[-12, -8, 5, 16], [-10, 0, 3, 5], [-3, -2, -8, -14], [0, -6, -4, -18]],
    "scharr": [[-64, -40, 35, 80], [-30, 8, 13, 23], [-21, -6, -40, -70], [12, -34, -16, -62]],
}
RESNETS = {18: ("1.8G", 1_814_073_344), 34: ("3.6G", 3_663_761_408), 50: ("3.8G", 3_857_973_248)}
RESNETS |= {101: ("7.6G", 7_570_194_432), 152: ("11.3G", 11_282_415_616)}
VGGS = {"vgg11": ("133M", 132_863_336), "vgg13": ("133M", 133_047_848), "vgg16c": ("134M", 133_638_952)}
VGGS |= {"vgg16": ("138M", 138_357_544), "vgg19": ("144M", 143_667_240)}


def _examples() -> list[Fact]:
    slide_padded = [[2, 2, 3, 1, 1], [1, 4, 3, 4, 1], [2, 2, 4, 3, 3], [1, 2, 3, 4, 1], [1, 2, 3, 1, 1]]
    padded = [[2, 2, 3, 1, 1], [1, 4, 3, 4, 1], [2, 2, 5, 3, 3], [1, 3, 3, 4, 1], [1, 2, 3, 1, 1]]
    small = ((1, 5, 3, 9), (4, 4, 7, 5), (6, 7, 5, 6), (6, 5, 3, 1))
    ones = [[14, 24, 33, 24], [27, 42, 51, 35], [32, 47, 43, 27], [24, 32, 27, 15]]
    shown = [[14, 24, 33, 24], [27, 41, 42, 21], [33, 32, 35, 27], [24, 32, 27, 15]]
    found = [
        Fact(
            *("001", f"edge under the {name} filter", edge, edge),
            lambda name=name: whole(layers.convolve(convolution.EDGE, convolution.FILTERS[name])),
            'the slide: "Schorr"' if name == "scharr" else "",
        )
        for name, value in (("vertical", 30), ("horizontal", 0), ("sobel", 40), ("scharr", 160))
        for edge in [[[0, value, value, 0]] * 4]
    ]
    found += [
        Fact(
            *("001", f"6x6 image under the {name} filter", expected, expected),
            lambda name=name: whole(layers.convolve(convolution.IMAGE, convolution.FILTERS[name])),
        )
        for name, expected in EDGE_MAPS.items()
    ]
    found += [
        Fact(
            *("001", "a filter found by gradient descent", None, [[1, 0, -1]] * 3),
            lambda: whole(convolution.learn()),
            "the slide has w1 to w9",
        ),
        Fact(
            "001",
            "weights of a dense layer 36 to 16",
            "576",
            36 * 16,
            lambda: feedforward.matrix(np.ones((3, 3)), 6).size,
        ),
        Fact(
            *("004", "of them not zero in a convolution", None, 9 * 16),
            lambda: np.count_nonzero(feedforward.matrix(np.ones((3, 3)), 6)),
            "the slide shows the others in grey",
        ),
        Fact(
            *("001", "5x5 image, padding 1", slide_padded, padded),
            lambda: whole(layers.convolve(sizes.PADDED, sizes.CROSS, padding=1)),
            "4 for 5 and 2 for 3, for the image that is printed",
        ),
        Fact(
            *("001", "max pooling 2x2", [[8, 9], [9, 4]], [[8, 9], [9, 4]]),
            lambda: whole(layers.pool(pooling.IMAGE, "max", 2, 2)),
        ),
        Fact(
            *("001", "average pooling 2x2", [[3.5, 6.25], [4.5, 2.5]], [[14 / 4, 25 / 4], [18 / 4, 10 / 4]]),
            lambda: layers.pool(pooling.IMAGE, "average", 2, 2).tolist(),
        ),
        Fact(
            *("002", "max pooling 2x2", [[3, 9], [3, 7]], [[3, 9], [3, 7]]),
            lambda: whole(layers.pool(((0, 1, 4, 9), (3, 2, 5, 8), (1, 2, 3, 1), (3, 1, 7, 4)), "max", 2, 2)),
        ),
        Fact("001", "span of a 3x3 kernel of rate 2", "5", 1 + 2 * 2, lambda: dilation.field((2,))),
        Fact(
            *("001", "receptive field at rates 1, 2, 4, 8", None, [3, 7, 15, 31]),
            lambda: [dilation.field((1, 2, 4, 8)[:i]) for i in range(1, 5)],
            "exponential, says the slide",
        ),
        Fact(
            *("001", '"3D convolution"', [[1, 6, 5], [7, 10, 9], [7, 10, 8]], [[1, 5, 6], [7, 8, 3], [3, 10, 4]]),
            lambda: whole(layers.convolve(axes.STRIDED, axes.KERNEL, stride=2, padding=1)),
            "a 2-D example; other numbers for the printed kernel",
        ),
        Fact(
            *("002", "VGG's example of 4x4", shown, ones),
            lambda: whole(layers.convolve(small, np.ones((3, 3)), padding=1)),
            "no 3x3 filter gives the slide's map; all ones come nearest",
        ),
        Fact(
            "001",
            "MLP 16x16-100-26",
            "28236",
            256 * 100 + 100 + 100 * 26 + 26,
            lambda: pixels.mlp(256, 100, 26),
            "digits swapped",
        ),
        Fact("002", "MLP 784-100, weights", "78K", 78_400, lambda: pixels.mlp(784, 100, 10) - 100 - 1010),
        Fact(
            *("002", "pixels of 256x256", "56,000", 65_536),
            lambda: int(np.prod(np.zeros((256, 256)).shape)),
            "and 6,553,600 weights to 100 units, not 560k",
        ),
        Fact(
            *("002", "errors of the backprop table", [0.08, 0.49, 0.57], [0.08, 0.51, 0.59]),
            lambda: list(backprop.errors().values()),
            "|0 - 0.51| is 0.51",
        ),
        Fact("002", "7 pixels, filter 3, stride 1", "5", 5, lambda: sizes.output(7, 3, 1)),
        Fact("002", "7 pixels, filter 3, stride 2", "3", 3, lambda: sizes.output(7, 3, 2)),
        Fact(
            *("002", "paddings at which stride 3 fits 7 pixels", None, [1]),
            lambda: sizes.paddings(7, 3, 3),
            "it does not fit without, as the slide says",
        ),
        Fact(
            *("002", "32 pixels under 5x5 filters", [32, 28, 24], [32, 28, 24]),
            lambda: sizes.shrinking(32, 5)[:3],
        ),
        Fact("002", "10 filters 5x5x3, padding 2: parameters", "760", 10 * 76, lambda: sizes.cost(32, 3, 5, 10, 2)[0]),
        Fact(
            *("002", "pixels of the deformed X that differ", None, 81 - 65),
            lambda: int((toy.X != toy.DEFORMED).sum()),
            "computers are literal",
        ),
    ]
    for name, expected in MAPS.items():
        damaged = {"diagonal": 9, "crossing": 14, "antidiagonal": 13}[name]
        found.append(
            Fact(
                *("002", f"X under the {name} feature, ninths", None, expected),
                lambda name=name: ninths(toy.maps(toy.X)[name]),
                f"{damaged} of 49 cells are damaged in the text",
            )
        )
        found.append(
            Fact(
                *("002", "the same, pooled to 4x4", POOLED[name], POOLED[name]),
                lambda name=name: ninths(toy.pooled(toy.maps(toy.X)[name])),
                "5/9 and 7/9 are cut to .55 and .77 there",
            )
        )
    return found


def _costs() -> list[Fact]:
    return [
        Fact(
            *("001", "5x5 on 28x28x192, 32 filters: MACs", "120M", 28 * 28 * 32 * 25 * 192),
            lambda: flattened.counts(192, 28, 5, 32)["dense"][1],
        ),
        Fact(
            *("001", "the same behind 16 of 1x1: MACs", "12.4M", 28 * 28 * (192 * 16 + 25 * 16 * 32)),
            lambda: sizes.cost(28, 192, 1, 16)[1] + sizes.cost(28, 16, 5, 32, 2)[1],
        ),
        Fact(
            *("001", "the same: weights", "15873", 192 * 16 + 25 * 16 * 32),
            lambda: sizes.cost(28, 192, 1, 16)[0] - 16 + sizes.cost(28, 16, 5, 32, 2)[0] - 32,
            "9.68 times fewer, not 10",
        ),
        Fact(
            *("001", "flattened 5x5 on 192 channels: weights", None, 192 * 32 + 2 * 5 * 32),
            lambda: flattened.counts(192, 28, 5, 32)["flattened"][0],
            "Jin et al. 2014; the slide calls it a Fire layer",
        ),
    ]


def _networks() -> list[Fact]:
    found = [
        Fact(
            "003",
            "LeNet-5, outputs of the layers",
            None,
            [4704, 1176, 1600, 400, 120, 84, 10],
            lambda: sequence(rows("lenet5")),
            'volume is not "preserved"; 400 is flattened, not 120',
        ),
        Fact(
            "003",
            "LeNet-5, 400 to 120",
            None,
            400 * 120 + 120,
            lambda: layer("head/hidden/0", "lenet5").parameters,
            "missing on the slide",
        ),
        Fact("002", "AlexNet conv1, parameters", "35K", 34_848, lambda: weights([layer("conv1", "alexnet", **A)])),
        Fact("000", "AlexNet conv1, parameters", "34K", 34_848, lambda: weights([layer("conv1", "alexnet", **C)])),
        Fact(
            "000", "AlexNet conv4, parameters", "1.327M", 1_327_104, lambda: weights([layer("conv4", "alexnet", **C)])
        ),
        Fact(
            "001",
            "AlexNet of 224 pixels, FC1",
            "26,214,656",
            6400 * 4096 + 4096,
            lambda: layer("head/hidden/0", "alexnet", **D).parameters,
            "256 biases for 4096",
        ),
        Fact(
            "001",
            "AlexNet of 224 pixels, in all",
            "50,840,168",
            50_844_008,
            lambda: total("alexnet", **D).parameters,
            "the sum of the slide's rows",
        ),
        Fact(
            "001",
            "AlexNet of 224 pixels, conv2",
            "25",
            26,
            lambda: layer("conv2", "alexnet", **D).output_shape[0],
            "26 on the later slides; 213/4 + 1 = 54.25 is rounded down",
        ),
        Fact(
            "000",
            "AlexNet without padding, in all",
            "27.55M",
            28_813_344,
            lambda: total("alexnet", **C).weights,
            "the sum of what was left of each row",
        ),
        Fact("000", "ZFNet - AlexNet, layer 1", "20.7K", 20_736, lambda: -difference("conv1"), "fewer in ZFNet"),
        Fact("000", "layer 5", "0.29M", 294_912, lambda: difference("conv3")),
        Fact("000", "layer 6", "0.8M", 3_391_488, lambda: difference("conv4"), "3x3x(512*1024 - 384*384)"),
        Fact("000", "layer 7", "0.36M", 3_833_856, lambda: difference("conv5"), "3x3x(1024*512 - 384*256)"),
        Fact("000", "layer 9", "0", 4_194_304, lambda: difference("head/hidden/0"), "its input has twice the maps"),
        Fact(
            "000",
            "convolutions in all",
            "1.45M",
            7_499_520,
            lambda: sum(difference(f"conv{i}") for i in range(1, 6)),
            "layer 1 left out, and the errors above",
        ),
        Fact(
            "000",
            "VGG-16, convolutions",
            "~16M",
            14_710_464,
            lambda: weights([row for row in rows("vgg16") if row.kind == "conv"]),
        ),
        Fact(
            "000",
            "VGG-16, linear layers",
            "~122M",
            123_633_664,
            lambda: weights([row for row in rows("vgg16") if row.kind == "linear"]),
            "with 1024 classes for 1000",
        ),
        Fact(
            "002",
            "VGG-16, memory forward",
            "93M",
            4 * 15_237_608,
            lambda: 4 * total("vgg16").activations,
            "bytes; the slide's own rows add to 15.2M values, not 24M",
        ),
        Fact(
            "003",
            "stem of VGG-16 to 28x28, MiB",
            "42.9",
            13_447_168 * 4 / 2**20,
            lambda: mebibytes(stem("vgg16", "pool3")),
            "two of three convolutions, and no pools",
        ),
        Fact("003", "stem of VGG-16, weights", "1.1M", 1_734_336, lambda: weights(stem("vgg16", "pool3"))),
        Fact(
            "003", "stem of GoogLeNet, MiB", "7.5", 1_956_864 * 4 / 2**20, lambda: mebibytes(stem("googlenet", "pool2"))
        ),
        Fact("003", "stem of GoogLeNet, weights", "124K", 124_096, lambda: weights(stem("googlenet", "pool2"))),
        Fact(
            "003",
            "stem of GoogLeNet, MACs",
            None,
            477_675_520,
            lambda: sum(row.macs for row in stem("googlenet", "pool2")),
        ),
        Fact(
            "002",
            "GoogLeNet, parameters",
            "5M",
            6_998_552,
            lambda: total("googlenet").parameters,
            "5,973,552 without the classifier; one linear layer stays",
        ),
        Fact(
            "002",
            "how many times fewer than AlexNet (227, two towers)",
            "12",
            60_965_224 / 6_998_552,
            lambda: total("alexnet").parameters / total("googlenet").parameters,
            "12 with 5M only",
        ),
    ]
    found += [
        Fact("001", f"share of linear layers, {told}", "> 90%", 100 * part / everything, share)
        for told, part, everything, share in (
            ("AlexNet, 227 pixels", 58_631_144, 62_378_344, lambda: fc_share("alexnet", **A)),
            ("AlexNet, two towers", 58_631_144, 60_965_224, lambda: fc_share("alexnet")),
            ("AlexNet without padding", 25_076_712, 28_823_912, lambda: fc_share("alexnet", **C)),
            ("AlexNet, 224 pixels", 47_096_808, 50_844_008, lambda: fc_share("alexnet", **D)),
            ("VGG-11", 123_642_856, 132_863_336, lambda: fc_share("vgg11")),
            ("VGG-16", 123_642_856, 138_357_544, lambda: fc_share("vgg16")),
            ("VGG-19", 123_642_856, 143_667_240, lambda: fc_share("vgg19")),
        )
    ]
    found += [
        Fact("002", f"{name}, parameters", slide, right, lambda name=name: total(name).parameters)
        for name, (slide, right) in VGGS.items()
    ]
    for name, (slide, operations, count, macs) in INCEPTION.items():
        told, part = f"GoogLeNet {name}", functools.partial(inception, name)
        found.append(Fact("002", f"{told}, weights", slide, count, lambda part=part: weights(part()), "Ki is 1024"))
        found.append(Fact("002", f"{told}, MACs", operations, macs, lambda part=part: sum(row.macs for row in part())))
    found += [
        Fact(
            "002",
            f"ResNet-{depth}, multiply-adds",
            slide,
            right,
            lambda depth=depth: total(f"resnet{depth}", variant="v1").macs,
            "FLOPs on the slide",
        )
        for depth, (slide, right) in RESNETS.items()
    ]
    return found


# What a slide says that is no count: each with what is right.
WORDS = (
    ("002", "weight decay of ResNet", "1e-5", "1e-4 in the paper, section 3.4"),
    ("002", "top-5 error of 16.4% and of 15.4%", "both", "both are right: 5 networks, and 7 with more data"),
    ("001", "the filter of 3, 10, 3", "Schorr", "Scharr"),
    ("001", "flattened convolution", "Fire layer", "Jin et al. 2014; Fire is squeeze 1x1, expand 1x1 and 3x3"),
    ("004", "ZFNet's first layer", "stride 4", "stride 2 in the paper, and in conv2 as well"),
    (
        "001",
        "style transfer, enhancement, detection",
        "named",
        "out of scope: other data and losses than classes",
    ),
    ("003", "volume of LeNet's maps", "preserved", "784, 4704, 1176, 1600, 400, 120"),
)

FACTS = [*_examples(), *_costs(), *_networks()]
