"""SqueezeNet and its Fire modules (lecture 001)."""

from cnn_jax.analysis.layer_table import LayerRow, stages
from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import macs, rows

# Fire module: input channels, squeeze, expand 1x1, expand 3x3, side of its map.
FIRES = {
    "fire2": (96, 16, 64, 64, 54),
    "fire3": (128, 16, 64, 64, 54),
    "fire4": (128, 32, 128, 128, 54),
    "fire5": (256, 32, 128, 128, 27),
    "fire6": (256, 48, 192, 192, 27),
    "fire7": (384, 48, 192, 192, 27),
    "fire8": (384, 64, 256, 256, 27),
    "fire9": (512, 64, 256, 256, 13),
}


def fire(name: str) -> list[LayerRow]:
    return [row for row in stages(rows("squeezenet1_0"))[name] if row.kind == "conv"]


def by_hand(channels: int, squeeze: int, one: int, three: int) -> tuple[int, int]:
    """Returns (weights, biases) of a Fire module."""
    return channels * squeeze + squeeze * one + 9 * squeeze * three, squeeze + one + three


def facts() -> list[Fact]:
    found, why = [], "on the slide a Fire layer is something else"
    for name, (channels, squeeze, one, three, side) in FIRES.items():
        kernels, biases = by_hand(channels, squeeze, one, three)
        found += [
            Fact(
                *("001", f"SqueezeNet {name}, parameters", None, kernels + biases),
                lambda name=name: sum(row.parameters for row in fire(name)),
                why if name == "fire2" else "",
            ),
            Fact(*("001", f"SqueezeNet {name}, MACs", None, kernels * side * side), lambda name=name: macs(fire(name))),
        ]
    return found
