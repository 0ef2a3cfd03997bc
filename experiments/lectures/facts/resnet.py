"""ResNet (lecture 002)."""

from cnn_jax.analysis.layer_table import stages
from experiments.lectures.facts.fact import Fact
from experiments.lectures.networks import rows, total

# depth: the slide's FLOPs; multiply-adds by hand, of the paper's stride in the first 1x1; blocks of conv2_x to conv5_x
TABLE = {
    18: ("1.8G", 1_814_073_344, (2, 2, 2, 2)),
    34: ("3.6G", 3_663_761_408, (3, 4, 6, 3)),
    50: ("3.8G", 3_857_973_248, (3, 4, 6, 3)),
    101: ("7.6G", 7_570_194_432, (3, 4, 23, 3)),
    152: ("11.3G", 11_282_415_616, (3, 8, 36, 3)),
}
WHY = {34: "3.644G with shortcuts that have no weights"}


def blocks(depth: int) -> list[int]:
    """Returns how many blocks the stages conv2_x to conv5_x have."""
    parts = stages(rows(f"resnet{depth}", variant="v1"))
    return [len({row.name.split("/")[1] for row in parts[f"conv{i}_x"]}) for i in range(2, 6)]


def facts() -> list[Fact]:
    found = [
        Fact(
            *("002", f"ResNet-{depth}, multiply-adds", slide, macs),
            lambda depth=depth: total(f"resnet{depth}", variant="v1").macs,
            "; ".join(filter(None, ["FLOPs on the slide", WHY.get(depth)])),
        )
        for depth, (slide, macs, _) in TABLE.items()
    ]
    found += [
        Fact(
            "002",
            f"ResNet-{depth}, blocks of the stages",
            list(stages),
            list(stages),
            lambda depth=depth: blocks(depth),
        )
        for depth, (_, _, stages) in TABLE.items()
    ]
    found.append(
        Fact(
            *("002", "VGG-19 over ResNet-152, MACs", None, 19_632_062_464 / 11_282_415_616),
            lambda: total("vgg19").macs / total("resnet152", variant="v1").macs,
            '"faster than a VGGNet": fewer operations in 8 times the layers',
        )
    )
    return found
