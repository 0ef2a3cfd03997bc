import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.models import resnet
from cnn_jax.nn.hooks import capture
from cnn_jax.nn.layers import Conv, Linear
from small_models import EVAL, SMALL, TRAIN, abstract, filled, forward, make_block, named, noise

ROOT = Path(cnn_jax.__file__).parents[1]

# ---------------------------------------------------------------- the table


def names(tree):
    return [name for name, _ in trees.named_leaves(tree)]


def small_image_resnet(n: int, base: int = 16, classes: int = 10) -> tuple[int, int, int]:
    """Returns (parameters, statistics, MACs) of the net of depth 6n+2 on 32x32x3, by hand: section 4.2 of the paper."""
    weights = [(27 * base, 32 * 32), (2 * n * 9 * base**2, 32 * 32)]  # (weights, positions of the output)
    for wide, size in ((2 * base, 16), (4 * base, 8)):
        weights += [(9 * (wide // 2) * wide, size**2), ((2 * n - 1) * 9 * wide**2, size**2)]
    channels = base + 2 * n * (base + 2 * base + 4 * base)  # one BatchNorm for each convolution
    linear = 4 * base * classes
    parameters = sum(number for number, _ in weights) + 2 * channels + linear + classes
    return parameters, 2 * channels, sum(number * positions for number, positions in weights) + linear


def nin_for_small_images() -> tuple[int, int, int]:
    """Returns (parameters, statistics, MACs) of Network in Network on 32x32x3; its maps are 32, 16 and 8 wide."""
    layers = [(75, 192, 32), (192, 160, 32), (160, 96, 32)]  # (fan-in, channels, size of the map)
    layers += [(25 * 96, 192, 16), (192, 192, 16), (192, 192, 16)]
    layers += [(9 * 192, 192, 8), (192, 192, 8), (192, 10, 8)]
    parameters = sum(fan_in * channels + channels for fan_in, channels, _ in layers)
    return parameters, 0, sum(fan_in * channels * size**2 for fan_in, channels, size in layers)


def squeezenet_1_1_macs() -> int:
    """Returns the MACs of SqueezeNet 1.1 on 224x224x3: its maps are 111, 55, 27 and 13 wide."""
    fires = [(64, 16, 64, 55), (128, 16, 64, 55), (128, 32, 128, 27), (256, 32, 128, 27)]  # (input, squeeze, expand)
    fires += [(256, 48, 192, 13), (384, 48, 192, 13), (384, 64, 256, 13), (512, 64, 256, 13)]
    macs = sum((inputs * squeeze + squeeze * expand * (1 + 9)) * size**2 for inputs, squeeze, expand, size in fires)
    return macs + 27 * 64 * 111**2 + 512 * 1000 * 13**2


RESNEXT = dict(groups=32, width_per_group=4)
WIDE = dict(width_per_group=128)
# The 1x1 convolutions that v1.5 runs on the larger map, in the first blocks of conv3_x to conv5_x; each is
# 256*128*(56*56 - 28*28) = 512*256*(28*28 - 14*14) = 1024*512*(14*14 - 7*7).
V15 = 3 * 77_070_336
SE_BLOCKS = ((3, 256), (4, 512), (6, 1024), (3, 2048))
SE = sum(blocks * 2 * channels**2 // 16 for blocks, channels in SE_BLOCKS)
SE_BIASES = sum(blocks * (channels // 16 + channels) for blocks, channels in SE_BLOCKS)
LENET_32 = dict(input_shape=(32, 32, 1), padding=0)
# Krizhevsky 2014 on 224x224: weights times positions of conv1 to conv5 (55x55, 27x27, 13x13) and of the linear layers.
ONE_TOWER = dict(variant="one_tower", norm="none", input_shape=(224, 224, 3))
ONE_TOWER_MACS = 363 * 64 * 55**2 + 1600 * 192 * 27**2 + (1728 * 384 + 3456 * 256 + 2304 * 256) * 13**2 + 58_621_952
# What the three linear layers of VGG have more than one on 512 averages: 123,642,856 parameters and 513,000.
VGG_HEADS, VGG_HEAD_MACS = 123_642_856 - 513_000, 123_633_664 - 512_000

# (name, fields that differ from the defaults, parameters, BatchNorm statistics, MACs of one image)
TABLE = [
    ("lenet5", {}, 61_706, 0, 416_520),
    ("lenet5", dict(c5="conv"), 61_706, 0, 416_520),
    ("lenet5", LENET_32, 61_706, 0, 416_520),
    ("lenet5", LENET_32 | dict(c5="conv"), 61_706, 0, 416_520),
    ("resnet18", {}, 11_689_512, 9_600, 1_814_073_344),
    ("resnet18", dict(shortcut="C"), 12_043_816, 11_648, 1_878_298_624),
    ("resnet18", dict(residual=False), 11_515_688, 7_808, 1_794_805_760),
    ("resnet34", {}, 21_797_672, 17_024, 3_663_761_408),
    ("resnet34", dict(shortcut="A"), 21_623_848, 15_232, 3_644_493_824),
    ("resnet34", dict(residual=False), 21_623_848, 15_232, 3_644_493_824),
    ("resnet50", {}, 25_557_032, 53_120, 4_089_184_256),
    ("resnet50", dict(shortcut="A"), 22_780_456, 45_440, 3_729_522_688),
    ("resnet50", dict(shortcut="C"), 40_128_552, 75_648, 6_555_435_008),
    ("resnet50", dict(variant="v1"), 25_557_032, 53_120, 3_857_973_248),
    ("resnet50", dict(variant="v1", shortcut="A"), 22_780_456, 45_440, 3_498_311_680),
    ("resnet50", dict(variant="v1", shortcut="C"), 40_128_552, 75_648, 6_324_224_000),
    ("resnet50", RESNEXT, 25_028_904, 68_224, 4_230_479_872),
    ("resnet50", WIDE, 68_883_240, 68_224, 11_398_021_120),
    # Two linear layers C -> C/16 -> C in each block; weights as in Hu et al. 2018, section 4, and biases.
    ("resnet50", dict(squeeze_excitation=16), 25_557_032 + SE + SE_BIASES, 53_120, 4_089_184_256 + SE),
    ("resnet50", dict(norm="group", weight_standardization=True), 25_557_032, 0, 4_089_184_256),
    ("resnet101", {}, 44_549_160, 105_344, 7_570_194_432 + V15),
    ("resnet101", dict(variant="v1"), 44_549_160, 105_344, 7_570_194_432),
    ("resnet101", dict(groups=64, width_per_group=4), 83_455_272, 202_880, 15_460_270_080),
    ("resnet152", {}, 60_192_808, 151_424, 11_282_415_616 + V15),
    ("resnet152", dict(variant="v1", shortcut="A"), 57_416_232, 143_744, 10_922_754_048),
    ("cifar_resnet", {}, 269_722, 1_376, 40_551_040),
    ("cifar_resnet", dict(depth=8), *small_image_resnet(1)),
    ("cifar_resnet", dict(depth=14, width=2.0, num_classes=100), *small_image_resnet(2, base=32, classes=100)),
    ("resnet20", {}, 269_722, 1_376, 40_551_040),
    ("resnet20", dict(shortcut="B"), 272_474, 1_568, 40_813_184),
    ("resnet20", dict(residual=False), 269_722, 1_376, 40_551_040),
    ("resnet32", {}, 464_154, 2_272, 68_862_592),
    ("resnet44", {}, *small_image_resnet(7)),
    ("resnet56", {}, 853_018, 4_064, 125_485_696),
    ("resnet56", dict(shortcut="B"), 855_770, 4_256, 125_747_840),
    ("resnet110", {}, 1_727_962, 8_096, 252_887_680),
    ("resnet1202", {}, 19_421_274, 89_632, 2_829_238_912),  # 10 s to trace
    ("nin", {}, 7_595_176, 0, 1_105_996_320),
    # of 224x224 with pools that end before the rest: 54x54, 26x26, 12x12, 5x5
    (
        *("nin", dict(ceil=False, input_shape=(224, 224, 3)), 7_595_176, 0),
        (34_848 + 2 * 96**2) * 54**2
        + (614_400 + 2 * 256**2) * 26**2
        + (884_736 + 2 * 384**2) * 12**2
        + (3_538_944 + 1024**2 + 1_024_000) * 5**2,
    ),
    ("alexnet", dict(variant="grouped_224", input_shape=(224, 224, 3)), 60_965_224, 0, 724_406_816),
    ("alexnet", dict(variant="ungrouped_224", input_shape=(224, 224, 3)), 62_378_344, 0, 1_135_256_096),
    ("nin_cifar", {}, *nin_for_small_images()),
    ("googlenet", {}, 6_998_552, 0, 1_582_671_872),
    ("googlenet", dict(auxiliary=True), 13_378_280, 0, 1_591_044_096),
    ("googlenet", dict(norm="none"), 6_998_552, 0, 1_582_671_872),
    ("googlenet", dict(norm="batch"), 7_005_832, 14_560, 1_582_671_872),
    ("googlenet", dict(norm="batch", variant="torchvision"), 6_624_904, 14_560, 1_498_376_192),
    # Two BatchNorms of 128 and the linear layers more; as many MACs more as in the paper's network.
    (
        "googlenet",
        dict(norm="batch", variant="torchvision", auxiliary=True),
        6_624_904 + 6_379_728 + 2 * (256 - 128),
        14_560 + 2 * 256,
        1_498_376_192 + 8_372_224,
    ),
    ("squeezenet1_0", {}, 1_248_424, 0, 818_924_576),
    ("squeezenet1_1", {}, 1_235_496, 0, squeezenet_1_1_macs()),
    # A 1x1 projection around each of the Fire modules 2, 4, 6 and 8.
    (
        "squeezenet1_0",
        dict(bypass="complex"),
        1_248_424 + 96 * 128 + 128 + 128 * 256 + 256 + 256 * 384 + 384 + 384 * 512 + 512,
        0,
        818_924_576 + (96 * 128 + 128 * 256) * 54**2 + (256 * 384 + 384 * 512) * 27**2,
    ),
    ("squeezenet1_0", dict(bypass="simple"), 1_248_424, 0, 818_924_576),
    # AlexNet and ZFNet.
    ("alexnet", {}, 60_965_224, 0, 724_406_816),
    ("alexnet", dict(variant="ungrouped"), 62_378_344, 0, 1_135_256_096),
    ("alexnet", dict(variant="ungrouped", head="gap"), 4_004_200, 0, 1_076_634_144 + 256 * 1000),
    ("alexnet", dict(variant="ungrouped", input_shape=(224, 224, 3)), 50_844_008, 0, 1_009_945_728),
    # 96 + 256 + 384 + 384 + 256 = 1,376 maps: a scale, an offset, a mean and a variance for each.
    ("alexnet", dict(variant="ungrouped", norm="batch"), 62_378_344 + 2 * 1_376, 2 * 1_376, 1_135_256_096),
    ("alexnet", dict(variant="unpadded"), 28_823_912, 0, 614_310_432),
    ("alexnet", ONE_TOWER, 61_100_840, 0, ONE_TOWER_MACS),
    # conv1 on 109x109, conv2 to conv5 on 54x54, 26x26; 12x12 before fc6
    (
        *("zfnet", dict(variant="zfnet_stride_1"), 175_603_816, 0),
        14_112 * 109**2 + 614_400 * 54**2 + (884_736 * 2 + 1_327_104) * 26**2 + 36_864 * 4096 + 4096**2 + 4_096_000,
    ),
    # 109x109, 25x25, 10x10, 8x8, 6x6; 2x2 before fc6
    (
        *("zfnet", dict(variant="zfnet_strides_2"), 28_803_176, 0),
        14_112 * 109**2 + 614_400 * 25**2 + 884_736 * 10**2 + 1_327_104 * 8**2 + 884_736 * 6**2 + 25_067_520,
    ),
    ("zfnet", {}, 62_357_608, 0, 1_168_032_896),
    ("zfnet", dict(variant="zfnet_wide"), 107_627_624, 0, 2_476_704_896),
    ("zfnet", dict(variant="zfnet_unpadded", input_shape=(227, 227, 3)), 40_518_760, 0, 843_261_952),
    # VGG. BatchNorm has 2,752 maps in A, 2,944 in B, 4,224 in C and D, 5,504 in E: twice as many statistics.
    ("vgg11", {}, 132_863_336, 0, 7_609_090_048),
    ("vgg11", dict(norm="batch"), 132_868_840, 5_504, 7_609_090_048),
    ("vgg11", dict(head="gap"), 9_733_480, 0, 7_485_968_384),
    ("vgg11_lrn", {}, 132_863_336, 0, 7_609_090_048),
    ("vgg13", {}, 9_917_992 + VGG_HEADS, 0, 11_185_344_512 + VGG_HEAD_MACS),
    ("vgg13", dict(norm="batch"), 9_917_992 + VGG_HEADS + 5_888, 5_888, 11_185_344_512 + VGG_HEAD_MACS),
    ("vgg13", dict(head="gap"), 9_917_992, 0, 11_185_344_512),
    ("vgg16c", {}, 133_638_952, 0, 11_770_888_192),
    ("vgg16c", dict(norm="batch"), 133_647_400, 8_448, 11_770_888_192),
    ("vgg16c", dict(head="gap"), 10_509_096, 0, 11_647_766_528),
    ("vgg16", {}, 138_357_544, 0, 15_470_264_320),
    ("vgg16", dict(norm="batch"), 138_365_992, 8_448, 15_470_264_320),
    ("vgg16", dict(head="gap"), 15_227_688, 0, 15_347_142_656),
    ("vgg19", {}, 143_667_240, 0, 19_632_062_464),
    ("vgg19", dict(norm="batch"), 143_667_240 + 11_008, 11_008, 19_632_062_464),
    # One hidden layer of 100: (784 + 1) * 100 + (100 + 1) * 10, and the 16x16 example of the lectures.
    ("mlp", {}, 79_510, 0, 784 * 100 + 100 * 10),
    ("mlp", dict(input_shape=(16, 16, 1), num_classes=26), 28_326, 0, 256 * 100 + 100 * 26),
    ("mlp", dict(hidden_sizes=()), 7_850, 0, 7_840),
    # 3*9*32 + 32, three times 32*9*32 + 32, 32*10 + 10; every layer at 32*32 positions, whatever its rate.
    ("dilated", {}, 896 + 3 * 9_248 + 330, 0, 1024 * (864 + 3 * 9_216) + 320),
    ("dilated", dict(rates=(1, 1, 1, 1)), 28_970, 0, 29_196_608),
    ("c3d", {}, 78_409_573, 0, 38_547_378_176),
    ("c3d", dict(head="gap"), 27_655_936 + 512 * 101 + 101, 0, 38_496_632_832 + 512 * 101),
    # 3*1*32 + 32, 3*32*64 + 64, 3*64*128 + 128, 128*10 + 10; at 128, 64 and 32 steps.
    ("conv1d", {}, 128 + 6_208 + 24_704 + 1_290, 0, 128 * 96 + 64 * 6_144 + 32 * 24_576 + 1_280),
    # A norm has a scale and an offset for each of 32 + 64 + 128 maps; a strided convolution of 2 in each pool's place.
    ("conv1d", dict(norm="batch"), 32_330 + 448, 448, 1_193_216),
    (
        "conv1d",
        dict(pool="conv"),
        32_330 + 2_080 + 8_256 + 32_896,
        0,
        1_193_216 + 64 * 2_048 + 32 * 8_192 + 16 * 32_768,
    ),
    # The lecture's 9x9 images: 3*9 + 3 at 7x7 positions, 4*4*3 values to 2 votes.
    ("toy", {}, 30 + 98, 0, 49 * 27 + 96),
    ("toy", dict(features_from="lecture"), 128, 0, 1_419),
    # A second stage of 3*9*3 + 3 at 2x2 positions leaves 1x1x3.
    ("toy", dict(stages=2), 30 + 84 + 8, 0, 49 * 27 + 4 * 81 + 6),
    # Section II.B of the paper: C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164; C3 has 60 of 96 kernels.
    ("lenet5_1998", {}, 60_000, 0, 325_680),
    ("lenet5_1998", dict(connections="full"), 60_000 + 36 * 25, 0, 325_680 + 36 * 25 * 100),
    ("lenet5_1998", dict(output="linear"), 60_000 + 850, 0, 325_680 + 840),
    ("lenet5_1998", dict(pool="max"), 60_000 - 44, 0, 325_680),
    ("lenet5_1998", dict(pool="average", connections="full", output="linear"), 61_706, 0, 416_520),
    # 25*8 + 8 and 25*8*16 + 16, each at 8*8 and 4*4 positions; 4*4*16*10 + 10. Shared or not, the same MACs.
    ("local", {}, 64 * 208 + 16 * 3_216 + 2_570, 0, 64 * 200 + 16 * 3_200 + 2_560),
    ("local", dict(sharing="full"), 208 + 3_216 + 2_570, 0, 66_560),
    # Two sets of 1x1, 5x1, 1x5 from C to F channels have C*F + F*F + 20*F weights and 6*F biases.
    ("flattened", {}, 12_000 + 32_000 + 104_960 + 2_570, 0, 1024 * 11_424 + 256 * 31_232 + 64 * 103_424 + 2_560),
    # One set: C*F + 10*F weights and 3*F biases.
    ("flattened", dict(sets=1), 1_536 + 13_952 + 36_096 + 2_570, 0, 1024 * 1_248 + 256 * 13_568 + 64 * 35_328 + 2_560),
    # Dense: 25*C*F + F.
    (
        *("flattened", dict(separable=False)),
        *(7_296 + 307_328 + 819_456 + 2_570, 0, 1024 * 7_200 + 256 * 307_200 + 64 * 819_200 + 2_560),
    ),
]


def table(name: str, **fields) -> list[LayerRow]:
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    return layer_table(lambda: models.create(name, **fields), shape)


def test_every_network_has_a_row_with_its_default_fields():
    assert {name for name, fields, *_ in TABLE if not fields} == set(models.MODELS)


def is_deep(name, fields):
    return name == "resnet1202" or bool(fields and re.fullmatch(r"resnet\d{2,3}|googlenet", name))


@pytest.mark.parametrize(
    ("name", "fields", "parameters", "statistics", "macs"),
    [pytest.param(*row, marks=pytest.mark.slow if is_deep(*row[:2]) else ()) for row in TABLE],
    ids=["-".join([name, *(f"{field}={value}" for field, value in fields.items())]) for name, fields, *_ in TABLE],
)
def test_a_network_has_the_published_counts(name, fields, parameters, statistics, macs):
    counts = []

    def create():  # runs inside nnx.eval_shape; counting here saves a second build
        model = models.create(name, **fields)
        counts.append((trees.count(nnx.state(model, nnx.Param)), trees.count(nnx.state(model, nnx.BatchStat))))
        return model

    rows = layer_table(create, fields.get("input_shape", models.fields(name)["input_shape"]))
    assert counts == [(parameters, statistics)]
    assert sum(row.macs for row in rows) == macs
    assert sum(row.parameters for row in rows) == parameters  # no layer is called twice or never


def test_readme_has_every_network_with_these_counts():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\dx]+) \|", readme, re.M)
    found = {name: (*(int(count.replace(",", "")) for count in counts), image) for name, *counts, image in rows}
    expected = {
        name: (parameters, macs, "x".join(map(str, models.fields(name)["input_shape"])))
        for name, fields, parameters, _, macs in TABLE
        if not fields and name != "cifar_resnet"
    }
    assert found == expected


def test_the_closed_form_for_small_images_agrees_with_the_published_counts():
    literal = {name: tuple(counts) for name, fields, *counts in TABLE if not fields}
    for n, name in ((3, "resnet20"), (5, "resnet32"), (9, "resnet56"), (18, "resnet110"), (200, "resnet1202")):
        assert small_image_resnet(n) == literal[name]


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        (dict(head="gap"), 2_049_000),  # 2048*1000 + 1000
        (dict(head="flatten"), 100_353_000),  # 7*7*2048*1000 + 1000
        (dict(head="fc", fc_sizes=(4096, 4096)), 431_924_200),
    ],
)
def test_the_heads_of_resnet50_differ_by_two_orders_of_magnitude(fields, parameters):
    model = abstract("resnet50", **fields)
    assert trees.count(nnx.state(model.head, nnx.Param)) == parameters
    assert trees.count(nnx.state(model, nnx.Param)) == 25_557_032 - 2_049_000 + parameters


def test_the_head_of_lenet5_can_be_one_layer():
    assert trees.count(nnx.state(abstract("lenet5", head="flatten").head, nnx.Param)) == 400 * 10 + 10
    assert trees.count(nnx.state(abstract("lenet5", head="gap").head, nnx.Param)) == 16 * 10 + 10


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("variant", ["v1", "v1.5"])
def test_resnet50_halves_the_map_where_the_papers_table_does(variant):
    rows = table("resnet50", variant=variant)
    shapes = {row.name: row.output_shape for row in rows}
    assert shapes["conv1"] == (112, 112, 64)
    assert shapes["pool1"] == (56, 56, 64)
    for stage, blocks, size, channels in (
        ("conv2_x", 3, 56, 256),
        ("conv3_x", 4, 28, 512),
        ("conv4_x", 6, 14, 1024),
        ("conv5_x", 3, 7, 2048),
    ):
        outputs = [shapes[f"{stage}/{b}/norm3"] for b in range(blocks)]
        assert outputs == [(size, size, channels)] * blocks
        assert f"{stage}/{blocks}/norm3" not in shapes
    assert shapes["head/pool"] == (2048,)
    assert shapes["head/classifier"] == (1000,)
    # v1 has the stride in the first 1x1, v1.5 in the 3x3.
    assert shapes["conv4_x/0/conv1"] == ((14, 14, 256) if variant == "v1" else (28, 28, 256))
    assert shapes["conv4_x/0/conv2"] == (14, 14, 256)


@pytest.mark.parametrize("fields", [{}, LENET_32], ids=["28x28", "32x32"])
def test_lenet5_has_the_layers_of_the_lectures_table(fields):
    rows = [(row.name, row.output_shape, row.parameters, row.macs) for row in table("lenet5", **fields)]
    assert rows == [
        ("conv1/conv", (28, 28, 6), 156, 117_600),
        ("pool1", (14, 14, 6), 0, 0),
        ("conv2/conv", (10, 10, 16), 2_416, 240_000),
        ("pool2", (5, 5, 16), 0, 0),
        ("head/hidden/0", (120,), 48_120, 48_000),
        ("head/hidden/1", (84,), 10_164, 10_080),
        ("head/classifier", (10,), 850, 840),
    ]


def test_c5_as_a_convolution_has_the_numbers_of_the_linear_layer():
    rows = {row.name: row for row in table("lenet5", c5="conv")}
    assert (rows["conv3/conv"].output_shape, rows["conv3/conv"].parameters, rows["conv3/conv"].macs) == (
        (1, 1, 120),
        48_120,
        48_000,
    )
    assert rows["head/hidden/0"].output_shape == (84,)
    larger = {row.name: row for row in table("lenet5", c5="conv", input_shape=(36, 40, 1), head="gap")}
    assert larger["conv3/conv"].output_shape == (3, 4, 120)  # it slides


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "fields", "messages"),
    [
        ("resnt50", {}, ["resnt50", "did you mean 'resnet50'?"]),
        ("lenet5", dict(pading=0), ["lenet5 has no field 'pading'", "did you mean 'padding'?", "c5"]),
        ("resnet20", dict(xyzzy=1), ["resnet20 has no field 'xyzzy'", "zero_gamma"]),
        ("lenet5", dict(input_shape=(4, 4, 1)), ["4x4", "too small", "'conv2/conv'", "kernel of 5"]),
        ("lenet5", dict(input_shape=(8, 8, 1), c5="conv"), ["8x8", "too small", "'conv2/conv'"]),
        ("lenet5", dict(input_shape=(24, 24, 1), c5="conv"), ["24x24", "too small", "'conv3/conv'"]),
        ("cifar_resnet", dict(depth=21), ["depth is 21", "6n+2", "20"]),
        ("cifar_resnet", dict(depth=2), ["depth is 2", "6n+2", "8"]),
        ("resnet50", dict(depth=60), ["resnet50 is the network whose depth is 50", "for 60"]),
        ("resnet50", dict(layout="imagnet"), ["whose layout is 'imagenet'", "for 'imagnet'"]),
        ("resnet34", dict(groups=32), ["groups is 32", "depth 34", "bottlenecks"]),
        ("resnet20", dict(width_per_group=128), ["width_per_group 128", "depth 20", "bottlenecks"]),
        ("resnet20", dict(width=0), ["width is 0", "positive"]),
        ("lenet5", dict(width=-0.5), ["width is -0.5", "positive"]),
        ("resnet50", dict(shortcut="D"), ["shortcut is 'D'", "A, B, C"]),
        ("resnet50", dict(variant="v2"), ["variant is 'v2'", "v1.5"]),
        ("resnet20", dict(head="conf"), ["head is 'conf'", "gap, flatten, fc", "did you mean 'conv'?"]),
        ("resnet20", dict(dropout=1.0), ["dropout is 1.0", "[0, 1)"]),
        ("resnet20", dict(norm_decay=1.0), ["norm_decay is 1.0", "[0, 1)"]),
        ("resnet20", dict(init="he"), ["init is 'he'", "he_fan_out"]),
        ("resnet20", dict(num_classes=1), ["num_classes is 1", "at least 2"]),
        ("lenet5", dict(c5="dense"), ["c5 is 'dense'", "linear, conv"]),
        ("lenet5", dict(pool="mean"), ["pool is 'mean'", "max, average"]),
        ("lenet5", dict(activation="tan"), ["activation is 'tan'", "did you mean 'tanh'?"]),
    ],
)
def test_an_impossible_network_names_what_is_possible(name, fields, messages):
    with pytest.raises(UserError) as error:
        abstract(name, **fields)
    for message in messages:
        assert message in str(error.value)


