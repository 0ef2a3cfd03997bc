"""torchvision's weights for our networks, and back: the names, the layout, and one message for all that does not fit.

Weights are a mapping from torchvision's names (of a `state_dict`) to NumPy arrays; torch itself is not needed.

    torchvision                        our path
    weight [out, in, *spatial]         kernel [*spatial, in, out]
    weight [out, in]                   kernel [in, out]
    weight [out, C * H * W]            kernel [H * W * C, out], of the first linear layer behind maps
    weight, bias [C] of BatchNorm      scale, bias [C]
    running_mean, running_var [C]      mean, var [C]
    num_batches_tracked                is ignored

Pretrained GoogLeNets expect images normalized with mean 0.5 and standard deviation 0.5, the others with ImageNet's.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax.core import trees
from cnn_jax.core.errors import check

# torchvision's network: ours, and its fields. Names do not show fields without parameters, such as norm="lrn".
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("alexnet", dict(variant="one_tower", norm="none", input_shape=(224, 224, 3))),
    **{f"vgg{depth}": (f"vgg{depth}", dict(norm="none")) for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": (f"vgg{depth}", dict(norm="batch")) for depth in (11, 13, 16, 19)},
    "googlenet": ("googlenet", dict(variant="torchvision", norm="batch", auxiliary=True)),
    "squeezenet1_0": ("squeezenet1_0", {}),
    "squeezenet1_1": ("squeezenet1_1", {}),
    **{f"resnet{depth}": (f"resnet{depth}", {}) for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": ("resnet50", dict(groups=32, width_per_group=4)),
    "wide_resnet50_2": ("resnet50", dict(width_per_group=128)),
}

Leaves = dict[str, Any]  # our path -> what has a shape: an array, or the shape alone

# ---------------------------------------------------------------- names of layers, ours -> torchvision's


def _alexnet(_: Leaves) -> dict[str, str]:
    rows = zip(range(1, 6), (0, 3, 6, 8, 10), strict=True)  # `features` count activations and pools, too
    found = {f"conv{i}/conv": f"features.{number}" for i, number in rows}
    return found | {"head/hidden/0": "classifier.1", "head/hidden/1": "classifier.4", "head/classifier": "classifier.6"}


def _vgg(leaves: Leaves) -> dict[str, str]:
    found = {"head/hidden/0": "classifier.0", "head/hidden/1": "classifier.3", "head/classifier": "classifier.6"}
    number, block = 0, "conv1"
    for row in sorted({path.split("/")[0] for path in leaves if re.match(r"conv\d_\d/", path)}):
        if not row.startswith(block):
            number, block = number + 1, row[:5]  # the pool
        found |= {f"{row}/conv": f"features.{number}", f"{row}/norm": f"features.{number + 1}"}
        number += 3 if f"{row}/norm/scale" in leaves else 2  # convolution, BatchNorm, ReLU
    return found


def _squeezenet(leaves: Leaves) -> dict[str, str]:
    first = leaves["conv1/conv/kernel"].shape[0] == 7  # version 1.0; the pools of 1.1 are in other places
    numbers = (3, 4, 5, 7, 8, 9, 10, 12) if first else (3, 4, 6, 7, 9, 10, 11, 12)
    found = {"conv1/conv": "features.0", "head/classifier": "classifier.1"}
    for i, number in enumerate(numbers, start=2):
        found |= {f"fire{i}/{x}/conv": f"features.{number}.{x}" for x in ("squeeze", "expand1x1", "expand3x3")}
    return found


def _googlenet(_: Leaves) -> dict[str, str]:
    branches = {
        **{"conv1x1": "branch1", "reduce3x3": "branch2.0", "conv3x3": "branch2.1"},
        **{"reduce5x5": "branch3.0", "conv5x5": "branch3.1", "projection": "branch4.1"},
    }
    blocks = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        blocks |= {f"inception_{module}/{ours}": f"inception{module}.{theirs}" for ours, theirs in branches.items()}
    found = {"head/classifier": "fc"}
    for ours, theirs in {"auxiliary_4a": "aux1", "auxiliary_4d": "aux2"}.items():
        blocks[f"{ours}/conv"] = f"{theirs}.conv"
        found |= {f"{ours}/head/hidden/0": f"{theirs}.fc1", f"{ours}/head/classifier": f"{theirs}.fc2"}
    for ours, theirs in blocks.items():
        found |= {f"{ours}/conv": f"{theirs}.conv", f"{ours}/norm": f"{theirs}.bn"}
    return found


def _resnet(leaves: Leaves) -> dict[str, str]:
    found = {"conv1": "conv1", "norm1": "bn1", "head/classifier": "fc"}
    parts = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
    for path in leaves:
        if match := re.fullmatch(r"(conv(\d)_x/(\d+)/(\w+))/\w+", path):
            layer, stage, block, part = match.groups()
            found[layer] = f"layer{int(stage) - 1}.{block}.{parts.get(part, part.replace('norm', 'bn'))}"
    return found


# by the class of the family
FAMILIES = dict(AlexNet=_alexnet, VGG=_vgg, SqueezeNet=_squeezenet, GoogLeNet=_googlenet, ResNet=_resnet)
KINDS = dict(kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var")

# ---------------------------------------------------------------- layout


def _channels(path: str, leaves: Leaves) -> int:
    """Returns the channels of the maps that the linear layer `path` sees flattened; 0 for all other leaves."""
    if not path.endswith("head/hidden/0/kernel"):
        return 0
    tower = path.removesuffix("head/hidden/0/kernel")
    last = max(name for name, leaf in leaves.items() if name.startswith(tower) and len(leaf.shape) > 2)
    return leaves[last].shape[-1]


def _to_ours(value: np.ndarray, channels: int) -> np.ndarray:
    """Returns torch's array in our layout."""
    if channels:  # inputs [C, positions] -> [positions, C]
        value = np.moveaxis(value.reshape(len(value), channels, -1), 1, 2).reshape(len(value), -1)
    return np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value


