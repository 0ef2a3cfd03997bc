"""The tables and worked numbers of the lectures, each next to what our networks are: shapes, parameters, MACs.

Where a slide's number is wrong, the right one is tested and the slide's stands in a comment. Nothing is computed.
"""

import functools
from typing import Any

import jax
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, layer_table, stages, totals
from cnn_jax.models.flattened import FlattenedConv
from cnn_jax.models.googlenet import MODULES, Inception
from cnn_jax.models.resnet import Block, basic, bottleneck
from cnn_jax.models.squeezenet import Fire
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv, ConvBlock, make_norm
from tiers import quick


@functools.cache
def _rows(name, fields) -> list[LayerRow]:
    fields = dict(fields)
    return layer_table(lambda: models.create(name, **fields), image(name, fields))


def rows(name, **fields) -> list[LayerRow]:
    """Returns the layer table of a network, made once."""
    return _rows(name, tuple(sorted(fields.items())))


def image(name, fields) -> tuple[int, ...]:
    return fields.get("input_shape", models.fields(name)["input_shape"])


def sums(name, **fields):
    return totals(rows(name, **fields), image(name, fields))


def outline(found) -> list[tuple[Any, ...]]:
    """Returns (layer, output, parameters, MACs) of every layer."""
    return [(row.name.removesuffix("/conv"), row.output_shape, row.parameters, row.macs) for row in found]


def parse(text: str) -> list[tuple[Any, ...]]:
    """Returns the lines of a table: layer, output, parameters and MACs, which may be missing: none."""
    lines = (line.partition("#")[0].split() for line in text.strip().splitlines())
    return [(name, size(shape), *map(int, numbers or (0, 0))) for name, shape, *numbers in lines]


