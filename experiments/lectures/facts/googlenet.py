"""GoogLeNet: its table row by row, its stem, its head (lectures 001 to 003)."""

import functools

from cnn_jax.analysis.layer_table import LayerRow, stages
from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import layer, macs, rows, total, weights

# Row: output; parameters and operations on the slide; weights and MACs by hand.
TABLE = {
    "conv1": ([112, 112, 64], "2.7Ki", "34M", 9_408, 118_013_952),
    "pool1": ([56, 56, 64], None, None, 0, 0),
    "conv2": ([56, 56, 192], "112Ki", "360M", 114_688, 359_661_568),
    "pool2": ([28, 28, 192], None, None, 0, 0),
    "3a": ([28, 28, 256], "159Ki", "128M", 163_328, 128_049_152),
    "3b": ([28, 28, 480], "380Ki", "304M", 388_096, 304_267_264),
    "pool3": ([14, 14, 480], None, None, 0, 0),
    "4a": ([14, 14, 512], "364Ki", "73M", 375_552, 73_608_192),
    "4b": ([14, 14, 512], "437Ki", "88M", 448_512, 87_908_352),
    "4c": ([14, 14, 512], "463Ki", "100M", 509_440, 99_850_240),
    "4d": ([14, 14, 528], "580Ki", "119M", 604_672, 118_515_712),
    "4e": ([14, 14, 832], "840Ki", "170M", 867_328, 169_996_288),
    "pool4": ([7, 7, 832], None, None, 0, 0),
    "5a": ([7, 7, 832], "1072Ki", "54M", 1_042_432, 51_079_168),
    "5b": ([7, 7, 1024], "1388Ki", "71M", 1_442_816, 70_697_984),
    "head": ([1000], "1000Ki", "1M", 1_024_000, 1_024_000),
}
# Layers from 224 pixels to 28: the slide's KB and thousands of weights; values and weights by hand.
STEM = {
    "conv1": ("3136", "9K", 112 * 112 * 64, 7 * 7 * 3 * 64),
    "pool1": ("784", None, 56 * 56 * 64, 0),
    "conv2_reduce": ("784", "4K", 56 * 56 * 64, 64 * 64),
    "conv2": ("2352", "111K", 56 * 56 * 192, 9 * 64 * 192),
    "pool2": ("588", None, 28 * 28 * 192, 0),
}
# Layers of VGG-16's head: KB, thousands of weights, million operations; inputs and outputs.
HEAD = {
    "hidden/0": ("16", "102760K", "103M", 25_088, 4096),
    "hidden/1": ("16", "16777K", "17M", 4096, 4096),
    "classifier": ("4", "4096K", "4M", 4096, 1000),
}
# Parameters of heads: as in the paper, with an average over positions, flattened, with two hidden layers of 4096.
GAP, FC, FLATTEN = dict(head="gap"), dict(head="fc"), dict(head="flatten")
HEADS = [
    ("alexnet", "", dict(variant="ungrouped"), 58_631_144),
    ("alexnet", "as an average", dict(variant="ungrouped", **GAP), 256 * 1000 + 1000),
    ("vgg16", "", {}, 123_642_856),
    ("vgg16", "as an average", GAP, 512 * 1000 + 1000),
    ("googlenet", "", {}, 1024 * 1000 + 1000),
    ("googlenet", "with two hidden layers", FC, 226_403_304),
    ("resnet50", "", {}, 2048 * 1000 + 1000),
    ("resnet50", "flattened", FLATTEN, 7 * 7 * 2048 * 1000 + 1000),
    ("resnet50", "with two hidden layers", FC, 431_924_200),
]


def part(name: str) -> list[LayerRow]:
    """Returns the layers of a row of the table, of the paper's network without normalization."""
    parts = stages(rows("googlenet", norm="none")).items()
    return [row for key, found in parts for row in found if key in (name, f"{name}_reduce", f"inception_{name}")]


def output(name: str) -> list[int]:
    """Returns the size of a row's output; the branches of a module stand side by side."""
    found = part(name)
    branches = [
        row for row in found if row.name.split("/")[1:2] in (["conv1x1"], ["conv3x3"], ["conv5x5"], ["projection"])
    ]
    positions = list(found[-1].output_shape[:-1])
    return [*positions, sum(row.output_shape[-1] for row in branches) or found[-1].output_shape[-1]]


def stem(name: str, last: str) -> list[LayerRow]:
    """Returns the layers of a network up to the one whose map is 28x28, without normalization."""
    found = [row for row in rows(name) if row.kind != "norm"]
    return found[: 1 + [row.name.removesuffix("/conv") for row in found].index(last)]


def mebibytes(found: list[LayerRow]) -> float:
    return 4 * sum(row.outputs for row in found) / 2**20


def _table() -> list[Fact]:
    found = []
    for name, (size, parameters, operations, count, by_hand) in TABLE.items():
        told, rows_of = f"GoogLeNet {name}", functools.partial(part, name)
        found.append(Fact("002/003", f"{told}, output", size, size, functools.partial(output, name)))
        if parameters:
            why = "K is 1024, and biases are left out"
            found.append(Fact("002/003", f"{told}, weights", parameters, count, lambda r=rows_of: weights(r()), why))
            found.append(Fact("002/003", f"{told}, MACs", operations, by_hand, lambda r=rows_of: macs(r())))
    return found


