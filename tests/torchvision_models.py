"""torchvision's networks with our weights: the import, the copy, and the comparison of logits."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models, trees

_declared = []  # the declaration of an operator ends with its library


def import_models() -> Any:
    """Returns `torchvision.models`; skips the test where torch or torchvision is missing.

    Where torchvision's compiled operators cannot be loaded (a build for another torch), its import fails on two that
    no classifier uses: then they are declared first, without a body.
    """
    torch = pytest.importorskip("torch")
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    if not _declared:
        try:
            for library in sorted(Path(spec.origin).parent.glob("_C*.so")):
                torch.ops.load_library(str(library))
        except OSError:
            pass
        if not hasattr(torch.ops.torchvision, "nms"):
            from torch import library

            _declared.append(library.Library("torchvision", "DEF"))
            for name in ("nms", "qnms"):
                _declared[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")


# ---------------------------------------------------------------- names: torchvision's -> ours


def alexnet_names() -> dict[str, str]:
    return {
        "features.0": "conv1/conv",
        "features.3": "conv2/conv",
        "features.6": "conv3/conv",
        "features.8": "conv4/conv",
        "features.10": "conv5/conv",
        "classifier.1": "head/hidden/0",
        "classifier.4": "head/hidden/1",
        "classifier.6": "head/classifier",
    }


def vgg_names(convolutions: Sequence[int], *, batch_norm: bool) -> dict[str, str]:
    """Returns the names for a VGG with that many convolutions in its blocks.

    torchvision numbers every module of the features: convolution, BatchNorm if any, ReLU, and a pool after each block.
    """
    found, number = {}, 0
    for block, count in enumerate(convolutions, start=1):
        for i in range(1, count + 1):
            found[f"features.{number}"] = f"conv{block}_{i}/conv"
            if batch_norm:
                found[f"features.{number + 1}"] = f"conv{block}_{i}/norm"
            number += 3 if batch_norm else 2
        number += 1
    return found | {
        "classifier.0": "head/hidden/0",
        "classifier.3": "head/hidden/1",
        "classifier.6": "head/classifier",
    }


# ---------------------------------------------------------------- weights


def random_weights(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """Returns a network of shapes (`nnx.eval_shape`) with random values that keep activations near one."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> jax.Array:
        kind = trees.path_name(path).removesuffix("/value").split("/")[-1]
        if kind == "kernel":
            spread = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            values = rng.standard_normal(leaf.shape, np.float32) * np.float32(spread)
        else:
            low, high = (0.5, 1.5) if kind in ("scale", "var") else (-0.5, 0.5)
            values = rng.uniform(low, high, leaf.shape).astype(np.float32)
        return jnp.asarray(values)

    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def state_dict(model: nnx.Module, names: Mapping[str, str], flattened: tuple[str, Sequence[int]] | None = None) -> dict:
    """Returns our parameters and statistics as torch's state dict.

    Kernels change from [*spatial, in, out] to [out, in, *spatial], linear ones from [in, out] to [out, in].

    Args:
      names: torch's name of a layer -> our name.
      flattened: (torch's name of the linear layer behind feature maps, their shape [*spatial, C] with us): torch
        flattens [C, *spatial], so its inputs change order.
    """
    import torch

    ours = dict(trees.named_leaves(nnx.as_pure(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))))
    found = {}

    def move(theirs: str, name: str, change: Any = np.asarray) -> None:
        found[theirs] = torch.from_numpy(np.ascontiguousarray(change(np.asarray(ours.pop(name)))).copy())

    def channels_first(kernel: np.ndarray) -> np.ndarray:
        return np.moveaxis(kernel, (-1, -2), (0, 1))

    for theirs, name in names.items():
        if f"{name}/scale" in ours:
            move(f"{theirs}.weight", f"{name}/scale")
            move(f"{theirs}.bias", f"{name}/bias")
            move(f"{theirs}.running_mean", f"{name}/mean")
            move(f"{theirs}.running_var", f"{name}/var")
            found[f"{theirs}.num_batches_tracked"] = torch.tensor(0)
            continue
        change = channels_first
        if flattened is not None and theirs == flattened[0]:
            shape = tuple(flattened[1])

            def change(kernel: np.ndarray, shape: tuple[int, ...] = shape) -> np.ndarray:
                return channels_first(kernel.reshape(*shape, -1)).reshape(kernel.shape[-1], -1)

        move(f"{theirs}.weight", f"{name}/kernel", change)
        if f"{name}/bias" in ours:
            move(f"{theirs}.bias", f"{name}/bias")
    assert not ours, f"without a name in torch: {sorted(ours)}"
    return found


# ---------------------------------------------------------------- comparison


def compare_logits(
    name: str,
    fields: dict[str, Any],
    build: Any,
    names: Mapping[str, str],
    *,
    flattened: tuple[str, Sequence[int]] | None = None,
    image_shape: Sequence[int] = (224, 224, 3),
) -> None:
    """Fails unless our network and torchvision's give the same logits in evaluation: max|a-b| / max|b| < 1e-4.

    Args:
      name, fields: of our network. build: torchvision's constructor, called without arguments.
      names, flattened: see `state_dict`. image_shape: [*spatial, C], without batch.
    """
    import torch

    model = random_weights(nnx.eval_shape(lambda: models.create(name, input_shape=tuple(image_shape), **fields)))
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    with torch.device("meta"):  # its own initial values would be thrown away
        source = build()
    source.load_state_dict(state_dict(model, names, flattened), strict=True, assign=True)
    source.eval()
    x = np.random.default_rng(1).standard_normal((1, *image_shape), np.float32)
    with torch.no_grad():
        theirs = source(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    graphdef, state = nnx.split(model)
    ours = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    assert ours.shape == theirs.shape
    assert np.max(np.abs(theirs)) > 0.1
    assert np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)) < 1e-4