def size(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


# ---------------------------------------------------------------- networks, layer by layer

# layer           output          parameters           MACs
LENET = """
conv1             28x28x6                156        117_600
pool1             14x14x6
conv2             10x10x16             2_416        240_000
pool2             5x5x16                                     # flattened 400; the slide: 120
head/hidden/0     120                 48_120         48_000  # not on the slide
head/hidden/1     84                  10_164         10_080
head/classifier   10                     850            840
"""
# The slide's other form of C5; [CONV-POOL-CONV-POOL-CONV-FC] of another lecture.
LENET_C5 = """
conv1             28x28x6                156        117_600
pool1             14x14x6
conv2             10x10x16             2_416        240_000
pool2             5x5x16
conv3             1x1x120             48_120         48_000
head/hidden/0     84                  10_164         10_080
head/classifier   10                     850            840
"""
ALEXNET = """
conv1             55x55x96            34_944    105_415_200  # 35K, 34K: 34,848 weights
pool1             27x27x96
norm1             27x27x96                                   # the lecture normalizes behind the pooling
conv2             27x27x256          614_656    447_897_600
pool2             13x13x256
norm2             13x13x256
conv3             13x13x384          885_120    149_520_384
conv4             13x13x384        1_327_488    224_280_576
conv5             13x13x256          884_992    149_520_384
pool3             6x6x256
head/hidden/0     4096            37_752_832     37_748_736
head/hidden/1     4096            16_781_312     16_777_216
head/classifier   1000             4_097_000      4_096_000
"""
# Sizes rounded down, which the slide's formula does not say: 213/4 + 1 = 54.25, 51/2 + 1, 23/2 + 1, 9/2 + 1.
ALEXNET_224 = """
conv1             54x54x96            34_944    101_616_768
pool1             26x26x96
conv2             26x26x256          614_656    415_334_400  # one slide: 25x25
pool2             12x12x256
conv3             12x12x384          885_120    127_401_984
conv4             12x12x384        1_327_488    191_102_976
conv5             12x12x256          884_992    127_401_984
pool3             5x5x256                                    # flattened 6400
head/hidden/0     4096            26_218_496     26_214_400  # the slide: 26,214,656, with 256 biases
head/hidden/1     4096            16_781_312     16_777_216
head/classifier   1000             4_097_000      4_096_000
"""
# The slides give weights, cut off: 34K, 0.6M, 0.8M, 1.327M, 0.8M, 4M, 16M, 4M; their sum, 27.55M, is of what was left.
ALEXNET_UNPADDED = """
conv1             55x55x96            34_944    105_415_200
pool1             27x27x96
conv2             23x23x256          614_656    325_017_600
pool2             11x11x256
conv3             9x9x384            885_120     71_663_616
conv4             7x7x384          1_327_488     65_028_096
conv5             5x5x256            884_992     22_118_400
pool3             2x2x256
head/hidden/0     4096             4_198_400      4_194_304
head/hidden/1     4096            16_781_312     16_777_216
head/classifier   1000             4_097_000      4_096_000
"""
# 7x7/2, and 512, 1024, 512 maps in conv3 to conv5.
ZFNET_WIDE = """
conv1             110x110x96          14_208    170_755_200
pool1             55x55x96
conv2             26x26x256          614_656    415_334_400
pool2             13x13x256
conv3             13x13x512        1_180_160    199_360_512
conv4             13x13x1024       4_719_616    797_442_048
conv5             13x13x512        4_719_104    797_442_048
pool3             6x6x512
head/hidden/0     4096            75_501_568     75_497_472
head/hidden/1     4096            16_781_312     16_777_216
head/classifier   1000             4_097_000      4_096_000
"""
# The same changes to AlexNet without padding, whose stride of 4 the slides keep.
ZFNET_UNPADDED = """
conv1             56x56x96            14_208     44_255_232
pool1             27x27x96
conv2             23x23x256          614_656    325_017_600
pool2             11x11x256
conv3             9x9x512          1_180_160     95_551_488
conv4             7x7x1024         4_719_616    231_211_008
conv5             5x5x512          4_719_104    117_964_800
pool3             2x2x512
head/hidden/0     4096             8_392_704      8_388_608
head/hidden/1     4096            16_781_312     16_777_216
head/classifier   1000             4_097_000      4_096_000
"""
SIZE_32 = dict(input_shape=(32, 32, 1), padding=0)


@pytest.mark.parametrize(
    ("name", "fields", "table"),
    [
        pytest.param("lenet5", {}, LENET, id="lenet"),
        pytest.param("lenet5", SIZE_32, LENET, id="lenet-32"),
        pytest.param("lenet5", dict(c5="conv"), LENET_C5, id="lenet-c5"),
        pytest.param("lenet5", SIZE_32 | dict(c5="conv"), LENET_C5, id="lenet-32-c5"),
        pytest.param("alexnet", dict(variant="ungrouped", lrn_after_pool=True), ALEXNET, id="alexnet"),
        pytest.param(
            "alexnet", dict(variant="ungrouped", norm="none", input_shape=(224, 224, 3)), ALEXNET_224, id="alexnet-224"
        ),
        pytest.param("alexnet", dict(variant="unpadded", norm="none"), ALEXNET_UNPADDED, id="alexnet-unpadded"),
        pytest.param("zfnet", dict(variant="zfnet_wide", norm="none"), ZFNET_WIDE, id="zfnet"),
        pytest.param(
            *("zfnet", dict(variant="zfnet_unpadded", norm="none", input_shape=(227, 227, 3)), ZFNET_UNPADDED),
            id="zfnet-unpadded",
        ),
    ],
)
def test_every_layer_is_that_of_the_lectures_table(name, fields, table):
    assert outline(rows(name, **fields)) == parse(table)


# One column for each configuration. The slide has lost rows of it: the second convolutions of the first two blocks in
# B to E, the third in D and the fourth ones in E.
VGG = """
A           A-LRN       B           C           D           E
conv3-64    conv3-64    conv3-64    conv3-64    conv3-64    conv3-64
.           LRN         conv3-64    conv3-64    conv3-64    conv3-64
maxpool     maxpool     maxpool     maxpool     maxpool     maxpool
conv3-128   conv3-128   conv3-128   conv3-128   conv3-128   conv3-128
.           .           conv3-128   conv3-128   conv3-128   conv3-128
maxpool     maxpool     maxpool     maxpool     maxpool     maxpool
conv3-256   conv3-256   conv3-256   conv3-256   conv3-256   conv3-256
conv3-256   conv3-256   conv3-256   conv3-256   conv3-256   conv3-256
.           .           .           conv1-256   conv3-256   conv3-256
.           .           .           .           .           conv3-256
maxpool     maxpool     maxpool     maxpool     maxpool     maxpool
conv3-512   conv3-512   conv3-512   conv3-512   conv3-512   conv3-512
conv3-512   conv3-512   conv3-512   conv3-512   conv3-512   conv3-512
.           .           .           conv1-512   conv3-512   conv3-512
.           .           .           .           .           conv3-512
maxpool     maxpool     maxpool     maxpool     maxpool     maxpool
conv3-512   conv3-512   conv3-512   conv3-512   conv3-512   conv3-512
conv3-512   conv3-512   conv3-512   conv3-512   conv3-512   conv3-512
.           .           .           conv1-512   conv3-512   conv3-512
.           .           .           .           .           conv3-512
maxpool     maxpool     maxpool     maxpool     maxpool     maxpool
FC-4096     FC-4096     FC-4096     FC-4096     FC-4096     FC-4096
FC-4096     FC-4096     FC-4096     FC-4096     FC-4096     FC-4096
FC-1000     FC-1000     FC-1000     FC-1000     FC-1000     FC-1000
"""
# (network, weight layers, parameters in millions)
VGG_COLUMNS = {
    "A": ("vgg11", 11, 133),
    "A-LRN": ("vgg11_lrn", 11, 133),
    "B": ("vgg13", 13, 133),
    "C": ("vgg16c", 16, 134),
    "D": ("vgg16", 16, 138),
    "E": ("vgg19", 19, 144),
}


@pytest.mark.parametrize("column", VGG_COLUMNS)
def test_vgg_is_a_column_of_the_configurations(column):
    def entry(row):
        channels = row.output_shape[-1]
        kinds = dict(conv=f"conv{row.detail[:1]}-{channels}", linear=f"FC-{channels}", pool="maxpool", norm="LRN")
        return kinds[row.kind]

    header, *lines = (line.split() for line in VGG.strip().splitlines())
    name, layers, millions = VGG_COLUMNS[column]
    found = rows(name)
    assert [entry(row) for row in found] == [
        line[header.index(column)] for line in lines if line[header.index(column)] != "."
    ]
    assert sum(row.kind in ("conv", "linear") for row in found) == layers
    assert [row.output_shape[0] for row in found if row.kind == "pool"] == [112, 56, 28, 14, 7]
    assert round(sums(name).parameters / 1e6) == millions


# layer           output       weights, "not counting biases"     MACs
VGG16 = """
conv1_1           224x224x64        1_728     86_704_128
conv1_2           224x224x64       36_864  1_849_688_064
pool1             112x112x64
conv2_1           112x112x128      73_728    924_844_032
conv2_2           112x112x128     147_456  1_849_688_064
pool2             56x56x128
conv3_1           56x56x256       294_912    924_844_032
conv3_2           56x56x256       589_824  1_849_688_064
conv3_3           56x56x256       589_824  1_849_688_064
pool3             28x28x256
conv4_1           28x28x512     1_179_648    924_844_032
conv4_2           28x28x512     2_359_296  1_849_688_064
conv4_3           28x28x512     2_359_296  1_849_688_064
pool4             14x14x512
conv5_1           14x14x512     2_359_296    462_422_016
conv5_2           14x14x512     2_359_296    462_422_016
conv5_3           14x14x512     2_359_296    462_422_016
pool5             7x7x512
head/hidden/0     4096        102_760_448    102_760_448
head/hidden/1     4096         16_777_216     16_777_216
head/classifier   1000          4_096_000      4_096_000
"""


def test_vgg16_has_the_weights_and_the_memory_of_the_lectures_table():
    found = rows("vgg16")
    weights = {row.name.removesuffix("/conv"): row.parameters - row.biases for row in found}
    assert [(name, shape, weights[name], macs) for name, shape, _, macs in outline(found)] == parse(VGG16)
    linear = [row for row in found if row.kind == "linear"]
    # Convolutions: ~16M on the slide. Linear layers: ~122M, of a sum with 1024 instead of 1000 classes.
    assert sum(weights.values()) - sum(row.macs for row in linear) == 14_710_464
    assert sum(row.macs for row in linear) == 123_633_664
    elements = {kind: sum(row.outputs for row in found if row.kind == kind) for kind in ("conv", "pool", "linear")}
    assert elements == dict(conv=13_547_520, pool=1_530_368, linear=9_192)
    assert sums("vgg16").activations == 224 * 224 * 3 + sum(elements.values()) == 15_237_608
    assert 4 * sums("vgg16").activations == 60_950_432  # bytes, 58.1 MiB; the slide: 24M * 4 bytes, 93 MB
    # With outputs of ReLU of their own, 115 MB: those of all but the pools and the last layer.
    assert 15_237_608 + elements["conv"] + elements["linear"] - 1000 == 28_793_320


# The slide's parameters are weights, K is 1024, and many of its numbers are others: conv1 2.7K and 34M operations, 4a
# 364K, 4c 463K, 4d 580K, 4e 840K, 5a 1072K and 54M, 5b 1388K.
# layer  output      1x1  3x3r  3x3  5x5r  5x5  proj      weights  biases         MACs
GOOGLENET = """
conv1    112x112x64    .     .    .     .    .     .        9_408      64  118_013_952
pool1    56x56x64      .     .    .     .    .     .            0       0            0
conv2    56x56x192     .    64  192     .    .     .      114_688     256  359_661_568
pool2    28x28x192     .     .    .     .    .     .            0       0            0
3a       28x28x256    64    96  128    16   32    32      163_328     368  128_049_152
3b       28x28x480   128   128  192    32   96    64      388_096     640  304_267_264
pool3    14x14x480     .     .    .     .    .     .            0       0            0
4a       14x14x512   192    96  208    16   48    64      375_552     624   73_608_192
4b       14x14x512   160   112  224    24   64    64      448_512     648   87_908_352
4c       14x14x512   128   128  256    24   64    64      509_440     664   99_850_240
4d       14x14x528   112   144  288    32   64    64      604_672     704  118_515_712
4e       14x14x832   256   160  320    32  128   128      867_328   1_024  169_996_288
pool4    7x7x832       .     .    .     .    .     .            0       0            0
5a       7x7x832     256   160  320    32  128   128    1_042_432   1_024   51_079_168
5b       7x7x1024    384   192  384    48  128   128    1_442_816   1_264   70_697_984
head     1000          .     .    .     .    .     .    1_024_000   1_000    1_024_000
"""
COLUMNS: tuple[str, ...] = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "projection")