def test_the_nearest_possible_depth_is_possible():
    for depth, nearest in ((9, 8), (16, 14), (22, 20), (30, 32), (1000, 998)):
        with pytest.raises(UserError, match=f"the nearest is {nearest}$"):
            resnet.table("cifar", depth)
        resnet.table("cifar", nearest)


def test_fields_of_a_network_are_keyword_arguments_with_defaults():
    assert models.fields("lenet5")["padding"] == 2
    assert models.fields("resnet50") | dict(depth=101) == models.fields("resnet101")
    assert models.fields("resnet50")["shortcut"] == "B"
    small = models.fields("resnet56")  # through two partials: the outer one wins
    assert (small["depth"], small["shortcut"], small["num_classes"], small["width"]) == (56, "A", 10, 1.0)
    for name in models.MODELS:
        assert {"num_classes", "input_shape", "dtype"} <= set(models.fields(name))
        assert "rngs" not in models.fields(name)


# ---------------------------------------------------------------- parameters


def test_the_seed_decides_the_parameters():
    first, again, from_key, other = (
        named(nnx.state(models.create("lenet5", head="flatten", seed=seed), nnx.Param))
        for seed in (1, 1, jax.random.key(1), 2)
    )
    for (name, a), (_, b), (_, c), (_, d) in zip(first, again, from_key, other, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
        assert np.array_equal(a, d) == name.endswith("bias")


def test_c5_as_a_convolution_computes_what_the_linear_layer_computes():
    linear, conv = (nnx.view(filled("lenet5", c5=c5), **EVAL) for c5 in ("linear", "conv"))
    pairs = [(conv.conv1.conv, linear.conv1.conv), (conv.conv2.conv, linear.conv2.conv)]
    for ours, other in (*pairs, (conv.conv3.conv, linear.head.hidden[0])):
        ours.kernel[...] = other.kernel[...].reshape(ours.kernel.shape)
        ours.bias[...] = other.bias[...]
    for ours, other in ((conv.head.hidden[0], linear.head.hidden[1]), (conv.head.classifier, linear.head.classifier)):
        ours.kernel[...], ours.bias[...] = other.kernel[...], other.bias[...]
    x = noise(2, 28, 28, 1)
    np.testing.assert_allclose(conv(x), linear(x), atol=1e-5)


# ---------------------------------------------------------------- imports


def modules_after(code: str) -> set[str]:
    """Returns sys.modules of a fresh interpreter after `code`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_importing_the_package_imports_neither_jax_nor_a_network():
    loaded = modules_after("import cnn_jax\nassert cnn_jax.create")
    assert "cnn_jax.models" in loaded
    assert not {"jax", "flax"} & loaded
    assert not [name for name in loaded if name.startswith("cnn_jax.models.")]


@pytest.mark.parametrize("family", sorted({row.module for row in models.MODELS.values()}))
def test_building_one_family_imports_no_other(family):
    families = {f"cnn_jax.models.{row.module}" for row in models.MODELS.values()}
    name = next(name for name, row in models.MODELS.items() if row.module == family)
    loaded = modules_after(
        f"from flax import nnx\nfrom cnn_jax import models\nnnx.eval_shape(lambda: models.create({name!r}))"
    )
    assert families & loaded == {f"cnn_jax.models.{family}"}


# ---------------------------------------------------------------- dtypes


@pytest.fixture
def strict():
    """No implicit promotion."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_the_fixture_is_strict(strict):
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        jnp.ones(2, jnp.bfloat16) + jnp.ones(2, jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet5", dict(dropout=0.5)),
        ("lenet5", dict(activation="sigmoid", pool="max", c5="conv", head="gap")),
        ("resnet20", dict(width=0.125, input_shape=(8, 8, 3))),
        ("resnet20", dict(width=0.125, input_shape=(8, 8, 3), residual=False, head="fc", fc_sizes=(8,))),
        ("resnet50", dict(width=0.125, input_shape=(32, 32, 3))),
        ("resnet50", dict(width=0.125, input_shape=(32, 32, 3), shortcut="A", variant="v1", head="flatten")),
        ("alexnet", dict(width=0.125, input_shape=(67, 67, 3))),
        ("zfnet", dict(width=0.125, input_shape=(64, 64, 3), pool="conv")),
        ("vgg11", dict(width=0.125, input_shape=(32, 32, 3), norm="batch")),
    ],
)
def test_every_layer_computes_in_the_asked_precision_and_mixes_none(name, fields, dtype, strict):
    # Tracing is enough here: strict promotion raises while it traces. The test below computes.
    model = abstract(name, dtype=dtype, **fields)
    shape = (2, *fields.get("input_shape", (28, 28, 1)))
    for view, key in ((EVAL, None), (TRAIN, jax.random.key(0))):
        graphdef, state = nnx.split(nnx.view(model, **view))
        dtypes = {}

        def run(state, x, graphdef=graphdef, key=key, dtypes=dtypes):
            merged = nnx.merge(graphdef, state)
            with capture() as calls:
                y = merged(x, rngs=key)
            dtypes.update({type(layer): out.dtype for layer, _, out in calls})
            return y, nnx.as_pure(nnx.state(merged))

        logits, after = jax.eval_shape(run, state, jax.ShapeDtypeStruct(shape, jnp.float32))
        assert logits.dtype == jnp.float32
        assert set(dtypes.values()) == {jnp.dtype(dtype)}
        assert {Conv, Linear} <= set(dtypes)
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}  # parameters, statistics


