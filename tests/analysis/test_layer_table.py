import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, block_of, dropped, layer_table, stages, totals, training_bytes
from cnn_jax.nn import cpu
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import BatchNorm, Conv, Linear
from cnn_jax.nn.pooling import GlobalAveragePool, Pool


class Small(nnx.Module):
    """One layer of each kind; `again` is called twice."""

    def __init__(self):
        options = dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
        self.conv = Conv(3, 8, 5, 2, 1, **options)
        self.pool = Pool("max", (2, 3), 2)
        self.blocks = nnx.List(
            [Conv(8, 6, 1, bias=False, **options), Conv(6, 4, (3, 1), padding=(1, 0), groups=2, **options)]
        )
        self.norm = BatchNorm(4, rngs=InitKeys(jax.random.key(1)))
        self.again = Conv(4, 4, 3, padding=2, dilation=2, **options)
        self.mean = GlobalAveragePool()
        self.linear = Linear(4, 7, **options)

    def __call__(self, x):
        x = self.norm(self.blocks[1](self.blocks[0](self.pool(self.conv(x)))))
        return self.linear(self.mean(self.again(self.again(x))))


# 12x15x3 -> conv 5x5/2 pad 1: (12+2-5)//2+1 = 5, (15+2-5)//2+1 = 7 -> pool 2x3/2: (5-2)//2+1 = 2, (7-3)//2+1 = 3
# Receptive fields by hand: 5, then 5 + (2-1)*2 = 7 and 5 + (3-1)*2 = 9 with jump 4; 3x1 on rows: 7 + 2*4 = 15; 3x3 with
# dilation 2 adds 4*4 twice; the mean sees 2 and 3 positions: 47 + 4 = 51 and 41 + 8 = 49. Kept is the layer's input.
ROWS = [
    LayerRow("conv", "conv", "5x5/2, pad 1", (5, 7, 8), 608, 280 * 5 * 5 * 3, 8, 0, 12 * 15 * 3, (5, 5), (2, 2)),
    LayerRow("pool", "pool", "max 2x3/2, pad 0", (2, 3, 8), 0, 0, 0, 0, 280, (7, 9), (4, 4), (1, 0)),
    LayerRow("blocks/0", "conv", "1x1/1, pad 0", (2, 3, 6), 8 * 6, 2 * 3 * 6 * 8, 0, 0, 48, (7, 9), (4, 4)),
    LayerRow(
        *("blocks/1", "conv", "3x1/1, pad 1x0, 2 groups", (2, 3, 4), 3 * 3 * 4 + 4, 2 * 3 * 4 * 3 * 3),
        *(4, 0, 36, (15, 9), (4, 4)),
    ),
    LayerRow("norm", "norm", "", (2, 3, 4), 8, 0, 0, 8, 24, (15, 9), (4, 4)),
    LayerRow("again", "conv", "3x3/1, pad 2, dilation 2", (2, 3, 4), 148, 24 * 36, 4, 0, 24, (31, 25), (4, 4)),
    LayerRow("again", "conv", "3x3/1, pad 2, dilation 2", (2, 3, 4), 148, 24 * 36, 4, 0, 24, (47, 41), (4, 4)),
    LayerRow("mean", "pool", "global average", (4,), 0, 0, 0, 0, 24, (51, 49), (None, None)),
    LayerRow("linear", "linear", "", (7,), 4 * 7 + 7, 4 * 7, 7, 0, 4, (51, 49), (None, None)),
]


def test_every_call_of_a_layer_is_a_row_with_the_numbers_counted_by_hand():
    assert layer_table(Small, (12, 15, 3)) == ROWS
    assert [row.outputs for row in ROWS[:2]] == [280, 48]


