"""LeNet-5 (lecture 003)."""

from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import layer, outputs, rows


def facts() -> list[Fact]:
    sizes = [28 * 28, 4704, 1176, 1600, 400, 120]
    return [
        Fact(
            *("003", "LeNet-5, values from the image to C5", [784] * 6, sizes),
            lambda: [28 * 28, *outputs(rows("lenet5"))][:6],
            'the slide: "total volume is preserved"',
        ),
        Fact("003", "LeNet-5, flattened", "120", 5 * 5 * 16, lambda: layer("pool2", "lenet5").outputs, "120 is C5"),
        Fact(
            *("003", "LeNet-5, parameters of 400 to 120", None, 400 * 120 + 120),
            lambda: layer("head/hidden/0", "lenet5").parameters,
            "this layer is missing in the first table",
        ),
        Fact(
            *("003", "C5 as a convolution, weights", "48000", 120 * 16 * 5 * 5),
            lambda: layer("conv3", "lenet5", c5="conv").macs,
            "120 x 16 x 5 x 5; the same numbers as the linear layer",
        ),
    ]
