"""A network as a static graph and trees of arrays, which is what jitted functions take."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flax import nnx

from cnn_jax.core import trees

Tree = Any


@dataclass(frozen=True)
class Graph:
    """A network's static half: the graphs that merge with its arrays, for training and for evaluation.

    from_features: its input is what its head's `reduce` returns, and it computes the rest of the head.
    kernels: its steps use the kernels for CPUs, where there are any (`nn.cpu`).
    remat: its training step recomputes blocks in the backward pass (`nn.remat`).
    rounded: names of the parameters of which it uses nothing but their bfloat16 values.
    """

    train: nnx.GraphDef
    eval: nnx.GraphDef
    from_features: bool = False
    kernels: bool = True
    remat: bool = False
    rounded: frozenset[str] = frozenset()


def split(model: nnx.Module, frozen: Collection[str] = ()) -> tuple[Graph, Tree, Tree]:
    """Returns (graph, parameters, BatchNorm statistics) of a model, the latter two as nested dicts of arrays.

    frozen: names of layers that stay in evaluation mode during training, with all layers inside them.
    """
    modes = dict(raise_if_not_found=False)  # a network without dropout and BatchNorm has no modes
    training = nnx.view(model, deterministic=False, use_running_average=False, **modes)
    if frozen:
        names = set(frozen)

        def is_frozen(path: tuple, _: Any) -> bool:
            return trees.is_inside(trees.path_name(path), names)

        training = nnx.view(training, only=is_frozen, deterministic=True, use_running_average=True, **modes)
    graphdef, params, stats = nnx.split(training, nnx.Param, ...)
    evaluation = nnx.split(nnx.view(model, deterministic=True, use_running_average=True, **modes), nnx.Param, ...)[0]
    return Graph(graphdef, evaluation), nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