def _to_theirs(value: np.ndarray, channels: int) -> np.ndarray:
    """Returns our array in torch's layout; the inverse of `_to_ours`."""
    value = np.moveaxis(value, (-1, -2), (0, 1)) if value.ndim > 1 else value
    if channels:
        value = np.moveaxis(value.reshape(len(value), -1, channels), 1, 2).reshape(len(value), -1)
    return np.ascontiguousarray(value)


# ---------------------------------------------------------------- whole networks


def _leaves(model: nnx.Module) -> Leaves:
    return dict(trees.named_leaves(nnx.to_pure_dict(nnx.state(model))))


def _family(model: Any) -> str:
    """Returns the name of the class of the model's family, or of the one of `FAMILIES` that it is derived from."""
    names = [cls.__name__ for cls in type(getattr(model, "family", model)).__mro__]
    return next((name for name in names if name in FAMILIES), names[0])


def names(model: nnx.Module) -> dict[str, str]:
    """Returns torchvision's name for each of our paths that has one; `model` may be shapes only (`nnx.eval_shape`).

    Raises:
      UserError: torchvision has no network of this family.
    """
    family, leaves = _family(model), _leaves(model)
    known = ", ".join(sorted({name for name, _ in NETWORKS.values()}))
    check(family in FAMILIES, f"torchvision has no {family} that is known here: take one of {known}")
    layers = FAMILIES[family](leaves)
    split = {path: path.rsplit("/", 1) for path in leaves}
    return {path: f"{layers[layer]}.{KINDS[kind]}" for path, (layer, kind) in split.items() if layer in layers}


def _is_head(path: str) -> bool:
    return path.startswith("head/")


def misfits(model: nnx.Module, shapes: Mapping[str, tuple[int, ...]], *, headless: bool = False) -> str:
    """Returns one line that lists which of torchvision's weights do not fit the network; empty if all fit.

    Args:
      model: our network, or its shapes only (`nnx.eval_shape`). shapes: torchvision's name -> shape.
      headless: the weights have no head, and need none.
    """
    theirs, leaves = names(model), _leaves(model)
    if headless:
        theirs = {path: name for path, name in theirs.items() if not _is_head(path)}
        leaves = {path: leaf for path, leaf in leaves.items() if not _is_head(path)}
    given = {name: shape for name, shape in shapes.items() if not name.endswith(".num_batches_tracked")}
    needed = {path: leaf.shape[:-3:-1] + leaf.shape[:-2] for path, leaf in leaves.items()}  # in torch's layout
    problems = {
        "missing": [name for name in theirs.values() if name not in given],
        "left over": sorted(given.keys() - theirs.values()),
        "of another shape": [
            f"{name} is {list(given[name])}, but {path} needs {list(needed[path])}"
            for path, name in theirs.items()
            if name in given and given[name] != needed[path]
        ],
        "without a name in torchvision": [path for path in leaves if path not in theirs],
    }
    return "; ".join(f"{len(found)} {kind}: {', '.join(found)}" for kind, found in problems.items() if found)


def convert(model: nnx.Module, weights: Mapping[str, np.ndarray], *, headless: bool = False) -> dict[str, np.ndarray]:
    """Returns our path -> array in our layout, in memory of its own, of torchvision's weights without `misfits`."""
    theirs, leaves = names(model), _leaves(model)
    return {
        path: np.array(_to_ours(np.asarray(weights[name]), _channels(path, leaves)), leaves[path].dtype, order="C")
        for path, name in theirs.items()
        if not (headless and _is_head(path))
    }


def load(model: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Returns the network with torchvision's weights instead of all its parameters and statistics.

    Args:
      model: our network, or its shapes only (`nnx.eval_shape`), which computes no initial values.
      weights: torchvision's name -> array.

    Raises:
      UserError: names are missing, left over or of another shape, or parameters of ours have none: all in one message.
    """
    listed = misfits(model, {name: np.shape(value) for name, value in weights.items()})
    check(
        not listed,
        f"these are not the weights of this {_family(model)}: {listed}. Build the network with the fields, "
        "the number of classes and the image size that the weights were made for (torchvision_weights.NETWORKS)",
    )
    own = convert(model, weights)
    graphdef, state = nnx.split(model)

    def value(path: Any, leaf: Any) -> jax.Array:
        return jnp.array(own[trees.path_name(path)], leaf.dtype)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(value, nnx.to_pure_dict(state)))


def export(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns all parameters and statistics under torchvision's names and in its layout: the inverse of `load`.

    Raises:
      UserError: parameters of ours have no name in torchvision; the message lists them.
    """
    theirs, leaves = names(model), _leaves(model)
    unknown = [path for path in leaves if path not in theirs]
    check(not unknown, f"torchvision's {_family(model)} has no {', '.join(unknown)}: it cannot be exported")
    return {name: _to_theirs(np.asarray(leaves[path]), _channels(path, leaves)) for path, name in theirs.items()}