def test_macs_do_not_depend_on_the_platform(monkeypatch):
    # Inside `fast`, convolutions are calls of a library, elsewhere XLA's.
    macs = {}
    monkeypatch.setattr(cpu, "target", lambda: "0123")
    for fast in (True, False):
        x = jax.ShapeDtypeStruct((1, 12, 15, 3), jnp.float32)
        graphdef, state = nnx.split(nnx.eval_shape(Small))
        with cpu.fast(fast):
            jaxpr = jax.make_jaxpr(lambda state, x, g=graphdef: nnx.merge(g, state)(x))(state, x)
            macs[fast] = [row.macs for row in layer_table(Small, (12, 15, 3))]
        assert str(jaxpr).count("conv_general_dilated[") == (0 if fast else 5)
    assert macs[True] == macs[False] == [row.macs for row in ROWS]


def test_nothing_is_computed_for_the_table(monkeypatch):
    created = []

    def create():
        model = Small()
        created.append(model.conv.kernel[...])
        return model

    layer_table(create, (12, 15, 3))
    assert len(created) == 1 and isinstance(created[0], jax.core.Tracer)


# A block of two convolutions with a normalization between them.
BLOCK = [
    LayerRow("block/0/conv1", "conv", "", (4, 4, 2), 56, 0, kept=48),
    LayerRow("block/0/norm1", "norm", "", (4, 4, 2), 4, 0, kept=32),
    LayerRow("block/0/conv2", "conv", "", (4, 4, 1), 18, 0, kept=32),
    LayerRow("head", "linear", "", (10,), 170, 0, kept=16),
]


@pytest.mark.parametrize(
    ("how", "most"),
    [
        # The gradients of what conv2 returns and takes are there when all but the last input is still kept.
        ({}, (48 + 32 + 32) + 16 + 32),
        (dict(fused=True), (48 + 32) + 32 + 32),  # conv2 keeps nothing, so that there is most at norm1
        (dict(loops=True), (48 + 2 * 32 + 32) + 16 + 32),
        (dict(loops=True, fused=True), (48 + 2 * 32 + 32) + 16 + 32),
    ],
)
def test_training_memory_equals_the_count_by_hand(how, most):
    given = dict(images=5, bytes_per_value=2, copies_of_parameters=3)  # parameters, gradient, momentum in float32
    parameters = 3 * 248 * 4
    assert training_bytes(BLOCK, **given, **how) == most * 5 * 2 + parameters
    assert training_bytes(BLOCK, **given, **how, resident_bytes=1000) == most * 5 * 2 + parameters + 1000


def test_parts_of_a_concatenation_are_kept_beside_it():
    rows = [
        LayerRow("a", "conv", "", (10,), 0, 0, kept=8),
        LayerRow("b", "conv", "", (20,), 0, 0),  # of the same input
        LayerRow("c", "linear", "", (5,), 0, 0, kept=30),
    ]
    given = dict(images=1, bytes_per_value=1, copies_of_parameters=0)
    assert training_bytes(rows, **given) == (8 + 10 + 20 + 30) + 5 + 30


def test_parameters_of_a_layer_that_is_called_twice_count_once():
    given = dict(images=0, bytes_per_value=2, copies_of_parameters=3)
    assert training_bytes([*BLOCK, BLOCK[0]], **given) == training_bytes(BLOCK, **given)


def test_training_memory_grows_with_everything():
    rows = layer_table(lambda: models.create("lenet5"), (28, 28, 1))
    given = dict(images=64, bytes_per_value=2, copies_of_parameters=3, resident_bytes=0)
    base = training_bytes(rows, **given)
    for field, more in (("images", 65), ("bytes_per_value", 4), ("copies_of_parameters", 4), ("resident_bytes", 1)):
        assert training_bytes(rows, **(given | {field: more})) > base
    assert training_bytes([*rows, ROWS[0]], **given) > base
    # At least what must be there: parameters, gradient and momentum, and every layer's input once.
    assert base > 3 * 4 * 61_706 + 64 * 2 * sum(row.kept for row in rows)