def test_googlenet_is_the_lectures_table():
    groups: dict[str, list[LayerRow]] = {}
    for row in rows("googlenet", norm="none"):
        stage = row.stage.removeprefix("inception_").removesuffix("_reduce")
        groups.setdefault(stage, []).append(row)
    found = []
    for name, layers in groups.items():
        channels: dict[str, int] = {
            row.name.split("/")[1]: row.output_shape[-1] for row in layers if row.name.startswith("inception")
        }
        if name == "conv2":
            channels = dict(zip(COLUMNS[1:3], (row.output_shape[-1] for row in layers), strict=True))
        *positions, depth = layers[-1].output_shape
        if "conv1x1" in channels:
            assert {row.output_shape[:-1] for row in layers} == {tuple(positions)}
            depth = sum(channels[branch] for branch in ("conv1x1", "conv3x3", "conv5x5", "projection"))
        parameters, biases = sum(row.parameters for row in layers), sum(row.biases for row in layers)
        found.append(
            (
                *(name, (*positions, depth), *(channels.get(column) for column in COLUMNS)),
                *(parameters - biases, biases, sum(row.macs for row in layers)),
            )
        )
    lines = (line.split() for line in GOOGLENET.strip().splitlines())
    assert found == [
        (name, size(shape), *(None if n == "." else int(n) for n in numbers)) for name, shape, *numbers in lines
    ]
    assert groups["head"][0].output_shape == (1024,)  # the average pooling