@pytest.mark.parametrize(
    ("name", "fields", "view"),
    [
        ("lenet5", {}, TRAIN),
        ("resnet20", dict(width=0.125, input_shape=(8, 8, 3)), TRAIN),
        ("resnet50", dict(width=0.125, input_shape=(32, 32, 3)), EVAL),  # long to compile in training
    ],
)
def test_both_precisions_run_under_strict_promotion_and_nearly_agree(name, fields, view, strict):
    shape = fields.get("input_shape", (28, 28, 1))
    x = noise(4, *shape)
    logits = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        y, statistics = forward(filled(name, dtype=dtype, **fields), x, **view)
        assert y.dtype == jnp.float32
        assert y.shape == (4, models.fields(name)["num_classes"])
        assert len(jax.tree.leaves(statistics)) == {"lenet5": 0, "resnet20": 2 * 19, "resnet50": 2 * 53}[name]
        for leaf in jax.tree.leaves(statistics):
            assert leaf.dtype == jnp.float32 and np.all(np.isfinite(leaf))
        logits[dtype] = np.asarray(y)
    scale = np.max(np.abs(logits[jnp.float32]))
    # bfloat16 has 8 significant bits: one rounding is 2**-9 = 0.002. Not a difference of 0: it is really used.
    assert 1e-4 < np.max(np.abs(logits[jnp.bfloat16] - logits[jnp.float32])) / scale < 0.05