# ---------------------------------------------------------------- totals

# (name, fields, parameters, weights, biases, BatchNorm parameters and statistics, parameters of convolutions (with
# BatchNorm) and of linear layers, MACs, those of convolutions and of linear layers, activations, receptive field and
# jump of the last convolution)
# fmt: off
TOTALS = [
    ("lenet5", {}, 61_706, 61_470, 236, 0, 0,
     2_572, 59_134, 416_520, 357_600, 58_920, 8_878, 14, 2),
    ("lenet5", dict(c5="conv"), 61_706, 61_470, 236, 0, 0,
     50_692, 11_014, 416_520, 405_600, 10_920, 8_878, 32, 4),
    ("lenet5", dict(input_shape=(32, 32, 1), padding=0), 61_706, 61_470, 236, 0, 0,
     2_572, 59_134, 416_520, 357_600, 58_920, 9_118, 14, 2),
    ("lenet5", dict(input_shape=(32, 32, 1), padding=0, c5="conv"), 61_706, 61_470, 236, 0, 0,
     50_692, 11_014, 416_520, 405_600, 10_920, 9_118, 32, 4),
    ("resnet18", {}, 11_689_512, 11_678_912, 1_000, 9_600, 9_600,
     11_176_512, 513_000, 1_814_073_344, 1_813_561_344, 512_000, 2_836_456, 435, 32),
    ("resnet18", dict(shortcut="C"), 12_043_816, 12_031_168, 1_000, 11_648, 11_648,
     11_530_816, 513_000, 1_878_298_624, 1_877_786_624, 512_000, 3_413_480, 435, 32),
    ("resnet34", dict(shortcut="A"), 21_623_848, 21_607_616, 1_000, 15_232, 15_232,
     21_110_848, 513_000, 3_644_493_824, 3_643_981_824, 512_000, 3_915_240, 899, 32),
    ("resnet34", {}, 21_797_672, 21_779_648, 1_000, 17_024, 17_024,
     21_284_672, 513_000, 3_663_761_408, 3_663_249_408, 512_000, 4_090_856, 899, 32),
    ("resnet50", dict(variant="v1", shortcut="A"), 22_780_456, 22_734_016, 1_000, 45_440, 45_440,
     20_731_456, 2_049_000, 3_498_311_680, 3_496_263_680, 2_048_000, 9_436_136, 483, 32),
    ("resnet50", dict(variant="v1"), 25_557_032, 25_502_912, 1_000, 53_120, 53_120,
     23_508_032, 2_049_000, 3_857_973_248, 3_855_925_248, 2_048_000, 10_941_416, 483, 32),
    ("resnet50", dict(variant="v1", shortcut="C"), 40_128_552, 40_051_904, 1_000, 75_648, 75_648,
     38_079_552, 2_049_000, 6_324_224_000, 6_322_176_000, 2_048_000, 14_955_496, 483, 32),
    ("resnet50", dict(shortcut="A"), 22_780_456, 22_734_016, 1_000, 45_440, 45_440,
     20_731_456, 2_049_000, 3_729_522_688, 3_727_474_688, 2_048_000, 9_962_984, 427, 32),
    ("resnet50", {}, 25_557_032, 25_502_912, 1_000, 53_120, 53_120,
     23_508_032, 2_049_000, 4_089_184_256, 4_087_136_256, 2_048_000, 11_468_264, 427, 32),
    ("resnet50", dict(shortcut="C"), 40_128_552, 40_051_904, 1_000, 75_648, 75_648,
     38_079_552, 2_049_000, 6_555_435_008, 6_553_387_008, 2_048_000, 15_482_344, 427, 32),
    ("resnet101", dict(variant="v1"), 44_549_160, 44_442_816, 1_000, 105_344, 105_344,
     42_500_160, 2_049_000, 7_570_194_432, 7_568_146_432, 2_048_000, 16_059_368, 1027, 32),
    ("resnet152", dict(variant="v1", shortcut="A"), 57_416_232, 57_271_488, 1_000, 143_744, 143_744,
     55_367_232, 2_049_000, 10_922_754_048, 10_920_706_048, 2_048_000, 20_876_264, 1507, 32),
    ("resnet152", dict(variant="v1"), 60_192_808, 60_040_384, 1_000, 151_424, 151_424,
     58_143_808, 2_049_000, 11_282_415_616, 11_280_367_616, 2_048_000, 22_381_544, 1507, 32),
    ("resnet18", dict(residual=False), 11_515_688, 11_506_880, 1_000, 7_808, 7_808,
     11_002_688, 513_000, 1_794_805_760, 1_794_293_760, 512_000, 2_660_840, 435, 32),
    ("resnet34", dict(residual=False), 21_623_848, 21_607_616, 1_000, 15_232, 15_232,
     21_110_848, 513_000, 3_644_493_824, 3_643_981_824, 512_000, 3_915_240, 899, 32),
    ("resnet50", dict(width_per_group=128), 68_883_240, 68_814_016, 1_000, 68_224, 68_224,
     66_834_240, 2_049_000, 11_398_021_120, 11_395_973_120, 2_048_000, 14_754_792, 427, 32),
    ("resnet101", dict(width_per_group=128), 126_886_696, 126_747_840, 1_000, 137_856, 137_856,
     124_837_696, 2_049_000, 22_753_050_624, 22_751_002_624, 2_048_000, 21_578_728, 971, 32),
    ("resnet50", dict(groups=32, width_per_group=4), 25_028_904, 24_959_680, 1_000, 68_224, 68_224,
     22_979_904, 2_049_000, 4_230_479_872, 4_228_431_872, 2_048_000, 14_754_792, 427, 32),
    ("resnet101", dict(groups=32, width_per_group=8), 88_791_336, 88_587_456, 1_000, 202_880, 202_880,
     86_742_336, 2_049_000, 16_414_015_488, 16_411_967_488, 2_048_000, 31_563_752, 971, 32),
    ("resnet101", dict(groups=64, width_per_group=4), 83_455_272, 83_251_392, 1_000, 202_880, 202_880,
     81_406_272, 2_049_000, 15_460_270_080, 15_458_222_080, 2_048_000, 31_563_752, 971, 32),
    ("resnet20", {}, 269_722, 268_336, 10, 1_376, 1_376,
     269_072, 650, 40_551_040, 40_550_400, 640, 191_562, 81, 4),
    ("resnet20", dict(shortcut="B"), 272_474, 270_896, 10, 1_568, 1_568,
     271_824, 650, 40_813_184, 40_812_544, 640, 203_850, 81, 4),
    ("resnet20", dict(residual=False), 269_722, 268_336, 10, 1_376, 1_376,
     269_072, 650, 40_551_040, 40_550_400, 640, 191_562, 81, 4),
    ("resnet32", {}, 464_154, 461_872, 10, 2_272, 2_272,
     463_504, 650, 68_862_592, 68_861_952, 640, 306_250, 137, 4),
    ("resnet56", {}, 853_018, 848_944, 10, 4_064, 4_064,
     852_368, 650, 125_485_696, 125_485_056, 640, 535_626, 249, 4),
    ("resnet56", dict(shortcut="B"), 855_770, 851_504, 10, 4_256, 4_256,
     855_120, 650, 125_747_840, 125_747_200, 640, 547_914, 249, 4),
    ("resnet110", {}, 1_727_962, 1_719_856, 10, 8_096, 8_096,
     1_727_312, 650, 252_887_680, 252_887_040, 640, 1_051_722, 501, 4),
    ("alexnet", dict(variant="ungrouped"), 62_378_344, 62_367_776, 10_568, 0, 0,
     3_747_200, 58_631_144, 1_135_256_096, 1_076_634_144, 58_621_952, 936_323, 163, 16),
    ("alexnet", {}, 60_965_224, 60_954_656, 10_568, 0, 0,
     2_334_080, 58_631_144, 724_406_816, 665_784_864, 58_621_952, 936_323, 163, 16),
    ("alexnet", dict(variant="unpadded"), 28_823_912, 28_813_344, 10_568, 0, 0,
     3_747_200, 25_076_712, 614_310_432, 589_242_912, 25_067_520, 747_907, 163, 16),
    ("alexnet", dict(variant="ungrouped", input_shape=(224, 224, 3)), 50_844_008, 50_833_440, 10_568, 0, 0,
     3_747_200, 47_096_808, 1_009_945_728, 962_858_112, 47_087_616, 868_328, 163, 16),
    ("zfnet", {}, 62_357_608, 62_347_040, 10_568, 0, 0,
     3_726_464, 58_631_144, 1_168_032_896, 1_109_410_944, 58_621_952, 2_010_312, 139, 16),
    ("zfnet", dict(variant="zfnet_wide"), 107_627_624, 107_616_032, 11_592, 0, 0,
     11_247_744, 96_379_880, 2_476_704_896, 2_380_334_208, 96_370_688, 2_192_584, 139, 16),
    ("zfnet", dict(variant="zfnet_unpadded", input_shape=(227, 227, 3)), 40_518_760, 40_507_168, 11_592, 0, 0,
     11_247_744, 29_271_016, 843_261_952, 814_000_128, 29_261_824, 807_715, 159, 16),
    ("nin", {}, 7_595_176, 7_589_920, 5_256, 0, 0,
     7_595_176, 0, 1_105_996_320, 1_105_996_320, 0, 2_018_147, 195, 32),
    ("googlenet", {}, 6_998_552, 6_990_272, 8_280, 0, 0,
     5_973_552, 1_025_000, 1_582_671_872, 1_581_647_872, 1_024_000, 4_796_184, 715, 32),
    ("googlenet", dict(auxiliary=True), 13_378_280, 13_365_696, 12_584, 0, 0,
     6_106_928, 7_271_352, 1_591_044_096, 1_583_777_792, 7_266_304, 4_820_968, 715, 32),
    ("googlenet", dict(norm="batch"), 7_005_832, 6_990_272, 1_000, 14_560, 14_560,
     5_980_832, 1_025_000, 1_582_671_872, 1_581_647_872, 1_024_000, 4_796_184, 715, 32),
    ("googlenet", dict(norm="batch", variant="torchvision"), 6_624_904, 6_609_344, 1_000, 14_560, 14_560,
     5_599_904, 1_025_000, 1_498_376_192, 1_497_352_192, 1_024_000, 4_796_184, 379, 32),
    ("squeezenet1_0", {}, 1_248_424, 1_244_448, 3_976, 0, 0,
     1_248_424, 0, 818_924_576, 818_924_576, 0, 5_050_864, 155, 16),
    ("vgg11_lrn", {}, 132_863_336, 132_851_392, 11_944, 0, 0,
     9_220_480, 123_642_856, 7_609_090_048, 7_485_456_384, 123_633_664, 9_116_136, 134, 16),
    ("vgg11", {}, 132_863_336, 132_851_392, 11_944, 0, 0,
     9_220_480, 123_642_856, 7_609_090_048, 7_485_456_384, 123_633_664, 9_116_136, 134, 16),
    ("vgg11", dict(norm="batch"), 132_868_840, 132_851_392, 11_944, 5_504, 5_504,
     9_225_984, 123_642_856, 7_609_090_048, 7_485_456_384, 123_633_664, 9_116_136, 134, 16),
    ("vgg11", dict(head="gap"), 9_733_480, 9_729_728, 3_752, 0, 0,
     9_220_480, 513_000, 7_485_968_384, 7_485_456_384, 512_000, 9_108_456, 134, 16),
    ("vgg13", dict(head="gap"), 9_917_992, 9_914_048, 3_944, 0, 0,
     9_404_992, 513_000, 11_185_344_512, 11_184_832_512, 512_000, 13_925_352, 140, 16),
    ("vgg16c", {}, 133_638_952, 133_625_536, 13_416, 0, 0,
     9_996_096, 123_642_856, 11_770_888_192, 11_647_254_528, 123_633_664, 15_237_608, 140, 16),
    ("vgg16c", dict(norm="batch"), 133_647_400, 133_625_536, 13_416, 8_448, 8_448,
     10_004_544, 123_642_856, 11_770_888_192, 11_647_254_528, 123_633_664, 15_237_608, 140, 16),
    ("vgg16c", dict(head="gap"), 10_509_096, 10_503_872, 5_224, 0, 0,
     9_996_096, 513_000, 11_647_766_528, 11_647_254_528, 512_000, 15_229_928, 140, 16),
    ("vgg16", {}, 138_357_544, 138_344_128, 13_416, 0, 0,
     14_714_688, 123_642_856, 15_470_264_320, 15_346_630_656, 123_633_664, 15_237_608, 196, 16),
    ("vgg16", dict(norm="batch"), 138_365_992, 138_344_128, 13_416, 8_448, 8_448,
     14_723_136, 123_642_856, 15_470_264_320, 15_346_630_656, 123_633_664, 15_237_608, 196, 16),
    ("vgg16", dict(head="gap"), 15_227_688, 15_222_464, 5_224, 0, 0,
     14_714_688, 513_000, 15_347_142_656, 15_346_630_656, 512_000, 15_229_928, 196, 16),
    ("vgg19", {}, 143_667_240, 143_652_544, 14_696, 0, 0,
     20_024_384, 123_642_856, 19_632_062_464, 19_508_428_800, 123_633_664, 16_542_184, 252, 16),
]
# fmt: on


