"""AlexNet and ZFNet (lectures 000 to 004)."""

from typing import Any

from experiments.lectures import sizes
from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import fc_share, layer, total, weights

A: dict[str, Any] = dict(variant="ungrouped")  # of 227 pixels
C: dict[str, Any] = dict(variant="unpadded", norm="none")
D: dict[str, Any] = dict(variant="ungrouped", norm="none", input_shape=(224, 224, 3))
ZFNET: dict[str, Any] = dict(variant="zfnet_unpadded", norm="none", input_shape=(227, 227, 3))  # from C
ZFNET_PADDED: dict[str, Any] = dict(variant="zfnet_wide", norm="none")  # from A

LINEAR = {"fc6": "head/hidden/0", "fc7": "head/hidden/1", "fc8": "head/classifier"}

# Lecture 003, layer: the slide's output and parameters, which are right; both by hand are products of its own cells.
PADDED = {
    "conv1": ([55, 55, 96], "34944", (11 * 11 * 3 + 1) * 96),
    "pool1": ([27, 27, 96], "0", 0),
    "conv2": ([27, 27, 256], "614656", (5 * 5 * 96 + 1) * 256),
    "pool2": ([13, 13, 256], "0", 0),
    "conv3": ([13, 13, 384], "885120", (3 * 3 * 256 + 1) * 384),
    "conv4": ([13, 13, 384], "1327488", (3 * 3 * 384 + 1) * 384),
    "conv5": ([13, 13, 256], "884992", (3 * 3 * 384 + 1) * 256),
    "pool3": ([6, 6, 256], "0", 0),
    "fc6": ([4096], "37752832", 9216 * 4096 + 4096),
    "fc7": ([4096], "16781312", 4096 * 4096 + 4096),
    "fc8": ([1000], "4097000", 4096 * 1000 + 1000),
}
# Lectures 000 and 004, layer: the slide's weights, and by hand.
UNPADDED = {
    "conv1": ("34K", 11 * 11 * 3 * 96),
    "conv2": ("0.6M", 5 * 5 * 96 * 256),
    "conv3": ("0.8M", 3 * 3 * 256 * 384),
    "conv4": ("1.327M", 3 * 3 * 384 * 384),
    "conv5": ("0.8M", 3 * 3 * 384 * 256),
    "fc6": ("4M", 2 * 2 * 256 * 4096),
    "fc7": ("16M", 4096 * 4096),
    "fc8": ("4M", 4096 * 1000),
}
# Lecture 001, layer: size, filter, stride and padding, the slide's output, and the quotient by hand.
FOR_224 = {
    "conv1": (224, 11, 4, 0, "54", 54.25),
    "pool1": (54, 3, 2, 0, "26", 26.5),
    "pool2": (26, 3, 2, 0, "12", 12.5),
    "pool3": (12, 3, 2, 0, "5", 5.5),
}
# ZFNet - AlexNet, in the slide's count of layers, pools included: the layer, the slide's difference, by hand, why.
DIFFERENCES = {
    1: ("conv1", "20.7K", -(121 - 49) * 3 * 96, "20.7K fewer in ZFNet"),
    3: ("conv2", "0", 0, ""),
    5: ("conv3", "0.29M", 9 * 256 * (512 - 384), ""),
    6: ("conv4", "0.8M", 9 * (512 * 1024 - 384 * 384), "3x3x(512x1024 - 384x384)"),
    7: ("conv5", "0.36M", 9 * (1024 * 512 - 384 * 256), "3x3x(1024x512 - 384x256)"),
    9: ("fc6", "0", 2 * 2 * 256 * 4096, "its input has twice the maps"),
    10: ("fc7", "0", 0, ""),
}


def place(name: str) -> str:
    return LINEAR.get(name, name)


def difference(name: str, new: dict[str, Any] = ZFNET, old: dict[str, Any] = C) -> int:
    """Returns how many more weights a layer of ZFNet has than that of AlexNet."""
    return weights([layer(place(name), "zfnet", **new)]) - weights([layer(place(name), "alexnet", **old)])


def _padded() -> list[Fact]:
    found = []
    for name, (shape, parameters, by_hand) in PADDED.items():
        told = f"AlexNet {name}"
        found += [
            Fact(
                "003",
                f"{told}, output",
                shape,
                shape,
                lambda n=name: list(layer(place(n), "alexnet", **A).output_shape),
            ),
            Fact(
                "003",
                f"{told}, parameters",
                parameters,
                by_hand,
                lambda n=name: layer(place(n), "alexnet", **A).parameters,
            ),
        ]
    values = {name: shape[0] ** 2 * shape[-1] if len(shape) == 3 else shape[0] for name, (shape, *_) in PADDED.items()}
    found += [
        Fact(
            "003",
            f"AlexNet {name}, memory in KiB",
            None,
            count / 256,
            lambda n=name: layer(place(n), "alexnet", **A).outputs / 256,
        )
        for name, count in values.items()
    ]
    inputs = 227 * 227 * 3
    return [
        *found,
        Fact("003", "AlexNet, parameters", "62,378,344", 62_378_344, lambda: total("alexnet", **A).parameters),
        Fact(
            *("003", "AlexNet, memory in MiB with the image", None, 4 * (inputs + sum(values.values())) / 2**20),
            lambda: 4 * total("alexnet", **A).activations / 2**20,
            "outputs of convolutions, pools and linear layers, float32",
        ),
        Fact("002", "AlexNet conv1, weights", "35K", 34_848, lambda: weights([layer("conv1", "alexnet", **A)])),
    ]