def test_running_averages_of_bfloat16_networks_are_not_rounded(strict):
    model = filled("cifar_resnet", dtype=jnp.bfloat16, **SMALL)
    x = noise(4, 8, 8, 3)
    for name, leaf in named(forward(model, x, **TRAIN)[1]):
        assert not np.array_equal(leaf, leaf.astype(jnp.bfloat16).astype(jnp.float32)), name


# ---------------------------------------------------------------- parity with PyTorch


@pytest.fixture(scope="module")
def reference():
    """The networks as one would write them in PyTorch."""
    torch = pytest.importorskip("torch")
    tnn, relu = torch.nn, torch.relu

    class LeNet5(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = tnn.Conv2d(1, 6, 5, padding=2), tnn.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = tnn.Linear(400, 120), tnn.Linear(120, 84), tnn.Linear(84, 10)

        def forward(self, x):
            x = tnn.functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
            x = tnn.functional.avg_pool2d(torch.tanh(self.conv2(x)), 2)
            return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x.flatten(1))))))

    class BasicBlock(tnn.Module):
        def __init__(self, before, channels, stride):
            super().__init__()
            self.conv1 = tnn.Conv2d(before, channels, 3, stride, 1, bias=False)
            self.conv2 = tnn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = tnn.BatchNorm2d(channels), tnn.BatchNorm2d(channels)
            if stride != 1 or before != channels:
                self.shortcut_conv = tnn.Conv2d(before, channels, 1, stride, bias=False)
                self.shortcut_norm = tnn.BatchNorm2d(channels)

        def forward(self, x):
            y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
            return relu(y + (self.shortcut_norm(self.shortcut_conv(x)) if hasattr(self, "shortcut_conv") else x))

    class Bottleneck(tnn.Module):
        def __init__(self, before, channels, stride, strides, inner, groups):
            super().__init__()
            self.conv1 = tnn.Conv2d(before, inner, 1, strides[0], bias=False)
            self.conv2 = tnn.Conv2d(inner, inner, 3, strides[1], 1, groups=groups, bias=False)
            self.conv3 = tnn.Conv2d(inner, 4 * channels, 1, bias=False)
            self.norm1, self.norm2 = tnn.BatchNorm2d(inner), tnn.BatchNorm2d(inner)
            self.norm3, self.shortcut_norm = tnn.BatchNorm2d(4 * channels), tnn.BatchNorm2d(4 * channels)
            self.shortcut_conv = tnn.Conv2d(before, 4 * channels, 1, stride, bias=False)

        def forward(self, x):
            y = relu(self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))
            return relu(self.norm3(self.conv3(y)) + self.shortcut_norm(self.shortcut_conv(x)))

    class SmallImageResNet(tnn.Module):
        def __init__(self, n, channels):
            super().__init__()
            self.conv1, self.norm1 = tnn.Conv2d(3, channels, 3, 1, 1, bias=False), tnn.BatchNorm2d(channels)
            before, stages = channels, []
            for stride, out in ((1, channels), (2, 2 * channels), (2, 4 * channels)):
                stages.append([BasicBlock(before if b == 0 else out, out, stride if b == 0 else 1) for b in range(n)])
                before = out
            self.conv2_x, self.conv3_x, self.conv4_x = (tnn.Sequential(*blocks) for blocks in stages)
            self.classifier = tnn.Linear(before, 10)

        def forward(self, x):
            x = self.conv4_x(self.conv3_x(self.conv2_x(relu(self.norm1(self.conv1(x))))))
            return self.classifier(x.mean((2, 3)))

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return SimpleNamespace(
        torch=torch, LeNet5=LeNet5, SmallImageResNet=SmallImageResNet, Bottleneck=Bottleneck, BasicBlock=BasicBlock
    )