def totals_of(name, fields):
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    return totals(layer_table(lambda: models.create(name, **fields), shape), shape)


FIRST = {row[0].rstrip("0123456789"): row for row in reversed(TOTALS)}  # of each family


def is_further(row):
    return row is not FIRST[row[0].rstrip("0123456789")]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if is_further(row) else ()) for row in TOTALS],
    ids=["-".join([row[0], *(f"{field}={value}" for field, value in row[1].items())]) for row in TOTALS],
)
def test_the_totals_are_the_published_numbers(row):
    name, fields, *numbers, size, jump = row
    found = totals_of(name, fields)
    assert [
        *(found.parameters, found.weights, found.biases, found.norm_parameters, found.norm_statistics),
        *(found.conv_parameters, found.linear_parameters, found.macs, found.conv_macs, found.linear_macs),
        found.activations,
    ] == numbers
    assert (found.receptive_field, found.jump) == ((size, size), (jump, jump))


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("conv3_2/conv", "conv3"),
        ("conv10_11", "conv10"),
        ("conv2_x/0/conv1", "conv2_x"),
        ("conv2_reduce/conv", "conv2_reduce"),
        ("inception_3a/projection/conv", "inception_3a"),
        ("head/hidden/0", "head"),
    ],
)
def test_layers_of_one_block_are_one_stage(name, stage):
    row = LayerRow(name, "conv", "", (1,), 0, 0)
    assert row.stage == stage and stages([row, row]) == {stage: [row, row]}