# The layers of one block, and how many blocks of it.
# layer   output  | basic          18  34 | bottleneck                  50  101  152
RESNETS = """
conv2_x   56x56   | 3x3,64 3x3,64     2   3 | 1x1,64 3x3,64 1x1,256       3    3    3
conv3_x   28x28   | 3x3,128 3x3,128   2   4 | 1x1,128 3x3,128 1x1,512     4    4    8
conv4_x   14x14   | 3x3,256 3x3,256   2   6 | 1x1,256 3x3,256 1x1,1024    6   23   36
conv5_x   7x7     | 3x3,512 3x3,512   2   3 | 1x1,512 3x3,512 1x1,2048    3    3    3
"""
# Parameters and MACs of the stages conv2_x to conv5_x, and MACs in all; the slide's "FLOPs" are multiply-adds.
RESNET_STAGES = {
    18: (
        [(147_968, 462_422_016), (525_568, 411_041_792), (2_099_712, 411_041_792), (8_393_728, 411_041_792)],
        1_814_073_344,  # 1.8e9
    ),
    34: (
        [(221_952, 693_633_024), (1_116_416, 873_463_808), (6_822_400, 1_335_885_824), (13_114_368, 642_252_800)],
        3_663_761_408,  # 3.6e9 is that of shortcuts without projection: 3,644,493,824
    ),
    50: (
        [(215_808, 667_942_912), (1_219_584, 950_534_144), (7_098_368, 1_387_266_048), (14_964_736, 732_168_192)],
        3_857_973_248,  # 3.8e9, cut off
    ),
    101: (
        [(215_808, 667_942_912), (1_219_584, 950_534_144), (26_090_496, 5_099_487_232), (14_964_736, 732_168_192)],
        7_570_194_432,  # 7.6e9
    ),
    152: (
        [(215_808, 667_942_912), (2_339_840, 1_823_997_952), (40_613_888, 7_938_244_608), (14_964_736, 732_168_192)],
        11_282_415_616,  # 11.3e9
    ),
}


