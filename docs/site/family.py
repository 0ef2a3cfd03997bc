"""Draws docs/family.png: parameters and MACs of every network, read off the modules.

python docs/site/family.py
"""

from pathlib import Path

import networks

from cnn_jax.analysis.layer_table import totals
from cnn_jax.display import plots

# Where a name is next to its point; the others are at the right.
SIDES = {
    "left": "local resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 alexnet vgg11 flattened resnet18 resnet101 "
    "nin dilated",
    "above": "vgg16 resnet50",
    "below": "vgg13 lenet5_1998 nin_cifar",
    "under": "squeezenet1_1",
}
OFFSETS = {
    "right": ((7, -3), "left"),
    "left": ((-7, -3), "right"),
    "above": ((0, 8), "center"),
    "below": ((0, -15), "center"),
    "under": ((0, -15), "left"),
}
KINDS = {
    "residual": ("C0", "o", ("resnet",)),
    "VGG": ("C1", "s", ("vgg",)),
    "AlexNet, ZFNet": ("C3", "D", ("alexnet", "zfnet")),
    "NiN, GoogLeNet, SqueezeNet": ("C2", "^", ("nin", "googlenet", "squeezenet")),
    "others": ("C7", "v", ("",)),
}
LEFT_OUT = ("cifar_resnet", "vgg11_lrn", "vgg16c", "toy")  # points on another one, and one far away


def kind(name: str) -> str:
    return next(kind for kind, (*_, beginnings) in KINDS.items() if name.startswith(beginnings))


def draw(path: Path) -> Path:
    """Draws the picture, 1500 x 750 pixels, and returns its path."""
    figure, axis = plots.subplots(1, figsize=(10, 5))
    shown = [name for name in networks.IDEAS if name not in LEFT_OUT]
    for label, (color, marker, _) in KINDS.items():
        own = [totals(networks.table(name)) for name in shown if kind(name) == label]
        axis.plot([one.macs for one in own], [one.parameters for one in own], marker, color=color, label=label, ms=7)
    for name in shown:
        one = totals(networks.table(name))
        side = next((side for side, names in SIDES.items() if name in names.split()), "right")
        offset, align = OFFSETS[side]
        place = (one.macs, one.parameters)
        axis.annotate(name, place, xytext=offset, textcoords="offset points", ha=align, fontsize=8)
    axis.set_xscale("log")
    axis.set_xlim(2e4, 1e11)
    axis.set_ylim(1.5e4, 4e8)
    axis.set_yscale("log")
    axis.set_xlabel("MACs per image")
    axis.set_ylabel("parameters")
    axis.legend(loc="lower right")
    axis.grid(alpha=0.3)
    return plots.save(figure, path)


if __name__ == "__main__":
    print(draw(Path(__file__).parents[1] / "family.png"))
