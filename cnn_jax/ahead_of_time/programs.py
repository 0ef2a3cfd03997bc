"""The programs of a run and the shapes of their arguments, as training and evaluation call them. No array is made."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax.core import trees
from cnn_jax.data.loader import value_type
from cnn_jax.data.sources import published
from cnn_jax.eval import protocols
from cnn_jax.eval import steps as eval_steps
from cnn_jax.parallel import mesh
from cnn_jax.training.setup import Setup, build
from cnn_jax.training.state import States

Tree = Any


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments.

    images: on all devices in one call. passes: through the network: three in training, one in evaluation.
    state, batch, resident: bytes of the arguments on one device, without the padding of its layouts.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    images: int
    passes: int
    state: int
    batch: int
    resident: int

    def lower(self) -> Any:
        """Returns `jax.stages.Lowered`."""
        return self.function.lower(*self.arguments)


class Programs:
    """The programs of one configuration for devices that need not exist."""

    def __init__(self, config: Any, devices: Sequence[Any]):
        """Raises UserError as `setup.build`; no example of the data is read."""
        self.setup: Setup = build(config, devices=devices, open_dataset=published.open_sizes)
        self.states = States(self.setup)
        self.config = self.setup.config
        self.train_part = self.setup.data.parts["train"]

    @property
    def is_resident(self) -> bool:
        return self.train_part.is_resident or self.config.cache_features

    def train(self) -> Program:
        """Returns the training step."""
        size = self.config.batch_size
        batch = {"position": self._split((size,), np.uint32)}
        resident = None
        if self.is_resident:
            batch["index"] = self._split((size,), np.int32)
            resident = self._resident(len(self.train_part))
        else:
            batch |= self._images(size, mesh.EVERYWHERE)
        state = self._placed(self.states.shapes, self.states.shardings)
        step = self.setup.train_step(self.states.shardings)
        return self._program("training", step, (state, batch, resident), size, 3, (state, batch, resident))

    def evaluation(self) -> Program:
        """Returns the step of validation, and of the test if it uses single views."""
        size = self.config.eval.batch_size
        batch = {**self._images(size, mesh.EVERYWHERE), "mask": self._split((size,), np.float32)}
        if self.is_resident:
            batch["index"] = self._split((size,), np.int32)
        # A separate program gathers the images; all parts stay on the devices meanwhile.
        known = [self._resident(len(part)) for part in self.setup.data.parts.values()]
        step = eval_steps.make_eval_step(
            self.setup.network, **self.setup.data.normalization, confusion=self.config.eval.confusion_matrix
        )
        params, others = self._parameters()
        resident = known if self.is_resident else None
        arguments = (params, others, batch, None)
        return self._program("evaluation", step, arguments, size, 1, ((params, others), batch, resident))

    def protocol(self) -> Program | None:
        """Returns the step of the test if it uses several views, for the largest of their shapes; else None."""
        config, data = self.config, self.config.data
        if config.eval.protocol == "single":
            return None
        count = {"10-crop": 5, "144-crop": 18}.get(config.eval.protocol, 1)
        size = tuple(data.image_size)
        if config.eval.protocol == "dense":
            size = (max(protocols.scales(config)),) * 2
        shape = (count, *size, data.channels)
        pixels = config.eval.batch_size * math.prod(data.image_size)
        devices = self.setup.mesh.size
        examples = max(1, pixels // math.prod(shape[:-1]) // devices) * devices
        step = eval_steps.make_predict_step(self.setup.network, **self.setup.data.normalization, mirror=True)
        params, others = self._parameters()
        views = self._split((examples, *shape), np.uint8)
        scale = math.prod(size) / math.prod(data.image_size)  # views of other sizes compute more
        images = round(2 * examples * count * scale)
        return self._program(
            config.eval.protocol, step, (params, others, views), images, 1, ((params, others), views, None)
        )

    # ------------------------------------------------------------ shapes

    def _program(self, name: str, step: Any, arguments: Any, images: int, passes: int, parts: Any) -> Program:
        state, batch, resident = (_device_bytes(tree) for tree in parts)
        return Program(name, step, arguments, images, passes, state, batch, resident)

    def _parameters(self) -> tuple[Tree, Tree]:
        """Returns the part of the state that an evaluation takes: (trained parameters, all others)."""
        shapes, shardings = self.states.shapes, self.states.shardings
        state = self._placed(shapes, shardings)
        return state.params, trees.merged(state.stats, state.frozen)

    def _placed(self, shapes: Tree, shardings: Tree) -> Tree:
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)

    def _split(self, shape: Sequence[int], dtype: Any, spec: PartitionSpec = mesh.EVERYWHERE) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=NamedSharding(self.setup.mesh, spec))

    def _images(self, count: int, spec: PartitionSpec) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns `count` images, or their features if config.cache_features says so, with labels."""
        setup = self.setup
        shape, dtype = setup.data.image_shape, value_type(self.config.data)
        if self.config.cache_features:
            step = eval_steps.make_features_step(setup.network, **setup.data.normalization)
            one = {"image": jax.ShapeDtypeStruct((1, *shape), dtype)}
            found = jax.eval_shape(step, trees.merged(setup.params, setup.stats), one, None)
            shape, dtype = found.shape[1:], found.dtype
        return {"image": self._split((count, *shape), dtype, spec), "label": self._split((count,), np.int32, spec)}

    def _resident(self, count: int) -> dict[str, Any]:
        """Returns `count` images that stay on the devices, as `Setup.resident` does."""
        rows = jax.eval_shape(eval_steps.in_rows, self._images(count, PartitionSpec()))
        return jax.tree.map(lambda leaf: self._split(leaf.shape, leaf.dtype, PartitionSpec()), rows)


def _device_bytes(tree: Tree) -> int:
    """Returns the bytes of shapes with shardings on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