def _stem() -> list[Fact]:
    found = []
    for name, (memory, thousands, values, count) in STEM.items():
        told, row = f"stem of GoogLeNet, {name}", functools.partial(layer, name, "googlenet", norm="none")
        found.append(Fact("003", f"{told}, KB", memory, 4 * values // 1024, lambda r=row: 4 * r().outputs // 1024))
        if thousands:
            found.append(Fact("003", f"{told}, weights", thousands, count, lambda r=row: weights([r()])))
    ours, vgg = functools.partial(stem, "googlenet", "pool2"), functools.partial(stem, "vgg16", "pool3")
    bytes_ours, bytes_vgg = 4 * 1_956_864, 4 * 13_447_168
    why = "the slide has VGG-13's, which has two convolutions of 256 maps, without the pools"

    def vgg13() -> list[LayerRow]:
        return [row for row in stem("vgg13", "pool3") if row.kind == "conv"]

    return [
        *found,
        Fact("003", "stem of GoogLeNet, MiB", "7.5", bytes_ours / 2**20, lambda: mebibytes(ours())),
        Fact("003", "stem of GoogLeNet, weights", "124K", 124_096, lambda: weights(ours())),
        Fact("003", "stem of VGG-16, MiB", "42.9", bytes_vgg / 2**20, lambda: mebibytes(vgg()), why),
        Fact(
            "003",
            "stem of VGG-16 over it, MiB",
            "5.7x",
            bytes_vgg / bytes_ours,
            lambda: mebibytes(vgg()) / mebibytes(ours()),
            why,
        ),
        Fact("003", "stem of VGG-16, weights", "1.1M", 1_734_336, lambda: weights(vgg()), why),
        Fact(
            "003",
            "stem of VGG-16 over it, weights",
            "8.9x",
            1_734_336 / 124_096,
            lambda: weights(vgg()) / weights(ours()),
            why,
        ),
        Fact("003", "convolutions of VGG-13 to 28x28, MiB", "42.9", 42.875, lambda: mebibytes(vgg13())),
        Fact("003", "convolutions of VGG-13 to 28x28, weights", "1.1M", 1_144_512, lambda: weights(vgg13())),
        Fact(
            "003", "stem of VGG-16 over it, MACs", None, 9_335_144_448 / 477_675_520, lambda: macs(vgg()) / macs(ours())
        ),
    ]


def _head() -> list[Fact]:
    found = []
    for name, (memory, thousands, operations, before, after) in HEAD.items():
        told, row = f"head of VGG-16, {name}", functools.partial(layer, f"head/{name}", "vgg16")
        found += [
            Fact("003", f"{told}, KB", memory, round(4 * after / 1024), lambda r=row: round(4 * r().outputs / 1024)),
            Fact("003", f"{told}, weights", thousands, before * after, lambda r=row: weights([r()])),
            Fact("003", f"{told}, MACs", operations, before * after, lambda r=row: r().macs),
        ]
    last = functools.partial(layer, "head/classifier", "googlenet")
    return [
        *found,
        Fact("003", "head of GoogLeNet, KB", "0", round(4000 / 1024), lambda: round(4 * last().outputs / 1024)),
        Fact(
            *("003", "head of GoogLeNet, parameters", "1025K", 1024 * 1000 + 1000),
            lambda: last().parameters,
            "with biases, which the rows of VGG-16 leave out",
        ),
        Fact(
            "003",
            "head of VGG-16 flattens, KB",
            "98",
            4 * 25_088 / 1024,
            lambda: 4 * layer("pool5", "vgg16").outputs / 1024,
        ),
        *(
            Fact(
                *("001", f"head of {name} {told}".rstrip(), None, parameters),
                lambda name=name, fields=fields: total(name, **fields).linear_parameters,
            )
            for name, told, fields, parameters in HEADS
        ),
    ]


def _sizes() -> list[Fact]:
    ours, alexnet = functools.partial(total, "googlenet"), functools.partial(total, "alexnet")
    one = functools.partial(total, "alexnet", variant="ungrouped")  # without the towers
    return [
        Fact(
            *("002", "GoogLeNet, parameters", "5M", 6_998_552),
            lambda: ours().parameters,
            "5,973,552 without the classifier",
        ),
        Fact(
            *("002", "GoogLeNet, linear layers", "0", 1),
            lambda: sum(row.kind == "linear" for row in rows("googlenet")),
            'one stays, of 1,025,000 parameters; the slide "removes FC layers completely"',
        ),
        Fact(
            *("002", "AlexNet (two towers) over it, parameters", "12x", 60_965_224 / 6_998_552),
            lambda: alexnet().parameters / ours().parameters,
            "12 with 5M only",
        ),
        Fact(
            *("002", "it over AlexNet (two towers), MACs", "2x", 1_582_671_872 / 724_406_816),
            lambda: ours().macs / alexnet().macs,
        ),
        Fact(
            "002",
            "AlexNet over it, parameters",
            None,
            62_378_344 / 6_998_552,
            lambda: one().parameters / ours().parameters,
        ),
        Fact("002", "it over AlexNet, MACs", None, 1_582_671_872 / 1_135_256_096, lambda: ours().macs / one().macs),
    ]


def facts() -> list[Fact]:
    return [*_table(), *_stem(), *_head(), *_sizes()]
