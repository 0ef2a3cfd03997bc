"""The state of training: how it begins, how it is restored, where its arrays live, and how much memory it takes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.analysis.layer_table import training_bytes
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core import trees
from cnn_jax.eval import evaluation
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph
from cnn_jax.parallel import mesh
from cnn_jax.training import finetuning, step
from cnn_jax.training.averages import has_average
from cnn_jax.training.setup import PRECISION, Setup


class States:
    """Makes the states of one setup."""

    def __init__(self, setup: Setup):
        self.setup = setup

    @functools.cached_property
    def shapes(self) -> step.TrainState:
        """Shapes and types of a state."""
        params, stats, frozen = self.setup.split(self.setup.params, self.setup.stats)
        return jax.eval_shape(functools.partial(self._state, seed=0), params, stats, frozen)

    @functools.cached_property
    def shardings(self) -> step.TrainState:
        """Which device holds which part of a state, by the rules of config.mesh."""
        setup = self.setup
        specs = mesh.parameter_specs(setup.params, setup.mesh, setup.config.mesh)
        return mesh.state_shardings(self.shapes, setup.params, specs, setup.mesh)

    # ------------------------------------------------------------ begin

    @functools.cached_property
    def surgery(self) -> finetuning.Surgery | None:
        """What the first state takes from the pretrained network of the setup; None without one.

        Raises:
          UserError: it does not fit; see `finetuning.plan`.
        """
        setup, source = self.setup, self.setup.source
        if source is None:
            return None
        ours, theirs = setup.data.class_names, source.classes
        classes = ""
        if theirs is not None and list(theirs) != list(ours):
            classes = f"{len(theirs)} classes there, {len(ours)} here" if len(theirs) != len(ours) else "other classes"
        return finetuning.plan(
            setup.shapes,
            {name: leaf.shape for name, leaf in source.leaves.items()},
            take=setup.config.take,
            trained={name for name, is_trained in trees.named_leaves(setup.trainable.mask) if is_trained},
            classes=classes,
            name=source.name,
        )

    def create(self) -> step.TrainState:
        """Returns the state before the first step: initial values, and what `surgery` takes."""
        source, surgery = self.setup.source, self.surgery
        taken = {name: source.leaves[name] for name in surgery.taken} if source and surgery else {}
        return self._with_features(self._create(np.uint32(self.setup.config.seed), taken))

    @functools.cached_property
    def _create(self) -> Any:
        """Builds the network and its state in one compiled program."""

        def create(seed: jax.Array, taken: dict[str, jax.Array]) -> step.TrainState:
            def first(path: tuple, leaf: jax.Array) -> jax.Array:
                return taken.get(trees.path_name(path), leaf).astype(leaf.dtype)

            key = jax.random.fold_in(jax.random.key(seed), 0)
            _, *values = graph.split(self.setup.create_model(seed=key))
            parts = self.setup.split(*(jax.tree_util.tree_map_with_path(first, tree) for tree in values))
            return self._state(*parts, seed=seed)

        return jax.jit(create, out_shardings=self.shardings)

    def _state(self, params: Any, stats: Any, frozen: Any, *, seed: Any) -> step.TrainState:
        ema = has_average(self.setup.config)
        return step.create_state(params, stats, self.setup.optimizer, frozen=frozen, ema=ema, seed=seed)

    # ------------------------------------------------------------ restore

    def restore(self, checkpoints: Checkpoints, at: int) -> step.TrainState:
        """Returns the state of the checkpoint of step `at`, placed by `shardings`, wherever it was before."""
        like = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), self.shapes, self.shardings
        )
        return self._with_features(checkpoints.restore(at, like))

    def _with_features(self, state: step.TrainState) -> step.TrainState:
        """Returns the state, after the data have features if config.cache_features says so."""
        setup = self.setup
        if setup.config.cache_features:
            features_step = eval_steps.make_features_step(setup.network, **setup.data.normalization)
            everything = trees.merged(state.params, state.stats, state.frozen)
            for name, part in setup.data.parts.items():
                if not part.has_features:
                    features, labels = evaluation.features(
                        features_step,
                        everything,
                        part,
                        setup.resident(name),
                        batch_size=setup.config.eval.batch_size,
                        put=setup.put,
                    )
                    setup.cache_features(name, features, labels)
        return state

    # ------------------------------------------------------------ memory

    def bytes(self) -> int:
        """Returns the bytes of a state on one device: exact."""
        return mesh.device_bytes(self.shapes, self.shardings)

    def memory_bytes(self) -> int:
        """Returns an estimate of the memory of one device during training, bytes: the state and all that comes with it.

        Gradients are counted in full on every device, although XLA may reduce them to their shards earlier.
        """
        setup, config = self.setup, self.setup.config
        mask, shapes = dict(trees.named_leaves(setup.trainable.mask)), setup.shapes
        frozen = sum(math.prod(shapes[name]) for name, is_trained in mask.items() if not is_trained)
        resident = sum(len(part) for part in setup.data.parts.values() if part.is_resident)
        # XLA computes nothing twice on a CPU, but in a loop over equal blocks.
        loops = any(trees.is_repeated(name) for name in shapes)
        activations = training_bytes(
            setup.layers,
            remat=config.remat and (mesh.platform(setup.mesh) != "cpu" or loops),
            fused=mesh.platform(setup.mesh) == "tpu",
            loops=loops,
            images=config.batch_size // setup.mesh.size // config.accumulation,
            bytes_per_value=jnp.dtype(PRECISION[config.precision]).itemsize,
            copies_of_parameters=1,
            resident_bytes=resident * eval_steps.row_size(setup.data.image_shape) * setup.data.bytes_per_value,
        )
        return self.bytes() - 4 * frozen + activations  # frozen parameters have no gradient