@pytest.mark.parametrize("depth", quick(RESNET_STAGES, (18, 50)))
def test_resnet_is_a_column_of_the_lectures_table(depth):
    found = stages(rows(f"resnet{depth}", variant="v1"))
    counts, macs = RESNET_STAGES[depth]
    assert [(row.detail, row.output_shape) for row in found["conv1"]] == [("7x7/2, pad 3", (112, 112, 64))]
    assert [(row.detail, row.output_shape) for row in found["pool1"]] == [("max 3x3/2, pad 1", (56, 56, 64))]
    for line, count in zip(RESNETS.strip().splitlines(), counts, strict=True):
        head, *halves = (part.split() for part in line.split("|"))
        layers, numbers = (halves[0][:2], halves[0][2:]) if depth < 50 else (halves[1][:3], halves[1][3:])
        blocks = int(numbers[(18, 34).index(depth) if depth < 50 else (50, 101, 152).index(depth)])
        stage = found.pop(head[0])
        convolutions = [row for row in stage if row.kind == "conv" and "shortcut" not in row.name]
        names = [f"{head[0]}/{b}/conv{i}" for b in range(blocks) for i in range(1, 1 + len(layers))]
        assert [row.name for row in convolutions] == names
        assert [f"{row.detail.split('/')[0]},{row.output_shape[-1]}" for row in convolutions] == layers * blocks
        assert {row.output_shape[:-1] for row in stage} == {size(head[1])}  # v1: the first layer has the stride
        assert (sum(row.parameters for row in stage), sum(row.macs for row in stage)) == count
    assert [row.output_shape[-1] for row in found.pop("head")] == [512 if depth < 50 else 2048, 1000]
    assert set(found) == {"conv1", "norm1", "pool1"}
    assert sums(f"resnet{depth}", variant="v1").macs == macs


# ---------------------------------------------------------------- totals that stand nowhere else

# (name, fields, parameters, weights, biases, BatchNorm parameters and statistics, parameters of convolutions (with
# BatchNorm) and of linear layers, MACs, those of convolutions and of linear layers, activations, receptive field and
# jump of the last convolution)
# fmt: off
TOTALS = [
    ("resnet101", dict(variant="v1", shortcut="A"), 41_772_584, 41_673_920, 1_000, 97_664, 97_664,
     39_723_584, 2_049_000, 7_210_532_864, 7_208_484_864, 2_048_000, 14_554_088, (1027, 1027), (32, 32)),
    ("resnet101", dict(variant="v1", shortcut="C"), 76_981_288, 76_817_600, 1_000, 162_688, 162_688,
     74_932_288, 2_049_000, 13_530_300_416, 13_528_252_416, 2_048_000, 23_485_416, (1027, 1027), (32, 32)),
    ("resnet32", dict(shortcut="B"), 466_906, 464_432, 10, 2_464, 2_464,
     466_256, 650, 69_124_736, 69_124_096, 640, 318_538, (137, 137), (4, 4)),
    ("resnet32", dict(residual=False), 464_154, 461_872, 10, 2_272, 2_272,
     463_504, 650, 68_862_592, 68_861_952, 640, 306_250, (137, 137), (4, 4)),
    ("resnet56", dict(residual=False), 853_018, 848_944, 10, 4_064, 4_064,
     852_368, 650, 125_485_696, 125_485_056, 640, 535_626, (249, 249), (4, 4)),
    ("resnet110", dict(shortcut="B"), 1_730_714, 1_722_416, 10, 8_288, 8_288,
     1_730_064, 650, 253_149_824, 253_149_184, 640, 1_064_010, (501, 501), (4, 4)),
    ("resnet110", dict(residual=False), 1_727_962, 1_719_856, 10, 8_096, 8_096,
     1_727_312, 650, 252_887_680, 252_887_040, 640, 1_051_722, (501, 501), (4, 4)),
    ("resnet1202", {}, 19_421_274, 19_331_632, 10, 89_632, 89_632,  # 13 s to trace
     19_420_624, 650, 2_829_238_912, 2_829_238_272, 640, 11_488_330, (5597, 5597), (4, 4)),
    # A bias for each of 64 + 128 + 2*256 + 4*512 maps and 4096 + 4096 + 101 units. Time is halved once less than space.
    ("c3d", {}, 78_409_573, 78_398_528, 2_752 + 8_293, 0, 0,
     27_655_936, 50_753_637, 38_547_378_176, 38_496_632_832, 50_745_344, 28_265_573, (68, 134, 134), (8, 16, 16)),
]
# fmt: on


