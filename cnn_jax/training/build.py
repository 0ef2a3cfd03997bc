"""From a configuration to everything a run needs but its parameters. Nothing is computed here, only traced."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table, training_bytes
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config.compare import flat
from cnn_jax.config.durations import in_steps, is_due, to_steps
from cnn_jax.config.fields import get, model_fields
from cnn_jax.core import trees
from cnn_jax.core.errors import check
from cnn_jax.data.pipeline import Data
from cnn_jax.eval import evaluation, protocols
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph
from cnn_jax.parallel import sharding
from cnn_jax.pretrained import source as pretrained
from cnn_jax.training import optim, step, transfer
from cnn_jax.training.config_check import check_config

PRECISION = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Run:
    """A configuration, its data, network, optimiser and devices.

    `config` is a copy, with the number of classes and the parts where the one that was given leaves them to the data
    set.

    Raises:
      UserError: an impossible value, a data set that is not there, an image that is too small for the network.
    """

    def __init__(self, config: Any):
        check_config(config)
        check_divisible(config, len(jax.devices()))
        self.data = Data(config.data, config.seed, shard=(jax.process_index(), jax.process_count()))
        self.config = config = config.copy_and_resolve_references()
        config.data.num_classes = len(self.data.class_names)
        config.data.update(self.data.chosen)
        train_size = len(self.data.parts["train"])
        check(
            config.batch_size <= train_size,
            f"config.batch_size is {config.batch_size}, but the train part has {train_size:,} examples: a batch must "
            "not hold one twice",
        )
        self.mesh = sharding.make_mesh(config.mesh.model)
        self.create_model: Callable[..., Any] = functools.partial(
            models.create,
            config.model.name,
            num_classes=config.data.num_classes,
            input_shape=self.data.image_shape,
            dtype=PRECISION[config.precision],
            **model_fields(config),
        )
        self.layers = layer_table(self.create_model, self.data.image_shape)
        model = jax.eval_shape(lambda: self.create_model())
        _, params, stats = graph.split(model)
        self.trainable = transfer.select(config.trainable, model.order, params)
        self.network, params, stats = graph.split(model, self.trainable.frozen_layers)
        if config.cache_features:
            self.network = replace(self.network, from_features=True)
        check(
            config.eval.protocol == "single" or jax.process_count() == 1,
            f"config.eval.protocol is {config.eval.protocol!r}, which one process evaluates, but this is one of "
            f"{jax.process_count()}: train with 'single' and evaluate with --mode=eval in one process",
        )
        check(
            not config.cache_features or jax.process_count() == 1,
            "config.cache_features is True, which one process computes: train in one, or leave it at False",
        )
        if config.eval.protocol == "dense":  # a network that takes one size only shall say so now, not after training
            side = max(protocols.scales(config))
            views = jax.ShapeDtypeStruct((1, 1, side, side, config.data.channels), jnp.uint8)
            jax.eval_shape(eval_steps.make_predict_step(self.network, mean=0, std=1, mirror=True), params, stats, views)
        self.shapes = {name: leaf.shape for tree in (params, stats) for name, leaf in trees.named_leaves(tree)}
        self.specs = sharding.parameter_specs(params, self.mesh, config.mesh)
        everything = params
        params, trained_stats, _ = self.parts(params, stats)
        self.total_steps = self.to_steps(config.duration)
        check(
            self.total_steps * config.batch_size < 2**32,
            f"config.duration is {config.duration!r} = {self.total_steps * config.batch_size:,} examples, but must be "
            "below 2**32: positions in a run are counted in 32 bits",
        )
        check(
            not config.eval.recompute_statistics or bool(jax.tree.leaves(trained_stats)),
            f"config.eval.recompute_statistics is {config.eval.recompute_statistics}, but {config.model.name} has no "
            "BatchNorm that is trained",
        )
        self._images: dict[str, Any] = {}
        self.placed = 0  # batches so far: who watches them sees that something goes on
        rules = transfer.layer_rules(config.optim.layer_decay, model.order, everything)
        self.optimizer = optim.make_optimizer(config.optim, params, rules, everything=everything)
        self.schedule = optim.make_schedule(config.optim, self.total_steps, self.to_steps)

    def to_steps(self, duration: str) -> int:
        """Returns a duration of the configuration in whole steps."""
        return to_steps(duration, batch_size=self.config.batch_size, num_examples=len(self.data.parts["train"]))

    def is_due(self, step: int, period: str) -> bool:
        """Returns whether something that happens once in a `period` happens after `step`."""
        examples = len(self.data.parts["train"])
        return is_due(step, in_steps(period, batch_size=self.config.batch_size, num_examples=examples))

    @property
    def steps_per_epoch(self) -> float:
        return len(self.data.parts["train"]) / self.config.batch_size

    # ------------------------------------------------------------ devices

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """Places arrays that all processes have alike on all devices."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        # device_put would send them around to compare them
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self.replicated, np.asarray(x), np.shape(x)), tree
        )

    def pace(self, steps: int, state: Any) -> None:
        """Waits for `state` after some of the steps where XLA could block: the devices of one CPU share its threads."""
        if jax.default_backend() == "cpu" and self.mesh.size > 1 and steps % eval_steps.UNDER_WAY == 0:
            jax.block_until_ready(state)

    def put(self, batch: Any) -> Any:
        """Places a batch on the devices, split along its first axis."""
        self.placed += 1
        if self.mesh.size == 1 and "index" in batch:
            return batch  # a few kilobytes, which the compiled step takes from the host faster than anything else
        everywhere = NamedSharding(self.mesh, sharding.EVERYWHERE)
        if jax.process_count() > 1:  # each process has its own rows
            return jax.make_array_from_process_local_data(everywhere, batch)
        return jax.device_put(batch, everywhere)

    def images(self, part: str) -> Any:
        """Returns all images of a part on the devices, or their features; None if they are streamed."""
        if part not in self._images:
            self._images[part] = self.replicate(self.data.parts[part].resident)
        return self._images[part]

    # ------------------------------------------------------------ state

    def parts(self, params: Any, stats: Any) -> tuple[Any, Any, Any]:
        """Returns (parameters that are trained, BatchNorm statistics that follow, all others) of a whole network."""
        trained, frozen_params = trees.partition(params, self.trainable.mask)
        layers = set(self.trainable.frozen_layers)

        def is_frozen(path: tuple, _: Any) -> bool:
            return trees.is_inside(trees.path_name(path), layers)

        frozen_stats, stats = trees.partition(stats, jax.tree_util.tree_map_with_path(is_frozen, stats))
        return trained, stats, trees.merged(frozen_params, frozen_stats)

    @functools.cached_property
    def source(self) -> pretrained.Pretrained | None:
        """The trained network that config.init_from names, or None; it is read when it is asked for."""
        return pretrained.open_source(self.config.init_from) if self.config.init_from else None

    @functools.cached_property
    def surgery(self) -> transfer.Surgery | None:
        """What the first state takes from `source`; None without one.

        Raises:
          UserError: it does not fit; see `transfer.plan`.
        """
        source = self.source
        if source is None:
            return None
        ours, theirs = self.data.class_names, source.classes
        classes = ""
        if theirs is not None and list(theirs) != list(ours):
            classes = f"{len(theirs)} classes there, {len(ours)} here" if len(theirs) != len(ours) else "other classes"
        return transfer.plan(
            self.shapes,
            {name: leaf.shape for name, leaf in source.leaves.items()},
            take=self.config.take,
            trained={name for name, is_trained in trees.named_leaves(self.trainable.mask) if is_trained},
            classes=classes,
            name=source.name,
        )

    def create_state(self) -> step.TrainState:
        """Returns the state before the first step, where `shardings` says; what `surgery` takes comes from `source`."""
        source, surgery = self.source, self.surgery
        taken = {name: source.leaves[name] for name in surgery.taken} if source and surgery else {}
        return self._with_features(self._create(np.uint32(self.config.seed), taken))

    @functools.cached_property
    def _create(self) -> Any:
        """`_initial_state`, compiled once."""
        return jax.jit(self._initial_state, out_shardings=self.shardings)

    def _initial_state(self, seed: jax.Array, taken: dict[str, jax.Array]) -> step.TrainState:
        """Returns the state before the first step; `taken`: name -> values in the place of initial ones."""

        def first(path: tuple, leaf: jax.Array) -> jax.Array:
            return taken.get(trees.path_name(path), leaf).astype(leaf.dtype)

        key = jax.random.fold_in(jax.random.key(seed), 0)
        _, *values = graph.split(self.create_model(seed=key))
        params, stats, frozen = self.parts(*(jax.tree_util.tree_map_with_path(first, tree) for tree in values))
        return step.create_state(params, stats, self.optimizer, frozen=frozen, ema=self.config.ema_decay > 0, seed=seed)

    @functools.cached_property
    def state_shapes(self) -> step.TrainState:
        """Shapes and types of the state."""
        return jax.eval_shape(self._initial_state, jnp.uint32(0), {})

    @functools.cached_property
    def shardings(self) -> step.TrainState:
        """Which device holds which part of the state: by the rules of config.mesh."""
        return sharding.state_shardings(self.state_shapes, self.specs, self.mesh)

    def restore(self, checkpoints: Checkpoints, at: int) -> step.TrainState:
        """Returns the state of the checkpoint of step `at`, where `shardings` says, wherever it was before."""
        like = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), self.state_shapes, self.shardings
        )
        return self._with_features(checkpoints.restore(at, like))

    def _with_features(self, state: step.TrainState) -> step.TrainState:
        """Returns the state, after all parts have features in the place of images if config.cache_features says so."""
        if self.config.cache_features:
            features_step = eval_steps.make_features_step(self.network, **self.data.normalization)
            for name, part in self.data.parts.items():
                if not part.has_features:
                    features, labels = evaluation.features(
                        features_step,
                        trees.merged(state.params, state.stats, state.frozen),
                        part,
                        self.images(name),
                        batch_size=self.config.eval.batch_size,
                        put=self.put,
                    )
                    part.keep_features(features, labels)
                    self._images.pop(name)
        return state

    # ------------------------------------------------------------ steps

    @functools.cached_property
    def loss(self) -> Callable[..., Any]:
        """The training loss; see `step.make_loss`."""
        config = self.config
        return step.make_loss(
            self.network,
            augmentations=config.data.augment,
            label_smoothing=config.label_smoothing,
            **self.data.normalization,
        )

    def train_step(self) -> Callable[..., step.TrainState]:
        """Returns the jitted training step."""
        config = self.config
        return step.make_train_step(
            self.loss,
            self.optimizer,
            self.schedule,
            accumulation=config.accumulation,
            ema_decay=config.ema_decay,
            shardings=self.shardings,
        )

    @functools.cached_property
    def eval_step(self) -> Callable[..., Any]:
        """The jitted evaluation step."""
        confusion = self.config.eval.confusion_matrix
        return eval_steps.make_eval_step(self.network, **self.data.normalization, confusion=confusion)

    def evaluate(self, state: step.TrainState, part: str) -> dict[str, Any]:
        """Returns the metrics on a part: of the moving average, if there is one.

        The test part is seen as config.eval.protocol says, the others in single views; "protocol" says it in words.
        """
        if single := part != "test" or self.config.eval.protocol == "single":
            metrics = evaluation.evaluate(
                self.eval_step,
                *self._evaluated(state, part),
                self.data.parts[part],
                self.images(part),
                batch_size=self.config.eval.batch_size,
                put=self.put,
            )
        else:
            confusion = self.config.eval.confusion_matrix
            metrics = evaluation.measure(*self.predict(state, part), self.data.parts[part], confusion=confusion)
        return metrics | {"protocol": self.protocol("single" if single else self.config.eval.protocol)}

    def protocol(self, name: str) -> str:
        """Returns in words how the protocol of that name sees an example."""
        return protocols.describe(flat(self.config.to_dict()) | {"eval.protocol": name})

    def predict(self, state: step.TrainState, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (class probabilities, labels) of a part, seen as config.eval.protocol says: `evaluation.predict`."""
        protocol = self.config.eval.protocol
        return evaluation.predict(
            eval_steps.make_predict_step(
                self.network, **self.data.normalization, mirror=protocols.is_mirrored(protocol)
            ),
            *self._evaluated(state, part),
            self.data.parts[part],
            self.images(part),
            protocol=protocol,
            scales=protocols.scales(self.config),
            batch_size=self.config.eval.batch_size,
            put=self.put,
        )

    def _evaluated(self, state: step.TrainState, part: str) -> tuple[Any, Any]:
        """Returns the parameters that are trained, and all other parameters and statistics, that an evaluation takes.

        For the test part the statistics are recomputed first, if the configuration asks for it.
        """
        params, stats = (state.params, state.stats) if state.ema is None else (state.ema["params"], state.ema["stats"])
        others = trees.merged(stats, state.frozen)
        batches = self.config.eval.recompute_statistics
        if part == "test" and batches and jax.tree.leaves(stats):
            recomputed = evaluation.recompute_statistics(
                eval_steps.make_statistics_step(self.network, **self.data.normalization),
                params,
                others,
                self.data.parts["train"],
                self.images("train"),
                batch_size=self.config.batch_size,
                batches=batches,
                put=self.put,
            )
            others = trees.merged(others, recomputed)
        return params, others

    # ------------------------------------------------------------ estimates

    def state_bytes(self) -> int:
        """Returns the bytes of parameters, momentum and all else of the state on one device: exact."""
        return sharding.device_bytes(self.state_shapes, self.shardings)

    def memory_bytes(self) -> int:
        """Returns an estimate of the memory of one device during training, bytes: the state and all that comes beside.

        Of that are gradients, whole on every device, although XLA may reduce them to their shards earlier.
        """
        config, parts = self.config, self.data.parts.values()
        mask = dict(trees.named_leaves(self.trainable.mask))
        frozen = sum(math.prod(self.shapes[name]) for name, is_trained in mask.items() if not is_trained)
        # What is frozen has no gradient.
        return (
            self.state_bytes()
            - 4 * frozen
            + training_bytes(
                self.layers,
                images=config.batch_size // len(jax.devices()) // config.accumulation,
                bytes_per_value=jnp.dtype(PRECISION[config.precision]).itemsize,
                copies_of_parameters=1,
                resident_bytes=sum(len(part) * math.prod(self.data.image_shape) for part in parts if part.is_resident)
                * self.data.bytes_per_value,
            )
        )


def check_divisible(config: Any, devices: int) -> None:
    """Raises UserError unless the batch sizes can be split over the devices; the message has the nearest that can."""
    for field, micro_batches in (("batch_size", config.accumulation), ("eval.batch_size", 1)):
        size, unit = get(config, field), devices * micro_batches
        lower, higher = max(unit, size // unit * unit), (size // unit + 1) * unit
        check(
            size % unit == 0,
            f"config.{field} is {size}, but must be divisible by {devices} devices x {micro_batches} micro-batches: "
            f"the nearest are {lower} and {higher}",
        )