def test_a_shared_layer_counts_parameters_once_and_macs_twice():
    found = totals(ROWS, (12, 15, 3))
    assert found.parameters == 608 + 48 + 40 + 8 + 148 + 35
    assert (found.biases, found.norm_parameters, found.norm_statistics) == (8 + 4 + 4 + 7, 8, 8)
    assert found.macs == 21_000 + 288 + 216 + 2 * 864 + 28
    assert (found.conv_macs, found.linear_macs) == (found.macs - 28, 28)
    assert (found.conv_parameters, found.linear_parameters) == (608 + 48 + 40 + 8 + 148, 35)
    assert found.activations == 540 + 280 + 48 + 36 + 24 + 24 + 24 + 4 + 7  # the image, and all but the norm
    assert (found.receptive_field, found.jump) == ((47, 41), (4, 4))
    twice = totals([ROWS[4], ROWS[4]])  # a norm, of no image
    assert (twice.norm_parameters, twice.norm_statistics, twice.activations) == (8, 8, 0)


# ---------------------------------------------------------------- branches


class Branches(nnx.Module):
    """Two convolutions of one input that end in a concatenation or an addition, and one that sees both."""

    def __init__(self, axes=2, join=None):
        options = dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
        one = (1,) * axes
        self.join = join
        self.small = Conv(2, 2, one, 2 if join else 1, **options)
        self.large = Conv(2, 2, (5,) * axes, 2 if join else 1, 2, **options)
        self.last = Conv(2 if join else 4, 2, (3,) * axes, padding=1, **options)

    def __call__(self, x):
        small, large = self.small(x), self.large(x)
        return self.last(self.join(small, large) if self.join else jnp.concatenate([small, large], axis=-1))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_branches_see_what_the_widest_sees_along_any_number_of_axes(axes):
    small, large, last = layer_table(lambda: Branches(axes), (*(9, 8, 7)[:axes], 2))
    assert (small.receptive_field, large.receptive_field) == ((1,) * axes, (5,) * axes)
    assert (last.receptive_field, last.jump) == ((7,) * axes, (1,) * axes)
    assert (small.kept, large.kept) == (2 * 9 * (8 if axes > 1 else 1) * (7 if axes > 2 else 1), 0)  # the same array
    added = layer_table(lambda: Branches(axes, jnp.add), (*(9, 8, 7)[:axes], 2))[-1]
    assert (added.receptive_field, added.jump) == ((5 + 2 * 2,) * axes, (2,) * axes)


