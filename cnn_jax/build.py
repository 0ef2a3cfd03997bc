"""From a configuration to everything a run needs but its parameters. Nothing is computed here, only traced."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax import evaluate, models, optim, protocols, sharding, step
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.config import check_config, get, in_steps, is_due, model_fields, to_steps
from cnn_jax.data.pipeline import Data
from cnn_jax.errors import check
from cnn_jax.layer_table import layer_table, training_bytes
from cnn_jax.workdir import flat

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
        self.network, params, stats = step.split(jax.eval_shape(lambda: self.create_model()))
        check(
            config.eval.protocol == "single" or jax.process_count() == 1,
            f"config.eval.protocol is {config.eval.protocol!r}, which one process evaluates, but this is one of "
            f"{jax.process_count()}: train with 'single' and evaluate with --mode=eval in one process",
        )
        if config.eval.protocol == "dense":  # a network that takes one size only shall say so now, not after training
            side = max(protocols.scales(config))
            views = jax.ShapeDtypeStruct((1, 1, side, side, config.data.channels), jnp.uint8)
            jax.eval_shape(step.make_predict_step(self.network, mean=0, std=1, mirror=True), params, stats, views)
        self.total_steps = self.to_steps(config.duration)
        check(
            self.total_steps * config.batch_size < 2**32,
            f"config.duration is {config.duration!r} = {self.total_steps * config.batch_size:,} examples, but must be "
            "below 2**32: positions in a run are counted in 32 bits",
        )
        check(
            not config.eval.recompute_statistics or any(row.statistics for row in self.layers),
            f"config.eval.recompute_statistics is {config.eval.recompute_statistics}, but {config.model.name} has no "
            "BatchNorm",
        )
        self._images: dict[str, Any] = {}
        self.placed = 0  # batches so far: who watches them sees that something goes on
        self.optimizer = optim.make_optimizer(config.optim, params)
        self.schedule = optim.make_schedule(config.optim, self.total_steps, self.to_steps)
        self.specs = sharding.parameter_specs(params, self.mesh, config.mesh)

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
        """Returns all images of a part on the devices, or None if they are streamed."""
        if part not in self._images:
            self._images[part] = self.replicate(self.data.parts[part].resident)
        return self._images[part]

    # ------------------------------------------------------------ state

    def _create_state(self, seed: jax.Array) -> step.TrainState:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        _, params, stats = step.split(self.create_model(seed=key))
        return step.create_state(params, stats, self.optimizer, ema=self.config.ema_decay > 0, seed=seed)

    def create_state(self) -> step.TrainState:
        """Returns the state before the first step, where `shardings` says."""
        return jax.jit(self._create_state, out_shardings=self.shardings)(np.uint32(self.config.seed))

    @functools.cached_property
    def state_shapes(self) -> step.TrainState:
        """Shapes and types of the state."""
        return jax.eval_shape(self._create_state, jnp.uint32(0))

    @functools.cached_property
    def shardings(self) -> step.TrainState:
        """Which device holds which part of the state: by the rules of config.mesh."""
        return sharding.state_shardings(self.state_shapes, self.specs, self.mesh)

    def restore(self, checkpoints: Checkpoints, at: int) -> step.TrainState:
        """Returns the state of the checkpoint of step `at`, where `shardings` says, wherever it was before."""
        like = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), self.state_shapes, self.shardings
        )
        return checkpoints.restore(at, like)

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
        return step.make_eval_step(self.network, **self.data.normalization, confusion=confusion)

    def evaluate(self, state: step.TrainState, part: str) -> dict[str, Any]:
        """Returns the metrics on a part: of the moving average, if there is one.

        The test part is seen as config.eval.protocol says, the others in single views; "protocol" says it in words.
        """
        if single := part != "test" or self.config.eval.protocol == "single":
            metrics = evaluate.evaluate(
                self.eval_step,
                *self._evaluated(state, part),
                self.data.parts[part],
                self.images(part),
                batch_size=self.config.eval.batch_size,
                put=self.put,
            )
        else:
            confusion = self.config.eval.confusion_matrix
            metrics = evaluate.measure(*self.predict(state, part), self.data.parts[part], confusion=confusion)
        return metrics | {"protocol": self.protocol("single" if single else self.config.eval.protocol)}

    def protocol(self, name: str) -> str:
        """Returns in words how the protocol of that name sees an example."""
        return protocols.describe(flat(self.config.to_dict()) | {"eval.protocol": name})

    def predict(self, state: step.TrainState, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (class probabilities, labels) of a part, seen as config.eval.protocol says: `evaluate.predict`."""
        protocol = self.config.eval.protocol
        return evaluate.predict(
            step.make_predict_step(self.network, **self.data.normalization, mirror=protocols.is_mirrored(protocol)),
            *self._evaluated(state, part),
            self.data.parts[part],
            self.images(part),
            protocol=protocol,
            scales=protocols.scales(self.config),
            batch_size=self.config.eval.batch_size,
            put=self.put,
        )

    def _evaluated(self, state: step.TrainState, part: str) -> tuple[Any, Any]:
        """Returns the parameters and BatchNorm statistics that an evaluation takes.

        For the test part the statistics are recomputed first, if the configuration asks for it.
        """
        params, stats = (state.params, state.stats) if state.ema is None else (state.ema["params"], state.ema["stats"])
        batches = self.config.eval.recompute_statistics
        if part == "test" and batches and jax.tree.leaves(stats):
            stats = evaluate.recompute_statistics(
                step.make_statistics_step(self.network, **self.data.normalization),
                params,
                stats,
                self.data.parts["train"],
                self.images("train"),
                batch_size=self.config.batch_size,
                batches=batches,
                put=self.put,
            )
        return params, stats

    # ------------------------------------------------------------ estimates

    def state_bytes(self) -> int:
        """Returns the bytes of parameters, momentum and all else of the state on one device: exact."""
        return sharding.device_bytes(self.state_shapes, self.shardings)

    def memory_bytes(self) -> int:
        """Returns an estimate of the memory of one device during training, bytes: the state and all that comes beside.

        Of that are gradients, whole on every device, although XLA may reduce them to their shards earlier.
        """
        config, parts = self.config, self.data.parts.values()
        return self.state_bytes() + training_bytes(
            self.layers,
            images=config.batch_size // len(jax.devices()) // config.accumulation,
            bytes_per_value=jnp.dtype(PRECISION[config.precision]).itemsize,
            copies_of_parameters=1,
            resident_bytes=sum(len(part) * math.prod(self.data.image_shape) for part in parts if part.is_resident)
            * self.data.bytes_per_value,
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


def has_unused_gpu() -> bool:
    """Returns whether this machine has an NVIDIA GPU while jax computes on the CPU, and nobody asked for the CPU."""
    drivers = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/usr/lib/wsl/lib/nvidia-smi")
    wanted = "cpu" in os.environ.get("JAX_PLATFORMS", "")
    return jax.default_backend() == "cpu" and not wanted and any(Path(path).exists() for path in drivers)