def is_deep(row):
    return row[0] in ("resnet101", "resnet110", "resnet1202")


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if is_deep(row) else ()) for row in TOTALS],
    ids=["-".join([row[0], *(f"{field}={value}" for field, value in row[1].items())]) for row in TOTALS],
)
def test_the_totals_are_the_published_numbers(row):
    name, fields, *numbers = row
    found = sums(name, **fields)
    assert [
        *(found.parameters, found.weights, found.biases, found.norm_parameters, found.norm_statistics),
        *(found.conv_parameters, found.linear_parameters, found.macs, found.conv_macs, found.linear_macs),
        *(found.activations, found.receptive_field, found.jump),
    ] == numbers


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("name", "fields", "parameters"),
    [
        ("alexnet", dict(variant="ungrouped"), 58_631_144),
        ("alexnet", dict(variant="ungrouped", head="gap"), 4_004_200 - 3_747_200),
        ("vgg16", {}, 123_642_856),
        ("vgg16", dict(head="gap"), 513_000),
        ("googlenet", {}, 1_025_000),
        ("googlenet", dict(head="fc"), 226_403_304),
        ("resnet50", {}, 2_049_000),
        ("resnet50", dict(head="flatten"), 100_353_000),
        ("resnet50", dict(head="fc"), 431_924_200),
    ],
)
def test_a_head_has_the_parameters_of_the_ablation(name, fields, parameters):
    found = stages(rows(name, **fields))["head"]
    assert sum(row.parameters for row in found) == parameters
    assert sums(name, **fields).linear_parameters == parameters


@pytest.mark.parametrize(
    ("name", "fields", "percent"),
    [
        ("alexnet", {}, 96.17),
        ("alexnet", dict(variant="ungrouped"), 93.99),
        ("alexnet", dict(variant="unpadded", norm="none"), 87.00),
        ("alexnet", dict(variant="ungrouped", norm="none", input_shape=(224, 224, 3)), 92.63),
        ("vgg11", {}, 93.06),
        ("vgg13", {}, 92.93),
        ("vgg16", {}, 89.36),
        ("vgg19", {}, 86.06),
    ],
)
def test_linear_layers_have_about_nine_tenths_of_the_parameters(name, fields, percent):
    # "More than 90%" on the slide.
    found = sums(name, **fields)
    assert round(100 * found.linear_parameters / found.parameters, 2) == percent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The slide has 0 KB for the last layer. It counts GoogLeNet's biases, 1025K, and leaves out those of VGG.
        ("googlenet", [((1024,), 4, 0, 0), ((1000,), 4, 1_024_000, 1_024_000)]),
        (
            "vgg16",
            [
                ((4096,), 16, 102_760_448, 102_760_448),
                ((4096,), 16, 16_777_216, 16_777_216),
                ((1000,), 4, 4_096_000, 4_096_000),
            ],
        ),
    ],
)
def test_the_heads_side_by_side(name, expected):
    head = stages(rows(name))["head"]
    found = [(r.output_shape, round(4 * r.outputs / 1024), r.parameters - r.biases, r.macs) for r in head]
    assert found == expected  # output, KB, weights, MACs


def test_googlenet_is_small_beside_alexnet():
    ours, grouped, ungrouped = sums("googlenet"), sums("alexnet"), sums("alexnet", variant="ungrouped")
    # The slide: 5 million parameters, 12 times fewer than AlexNet, twice its compute, no linear layer.
    assert (ours.parameters, ours.conv_parameters, ours.linear_parameters) == (6_998_552, 5_973_552, 1_025_000)
    assert [round(other.parameters / ours.parameters, 1) for other in (grouped, ungrouped)] == [8.7, 8.9]
    assert [round(ours.macs / other.macs, 2) for other in (grouped, ungrouped)] == [2.18, 1.39]


# ---------------------------------------------------------------- from 224 pixels to 28


def stem(name, last, **fields):
    found = rows(name, **fields)
    return found[: [row.name for row in found].index(last) + 1]


def counts(found):
    """Returns (elements of the outputs, weights, parameters, MACs)."""
    parameters = sum(row.parameters for row in found)
    weights = parameters - sum(row.biases for row in found)
    return sum(row.outputs for row in found), weights, parameters, sum(row.macs for row in found)


