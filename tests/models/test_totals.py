"""Totals of networks that no other table has."""

import pytest

from experiments.lectures.networks import total

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
    found = total(name, **fields)
    assert [
        *(found.parameters, found.weights, found.biases, found.norm_parameters, found.norm_statistics),
        *(found.conv_parameters, found.linear_parameters, found.macs, found.conv_macs, found.linear_macs),
        *(found.activations, found.receptive_field, found.jump),
    ] == numbers
