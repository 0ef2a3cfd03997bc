"""torchvision's networks and random weights, for tests that compare."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax.core import trees

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


def random_torch_network(name: str, *, gain: float = 1.0, **fields: Any) -> Any:
    """Returns torchvision's network with random parameters and BatchNorm statistics, in evaluation mode.

    gain: 1 keeps the activations of a plain network near one; with shortcuts, a smaller gain does.
    """
    models = import_models()
    import torch

    with torch.device("meta"):  # its own initial values would be thrown away
        network = getattr(models, name)(**fields)
    network.to_empty(device="cpu").eval()
    randomize(network, gain)
    return network


def randomize(network: Any, gain: float = 1.0) -> None:
    """Sets all parameters and statistics of a torch network to random numbers; no scale or variance is near 0."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, values in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                values.zero_()
            elif values.ndim > 1:
                limit = gain * (6 / values[0].numel()) ** 0.5
                values.uniform_(-limit, limit)
            elif name.endswith("bias") or name.endswith("mean"):
                values.uniform_(-0.5, 0.5)
            else:
                values.uniform_(0.5, 1.5)


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