def test_the_stem_of_googlenet_is_cheap():
    found = stem("googlenet", "pool2", norm="none")
    table = [(r.output_shape, r.outputs * 4 / 1024, round((r.parameters - r.biases) / 1000)) for r in found]
    assert table == [  # output, KB, weights in thousands
        ((112, 112, 64), 3136, 9),
        ((56, 56, 64), 784, 0),
        ((56, 56, 64), 784, 4),
        ((56, 56, 192), 2352, 111),
        ((28, 28, 192), 588, 0),
    ]
    assert counts(found) == (1_956_864, 124_096, 124_416, 477_675_520)  # 7644 KiB
    vgg16 = stem("vgg16", "pool3")
    assert counts(vgg16) == (13_447_168, 1_734_336, 1_735_488, 9_335_144_448)
    assert sum(row.outputs for row in vgg16) * 4 / 2**20 == 51.296875
    assert sum(row.outputs for row in vgg16 if row.kind == "conv") * 4 / 2**20 == 45.9375
    # The slide compares with 42.9 MB and 1.1M, which are VGG-13's without its pools.
    vgg13 = [row for row in stem("vgg13", "pool3") if row.kind == "conv"]
    elements, weights, _, macs = counts(vgg13)
    assert (elements * 4 / 2**20, weights, macs) == (42.875, 1_144_512, 7_485_456_384)


# ---------------------------------------------------------------- AlexNet and ZFNet


def weights(name, **fields):
    return {row.name.removesuffix("/conv"): row.parameters - row.biases for row in rows(name, **fields)}


# The slides have the absolute values of layers 1 and 5, 0.8M for 6, 0.36M for 7 and "no difference" for the linear
# layer, 1.45M in all.
@pytest.mark.parametrize(
    ("alexnet", "zfnet", "linear", "total"),
    [
        (
            dict(variant="unpadded", norm="none"),
            dict(variant="zfnet_unpadded", norm="none", input_shape=(227, 227, 3)),
            *(4_194_304, 11_693_824),
        ),
        (
            dict(variant="ungrouped", norm="none"),
            dict(variant="zfnet_wide", norm="none"),
            *(37_748_736, 45_248_256),
        ),
    ],
)
def test_zfnet_has_more_weights_than_alexnet(alexnet, zfnet, linear, total):
    before, after = weights("alexnet", **alexnet), weights("zfnet", **zfnet)
    differences = {name: after[name] - before[name] for name in before if after[name] != before[name]}
    convolutions = dict(conv1=-20_736, conv3=294_912, conv4=3_391_488, conv5=3_833_856)
    assert differences == convolutions | {"head/hidden/0": linear}
    assert sum(convolutions.values()) == 7_499_520
    assert sum(differences.values()) == total
    biases = 128 + 640 + 256  # of as many more maps
    assert sums("zfnet", **zfnet).parameters - sums("alexnet", **alexnet).parameters == total + biases


# ---------------------------------------------------------------- layers and modules


class Chain(nnx.Module):
    """Layers one after the other."""

    def __init__(self, layers):
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def options() -> dict[str, Any]:
    return dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))


def conv(*arguments, **fields):
    return Conv(*arguments, **options() | fields)


def block(*arguments):
    return ConvBlock(*arguments, **options())


def inception(reduction):
    return Inception(192, MODULES["inception_3a"] or (), block, reduction=reduction, small=False, kernel_plan="single")


def residual(plan, channels):
    norm = functools.partial(make_norm, "batch", rngs=InitKeys(jax.random.key(0)))
    fields: dict[str, Any] = dict(shortcut="B", residual=True, zero_gamma=False, activation="relu")
    return Block(channels, plan, conv=functools.partial(conv, bias=False), norm=norm, **fields)


PLAN: dict[str, Any] = dict(stride=1, variant="v1", groups=1, width_per_group=64, reduction=True)