@pytest.mark.parametrize(
    ("name", "fields", "where"),
    [
        ("resnet18", {}, ""),
        ("alexnet", {}, ""),
        (
            "alexnet",
            dict(variant="ungrouped", input_shape=(224, 224, 3)),
            "conv1/conv (1), pool1 (1), pool2 (1), pool3 (1)",
        ),
        ("nin", dict(ceil=False, input_shape=(224, 224, 3)), "conv1_1/conv (1), pool1 (1), pool2 (1), pool3 (1)"),
    ],
)
def test_positions_that_no_window_reaches_are_named(name, fields, where):
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    assert dropped(layer_table(lambda: models.create(name, **fields), shape)) == where


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("conv2_x/0/conv1", "conv2_x/0"),
        ("conv2_x/17/shortcut_conv", "conv2_x/17"),
        ("fire2/squeeze", "fire2"),
        ("conv1", "conv1"),
        ("conv3_x/1/17/conv2", "conv3_x/1/17"),
        ("head/hidden/0", "head"),
    ],
)
def test_name_of_the_block_of_a_layer(name, block):
    assert block_of(name) == block


def test_estimate_with_blocks_computed_again_keeps_their_outputs():
    names = ("conv1", "conv2_x/0/conv1", "conv2_x/0/conv2", "conv2_x/1/conv1", "conv2_x/1/conv2")
    rows = [
        LayerRow(name=name, kind="conv", detail="", output_shape=(size,), parameters=0, macs=0)
        for name, size in zip(names, (100, 10, 20, 30, 40), strict=True)
    ]
    given = dict(images=2, bytes_per_value=4, copies_of_parameters=1)
    # Outputs of blocks, all of the largest block, and the gradients at the widest layer.
    assert training_bytes(rows, **given, remat=True) == (100 + 20 + 40 + 100 + 2 * 100) * 2 * 4