def put(variable, tensor):
    value = tensor.detach().numpy().copy()
    assert value.shape == variable.shape  # Flax would silently take another shape
    variable[...] = jnp.asarray(value)


def copy(source, target, torch):
    """Copies the weights of a torch module to our layers of the same names; random values for BatchNorm first."""
    for name, layer in source.named_modules():
        ours = target
        for part in name.split(".") if name else ():
            if isinstance(ours, nnx.List):
                ours = ours[int(part)]
            else:
                ours = ours.head.classifier if part == "classifier" else getattr(ours, part)
        if isinstance(layer, torch.nn.Conv2d):
            put(ours.kernel, layer.weight.permute(2, 3, 1, 0))
            if layer.bias is not None:
                put(ours.bias, layer.bias)
        elif isinstance(layer, torch.nn.Linear):
            put(ours.kernel, layer.weight.T)
            put(ours.bias, layer.bias)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            with torch.no_grad():
                for value, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -1, 1)):
                    value.uniform_(low, high)
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 1.5)
            for variable, value in (
                (ours.scale, layer.weight),
                (ours.bias, layer.bias),
                (ours.mean, layer.running_mean),
                (ours.var, layer.running_var),
            ):
                put(variable, value)


def assert_close(ours, theirs):
    """Fails unless max|a-b| / max|b| < 1e-4."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert np.max(np.abs(theirs)) > 0.1
    assert np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)) < 1e-4


def check_statistics(source, statistics, before, counts, torch):
    """Compares the running averages after one training step of both."""
    norms = {name: layer for name, layer in source.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    ours = {name: np.asarray(leaf) for name, leaf in named(statistics)}
    assert len(ours) == 2 * len(norms) > 0
    for name, layer in norms.items():
        path, n = name.replace(".", "/"), counts[name]
        assert_close(ours[f"{path}/mean"], layer.running_mean)
        # torch's new value is 0.9 old + 0.1 n/(n-1) biased; ours lacks the factor.
        kept = 0.9 * before[name]
        biased = kept + (layer.running_var - kept) * (n - 1) / n
        assert_close(ours[f"{path}/var"], biased)
        assert float((layer.running_var - before[name]).abs().max()) > 0.01  # it moved


def compare(source, model, x, torch):
    """Compares outputs in eval mode, then outputs and statistics of one forward pass in training mode."""
    images = torch.tensor(np.array(x)).permute(0, 3, 1, 2)
    source.eval()
    theirs = source(images)
    channels_last = (lambda y: y.permute(0, 2, 3, 1)) if theirs.ndim == 4 else (lambda y: y)
    assert_close(forward(model, x, **EVAL)[0], channels_last(theirs))

    counts, before = {}, {}
    for name, layer in source.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            before[name] = layer.running_var.clone()

            def count(layer, inputs, name=name):
                counts[name] = inputs[0].numel() // inputs[0].shape[1]

            layer.register_forward_pre_hook(count)
    source.train()
    theirs = source(images)
    ours, statistics = forward(model, x, **TRAIN)
    assert_close(ours, channels_last(theirs))
    if counts:
        check_statistics(source, statistics, before, counts, torch)


def test_lenet5_gives_the_logits_of_pytorch(reference):
    torch, source, model = reference.torch, reference.LeNet5(), filled("lenet5")
    hidden = model.head.hidden
    target = SimpleNamespace(conv1=model.conv1.conv, conv2=model.conv2.conv, fc1=hidden[0], fc2=hidden[1])
    target.fc3 = model.head.classifier
    # torch flattens [C, H, W], we flatten [H, W, C]: the columns of its first linear layer change order.
    ours = torch.nn.Linear(400, 120)
    ours.weight.data = source.fc1.weight.data.reshape(120, 16, 5, 5).permute(0, 2, 3, 1).reshape(120, 400)
    ours.bias.data = source.fc1.bias.data
    copy(source, target, torch)
    put(hidden[0].kernel, ours.weight.T)
    put(hidden[0].bias, ours.bias)
    compare(source, model, noise(4, 28, 28, 1), torch)


def test_a_small_residual_network_gives_the_logits_of_pytorch(reference):
    source = reference.SmallImageResNet(n=2, channels=8)
    model = filled("cifar_resnet", depth=14, width=0.5, shortcut="B", input_shape=(16, 16, 3))
    copy(source, model, reference.torch)
    compare(source, model, noise(4, 16, 16, 3), reference.torch)


@pytest.mark.parametrize(
    ("variant", "groups", "width_per_group"), [("v1.5", 1, 64), ("v1", 1, 64), ("v1.5", 4, 16), ("v1.5", 1, 128)]
)
def test_a_bottleneck_gives_the_output_of_pytorch(reference, variant, groups, width_per_group):
    plan = resnet.bottleneck(8, 2, variant=variant, groups=groups, width_per_group=width_per_group, reduction=True)
    model = make_block(16, plan)
    inner = {64: 8, 16: 8, 128: 16}[width_per_group]
    source = reference.Bottleneck(16, 8, 2, (2, 1) if variant == "v1" else (1, 2), inner, groups)
    copy(source, model, reference.torch)
    compare(source, model, noise(3, 7, 6, 16), reference.torch)