# (module, image, weights and biases and MACs of its convolutions)
@pytest.mark.parametrize(
    ("create", "image", "expected"),
    [
        pytest.param(lambda: conv(192, 32, 5, 1, 2), (28, 28, 192), (153_600, 32, 120_422_400), id="direct"),
        # "15873 parameters, 10x less": 9.68 times.
        pytest.param(
            lambda: Chain([conv(192, 16, 1), conv(16, 32, 5, 1, 2)]),
            *((28, 28, 192), (15_872, 48, 2_408_448 + 10_035_200)),
            id="bottleneck",
        ),
        pytest.param(lambda: conv(192, 32, 1), (28, 28, 192), (6_144, 32, 4_816_896), id="1x1"),
        pytest.param(lambda: conv(32, 1, 1), (6, 6, 32), (32, 1, 1_152), id="1x1-one-filter"),
        # The slide calls flattened convolutions, c x 1 x 1, 1 x y x 1, 1 x 1 x x, a Fire layer.
        pytest.param(
            lambda: FlattenedConv(192, 32, 5, sets=1, dtype=None, **options()),
            (28, 28, 192),
            (6_464, 96, 5_067_776),
            id="flattened",
        ),
        pytest.param(
            lambda: Fire(192, (16, 16, 16), block, reduction=True, bypass="none"),
            *((28, 28, 192), (5_632, 48, 4_415_488)),
            id="fire",
        ),
        pytest.param(lambda: inception(True), (28, 28, 192), (163_328, 368, 128_049_152), id="inception-3a"),
        pytest.param(lambda: inception(False), (28, 28, 192), (387_072, 224, 303_464_448), id="inception-3a-naive"),
        pytest.param(
            lambda: residual(bottleneck(64, **PLAN), 256),
            *((56, 56, 256), (69_632, 0, 69_632 * 56**2)),
            id="residual-bottleneck-256",
        ),
        pytest.param(
            lambda: residual(basic(256, **PLAN), 256), (56, 56, 256), (1_179_648, 0, 1_179_648 * 56**2), id="basic-256"
        ),
        pytest.param(lambda: residual(basic(64, **PLAN), 64), (56, 56, 64), (73_728, 0, 73_728 * 56**2), id="basic-64"),
    ],
)
def test_a_module_costs_what_the_lecture_says(create, image, expected):
    found = [row for row in layer_table(create, image) if row.kind == "conv"]
    _, weights, parameters, macs = counts(found)
    assert (weights, parameters - weights, macs) == expected
    assert {row.output_shape[:-1] for row in found} == {image[:-1]}


def test_a_naive_module_widens_its_input():
    branches = layer_table(lambda: inception(False), (28, 28, 192))
    assert sum(row.output_shape[-1] for row in branches) == 416


# (image, [channels, kernel, stride, padding] of each convolution, outputs, parameters, MACs)
@pytest.mark.parametrize(
    ("image", "layers", "outputs", "parameters", "macs"),
    [
        ((32, 32, 3), [(6, 5, 1, 0)], ["28x28x6"], 456, 352_800),
        ((32, 32, 3), [(10, 5, 1, 2)], ["32x32x10"], 760, 768_000),
        ((28, 28, 6), [(10, 5, 1, 0)], ["24x24x10"], 1_510, 864_000),
        ((6, 6, 3), [(2, 3, 1, 0)], ["4x4x2"], 56, 864),
        ((6, 6, 1), [(1, 3, 1, 0)], ["4x4x1"], 10, 144),  # 36*16 + 16 as a linear layer; of those 144 are not 0
        ((7, 7, 1), [(1, 3, 1, 0)], ["5x5x1"], 10, 225),
        ((7, 7, 1), [(1, 3, 2, 0)], ["3x3x1"], 10, 81),
        ((7, 7, 1), [(1, 3, 3, 0)], ["2x2x1"], 10, 36),  # "doesn't fit": rounded down
        ((7, 7, 1), [(1, 3, 1, 1)], ["7x7x1"], 10, 441),
        ((32, 32, 1), [(1, 5, 1, 0)] * 7, [f"{n}x{n}x1" for n in (28, 24, 20, 16, 12, 8, 4)], 182, 25 * 2_240),
        ((32, 32, 1), [(1, 1 + 2 * pad, 1, pad) for pad in (1, 2, 3)], ["32x32x1"] * 3, 10 + 26 + 50, 1024 * 83),
    ],
)
def test_a_convolution_has_the_size_of_the_worked_example(image, layers, outputs, parameters, macs):
    channels = [image[-1], *(layer[0] for layer in layers)]
    found = layer_table(lambda: Chain(list(map(conv, channels, *zip(*layers, strict=True)))), image)
    assert [row.output_shape for row in found] == [size(shape) for shape in outputs]
    assert counts(found)[2:] == (parameters, macs)


def test_dilation_widens_what_a_kernel_sees_at_no_cost():
    def stack(*rates):
        return layer_table(lambda: Chain([conv(1, 1, 3, 1, rate, dilation=rate) for rate in rates]), (64, 64, 1))

    dilated, plain = stack(1, 2, 4, 8), stack(1, 1, 1, 1)
    assert [row.receptive_field for row in dilated] == [(3, 3), (7, 7), (15, 15), (31, 31)]
    assert [row.receptive_field for row in plain] == [(3, 3), (5, 5), (7, 7), (9, 9)]
    for found in (dilated, plain):
        assert [(row.output_shape, row.parameters, row.macs) for row in found] == [((64, 64, 1), 10, 9 * 64**2)] * 4
    assert stack(2)[0].receptive_field == (5, 5)


def test_the_elements_of_lenet_shrink():
    # "Total volume is preserved" on the slide.
    found = [28 * 28, *(row.outputs for row in rows("lenet5"))]
    assert found[:6] == [784, 4704, 1176, 1600, 400, 120]