def _unpadded() -> list[Fact]:
    found = [
        Fact(
            "000/004",
            f"AlexNet without padding, {name}",
            slide,
            by_hand,
            lambda n=name: weights([layer(place(n), "alexnet", **C)]),
        )
        for name, (slide, by_hand) in UNPADDED.items()
    ]
    everything = sum(by_hand for _, by_hand in UNPADDED.values())
    why = "the sum of what was left of each row"
    return [
        *found,
        Fact(
            "000/004",
            "AlexNet without padding, in all",
            "27.55M",
            everything,
            lambda: total("alexnet", **C).weights,
            why,
        ),
    ]


def _for_224() -> list[Fact]:
    why = "right only if it is rounded down, which the formula there does not say"
    found = [
        Fact(
            "001",
            f"AlexNet of 224 pixels, size of {name}",
            slide,
            by_hand,
            lambda given=given: sizes.quotient(*given),
            why,
        )
        for name, (*given, slide, by_hand) in FOR_224.items()
    ]
    return [
        *found,
        Fact(
            *("001", "AlexNet of 224 pixels, output of conv2", "25", 26),
            lambda: layer("conv2", "alexnet", **D).output_shape[0],
            "26 on the later slides",
        ),
        Fact(
            *("001", "AlexNet of 224 pixels, flattened", "6400", 5 * 5 * 256),
            lambda: layer("pool3", "alexnet", **D).outputs,
        ),
        Fact(
            *("001", "AlexNet of 224 pixels, FC1", "26,214,656", 6400 * 4096 + 4096),
            lambda: layer("head/hidden/0", "alexnet", **D).parameters,
            "256 biases for 4096",
        ),
        Fact(
            *("001", "AlexNet of 224 pixels, in all", "50,840,168", 50_844_008),
            lambda: total("alexnet", **D).parameters,
            "the sum of the slide's rows",
        ),
    ]


def _zfnet() -> list[Fact]:
    found = []
    for number, (name, slide, by_hand, why) in DIFFERENCES.items():
        sign = -1 if number == 1 else 1  # the slide has it the other way round
        found.append(
            Fact(
                *("000/004", f"ZFNet - AlexNet, layer {number} ({name})", slide, sign * by_hand),
                lambda n=name, sign=sign: sign * difference(n),
                why,
            )
        )
    convolutions = [f"conv{i}" for i in range(1, 6)]
    return [
        *found,
        Fact(
            *("000", "ZFNet - AlexNet, all convolutions", "1.45M", 7_499_520),
            lambda: sum(map(difference, convolutions)),
            "layer 1 left out, and the errors above",
        ),
        Fact(
            *("000", "ZFNet - AlexNet, all layers", None, 7_499_520 + 4_194_304),
            lambda: sum(map(difference, [*convolutions, *LINEAR])),
        ),
        Fact(
            *("000", "ZFNet - AlexNet, layer 9 of 6x6 maps", "0", 6 * 6 * 256 * 4096),
            lambda: difference("fc6", ZFNET_PADDED, A),
            "the networks of the papers, with padding",
        ),
        Fact(
            *("000", "ZFNet - AlexNet, all layers, of 6x6 maps", None, 7_499_520 + 37_748_736),
            lambda: sum(difference(name, ZFNET_PADDED, A) for name in [*convolutions, *LINEAR]),
        ),
        Fact(
            *("002", "ZFNet's last maps if conv2 keeps stride 1", None, [12, 12]),
            lambda: list(layer("pool3", "zfnet", variant="zfnet_stride_1").output_shape[:2]),
            "6x6 in the paper: the stride of conv2 must be 2 as well",
        ),
    ]


def _shares() -> list[Fact]:
    return [
        Fact(
            "001",
            f"share of linear layers, {told}",
            "> 90%",
            100 * part / everything,
            lambda given=given: fc_share("alexnet", **given),
        )
        for told, part, everything, given in (
            ("AlexNet", 58_631_144, 62_378_344, A),
            ("AlexNet in two towers", 58_631_144, 60_965_224, {}),
            ("AlexNet without padding", 25_076_712, 28_823_912, C),
            ("AlexNet of 224 pixels", 47_096_808, 50_844_008, D),
        )
    ]


def facts() -> list[Fact]:
    return [*_padded(), *_unpadded(), *_for_224(), *_zfnet(), *_shares()]
