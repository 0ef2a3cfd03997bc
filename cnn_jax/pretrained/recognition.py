"""Recognizes which network weights belong to, by their names and shapes: torchvision's names, and timm's.

Names do not show layers without parameters. So the network is assumed to be the plain one with these names,
torchvision's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnn_jax.core.errors import UserError
from cnn_jax.pretrained.torchvision_weights import NETWORKS

Shapes = Mapping[str, tuple[int, ...]]

KNOWN = (
    "AlexNet, VGG-11, 13, 16, 19 (with and without BatchNorm), GoogLeNet, SqueezeNet 1.0 and 1.1, and ResNet-18, 34, "
    "50, 101, 152 with their ResNeXt and wide forms, with the names of torchvision or timm"
)
# timm's architectures that compute the same as the plain network with their names; resnetblur50, for one, has the names
# of resnet50
PLAIN = (
    r"(tv_|gluon_|ssl_|swsl_|ig_)?(resnet(18|34|50|101|152)(_v1b)?|resnext\d+_\d+x\d+d|wide_resnet\d+_2)|"
    r"vgg(11|13|16|19)(_bn)?|alexnet|googlenet|squeezenet1_[01]"
)


@dataclass(frozen=True)
class Recognized:
    """The network that weights belong to.

    name, fields: of `models.create`, without num_classes and input_shape.
    num_classes: 0 if the weights have no head, or one of another form. channels: of images.
    names: torchvision's name -> the name in the file, where they differ.
    head: names of a head of another form, which is left out.
    prefix: what comes before all names of the network.
    """

    name: str
    fields: Mapping[str, Any]
    num_classes: int
    channels: int
    names: Mapping[str, str]
    head: tuple[str, ...] = ()
    prefix: str = ""


def recognize(shapes: Shapes) -> Recognized:
    """Returns the network that weights belong to, by a few of their names and shapes; it does not check that all fit.

    All names of the network may have any one prefix, such as `backbone.`; there may be other names, too.

    Raises:
      UserError: they belong to no known network; the message lists what was found and what is known.
    """
    for prefix in _prefixes(shapes):
        inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        for first, family in FAMILIES.items():
            if first in inside and (found := family(inside)):
                return replace(found, prefix=prefix)
    shown = [f"{name} {list(shape)}" for name, shape in list(shapes.items())[:6]]
    rest = f", and {len(shapes) - 6} more" if len(shapes) > 6 else ""
    raise UserError(
        f"these are the weights of no network that is known here, but {', '.join(shown)}{rest}. Known are {KNOWN}"
    )


def _prefixes(shapes: Shapes) -> list[str]:
    """Returns "" and the prefixes of the first names of `FAMILIES`, the shortest first."""
    found = {name.removesuffix(first) for name in shapes for first in FAMILIES if name.endswith(f".{first}")}
    return ["", *sorted(found, key=lambda prefix: (len(prefix), prefix))]


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """Returns one size of an array; 0 where there is none."""
    return dict(enumerate(shapes.get(name, ()))).get(axis, 0)


def _found(
    shapes: Shapes, theirs: str, *, first: str, last: str, hidden: Sequence[str] = (), **fields: Any
) -> Recognized:
    """Returns torchvision's network `theirs`.

    Args:
      first, last, hidden: torchvision's names of the layers of the image, of the scores, and of the linear ones before.
    """
    name, known = NETWORKS[theirs]
    known = {field: value for field, value in known.items() if field != "input_shape"} | fields
    timm = TIMM_HEAD if "pre_logits.fc1.weight" in shapes else {}
    names = {f"{ours}.{kind}": f"{layer}.{kind}" for ours, layer in timm.items() for kind in ("weight", "bias")}

    def size(layer: str, axis: int) -> int:
        return _size(shapes, f"{timm.get(layer, layer)}.weight", axis)

    if hidden:
        known["fc_sizes"] = tuple(size(layer, 0) or 4096 for layer in hidden)  # misfits are listed later
    places = ("pre_logits.", "head.") if timm else (f"{last.split('.')[0]}.",)
    there = {name for name in shapes if name.startswith(places)}
    layers = [timm.get(layer, layer) for layer in (*hidden, last)]
    usual = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    if there != usual or size(last, 0) < 1:  # none, or one of another form
        known.pop("fc_sizes", None)
        return Recognized(name, known, 0, size(first, 1) or 3, {}, tuple(sorted(there)))
    return Recognized(name, known, size(last, 0), size(first, 1) or 3, names)


# torchvision's layer: timm's; its linear layers are convolutions
TIMM_HEAD = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}


def _alexnet_or_vgg(shapes: Shapes) -> Recognized | None:
    kernel = shapes["features.0.weight"][2:]
    layers: dict[str, Any] = dict(first="features.0", last="classifier.6")
    if kernel == (11, 11):
        return _found(shapes, "alexnet", hidden=("classifier.1", "classifier.4"), **layers)
    numbered = [
        name for name, shape in shapes.items() if len(shape) == 4 and re.fullmatch(r"features\.\d+\.weight", name)
    ]
    theirs = f"vgg{len(numbered) + 3}{'_bn' if 'features.1.running_mean' in shapes else ''}"
    if kernel == (3, 3) and theirs in NETWORKS:
        return _found(shapes, theirs, hidden=("classifier.0", "classifier.3"), **layers)
    return None


def _squeezenet(shapes: Shapes) -> Recognized | None:
    kernel = shapes.get("features.0.weight", ())[2:]
    if kernel not in ((7, 7), (3, 3)):
        return None
    version = "1_0" if kernel == (7, 7) else "1_1"
    return _found(shapes, f"squeezenet{version}", first="features.0", last="classifier.1")


def _googlenet(shapes: Shapes) -> Recognized | None:
    auxiliary = any(name.startswith(("aux1.", "aux2.")) for name in shapes)
    return _found(shapes, "googlenet", first="conv1.conv", last="fc", auxiliary=auxiliary)


DEPTHS: dict[Any, int] = {
    **{((2, 2, 2, 2), 2): 18, ((3, 4, 6, 3), 2): 34},
    **{((3, 4, 6, 3), 3): 50, ((3, 4, 23, 3), 3): 101, ((3, 8, 36, 3), 3): 152},
}  # (blocks of each stage, convolutions of a block): depth


def _resnet(shapes: Shapes) -> Recognized | None:
    blocks = {match.groups() for name in shapes if (match := re.match(r"layer(\d)\.(\d+)\.", name))}
    stages = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(1, 1 + len({s for s, _ in blocks})))
    convolutions = 3 if "layer1.0.conv3.weight" in shapes else 2
    depth = DEPTHS.get((stages, convolutions))
    if depth is None:
        return None
    fields: dict[str, Any] = {}
    width, of_group = (_size(shapes, "layer1.0.conv2.weight", axis) for axis in (0, 1))
    if convolutions == 3 and of_group and (width, of_group) != (64, 64):
        fields = dict(groups=max(1, width // of_group), width_per_group=of_group)
    return _found(shapes, f"resnet{depth}", first="conv1", last="fc", **fields)


# a name that only this family has -> what tells its networks apart, in this order
FAMILIES: dict[str, Callable[[Shapes], Recognized | None]] = {
    "layer1.0.conv1.weight": _resnet,
    "inception3a.branch1.conv.weight": _googlenet,
    "features.3.squeeze.weight": _squeezenet,
    "features.0.weight": _alexnet_or_vgg,
}
