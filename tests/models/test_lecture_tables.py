"""The tables of the lectures, layer by layer, and what our networks are: shapes, parameters, MACs.

Where a slide's number is wrong, the right one is tested; `python -m experiments.lectures` shows both. Nothing is
computed. Numbers that are not in a table of the slides, and the rows of VGG-16 and GoogLeNet, are tested there.
"""

from typing import Any

import pytest

from cnn_jax.analysis.layer_table import LayerRow, stages
from experiments.lectures.networks import rows, total
from tiers import quick


def outline(found) -> list[tuple[Any, ...]]:
    """Returns (layer, output, parameters, MACs) of every layer."""
    return [(row.name.removesuffix("/conv"), row.output_shape, row.parameters, row.macs) for row in found]


def parse(text: str) -> list[tuple[Any, ...]]:
    """Returns the lines of a table: layer, output, parameters and MACs; missing numbers are none."""
    lines = (line.partition("#")[0].split() for line in text.strip().splitlines())
    return [(name, size(shape), *map(int, numbers or (0, 0))) for name, shape, *numbers in lines]


def size(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


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
    assert round(total(name).parameters / 1e6) == millions


# GoogLeNet's table: channels of each branch, and biases. Outputs, weights and MACs of its rows are in
# `experiments/lectures/facts/googlenet.py`.
# layer  1x1  3x3r  3x3  5x5r  5x5  proj   biases
GOOGLENET = """
conv1      .     .    .     .    .     .       64
pool1      .     .    .     .    .     .        0
conv2      .    64  192     .    .     .      256
pool2      .     .    .     .    .     .        0
3a        64    96  128    16   32    32      368
3b       128   128  192    32   96    64      640
pool3      .     .    .     .    .     .        0
4a       192    96  208    16   48    64      624
4b       160   112  224    24   64    64      648
4c       128   128  256    24   64    64      664
4d       112   144  288    32   64    64      704
4e       256   160  320    32  128   128    1_024
pool4      .     .    .     .    .     .        0
5a       256   160  320    32  128   128    1_024
5b       384   192  384    48  128   128    1_264
head       .     .    .     .    .     .    1_000
"""
COLUMNS: tuple[str, ...] = ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "projection")


def test_googlenet_has_the_branches_of_the_lectures_table():
    groups: dict[str, list[LayerRow]] = {}
    for row in rows("googlenet", norm="none"):
        stage = row.stage.removeprefix("inception_").removesuffix("_reduce")
        groups.setdefault(stage, []).append(row)
    found = []
    for name, layers in groups.items():
        channels = {row.name.split("/")[1]: row.output_shape[-1] for row in layers if row.name.startswith("inception")}
        if name == "conv2":
            channels = dict(zip(COLUMNS[1:3], (row.output_shape[-1] for row in layers), strict=True))
        if channels and name != "conv2":
            assert len({row.output_shape[:-1] for row in layers}) == 1
        found.append((name, *(channels.get(column) for column in COLUMNS), sum(row.biases for row in layers)))
    lines = (line.split() for line in GOOGLENET.strip().splitlines())
    assert found == [(name, *(None if n == "." else int(n) for n in numbers)) for name, *numbers in lines]
    assert groups["head"][0].output_shape == (1024,)  # the average pooling


# The layers of one block, and how many blocks of it.
# layer   output  | basic          18  34 | bottleneck                  50  101  152
RESNETS = """
conv2_x   56x56   | 3x3,64 3x3,64     2   3 | 1x1,64 3x3,64 1x1,256       3    3    3
conv3_x   28x28   | 3x3,128 3x3,128   2   4 | 1x1,128 3x3,128 1x1,512     4    4    8
conv4_x   14x14   | 3x3,256 3x3,256   2   6 | 1x1,256 3x3,256 1x1,1024    6   23   36
conv5_x   7x7     | 3x3,512 3x3,512   2   3 | 1x1,512 3x3,512 1x1,2048    3    3    3
"""
# Parameters and MACs of the stages conv2_x to conv5_x.
RESNET_STAGES = {
    18: [(147_968, 462_422_016), (525_568, 411_041_792), (2_099_712, 411_041_792), (8_393_728, 411_041_792)],
    34: [(221_952, 693_633_024), (1_116_416, 873_463_808), (6_822_400, 1_335_885_824), (13_114_368, 642_252_800)],
    50: [(215_808, 667_942_912), (1_219_584, 950_534_144), (7_098_368, 1_387_266_048), (14_964_736, 732_168_192)],
    101: [(215_808, 667_942_912), (1_219_584, 950_534_144), (26_090_496, 5_099_487_232), (14_964_736, 732_168_192)],
    152: [(215_808, 667_942_912), (2_339_840, 1_823_997_952), (40_613_888, 7_938_244_608), (14_964_736, 732_168_192)],
}


@pytest.mark.parametrize("depth", quick(RESNET_STAGES, (18, 50)))
def test_resnet_is_a_column_of_the_lectures_table(depth):
    found = stages(rows(f"resnet{depth}", variant="v1"))
    counts = RESNET_STAGES[depth]
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
