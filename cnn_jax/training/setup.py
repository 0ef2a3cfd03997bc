"""From a configuration to everything that a run computes with, but its state. Nothing is computed here, only traced."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, dropped, layer_table
from cnn_jax.config.durations import in_steps, is_due, parse_duration, times_due, to_steps, whole
from cnn_jax.config.fields import get, model_fields
from cnn_jax.core import trees
from cnn_jax.core.errors import check
from cnn_jax.data import sources
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.splits import Splits
from cnn_jax.eval import protocols
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import cpu, graph
from cnn_jax.nn.layers import BatchNorm, rounded_kernels
from cnn_jax.nn.own_network import CustomNetwork
from cnn_jax.parallel import mesh
from cnn_jax.pretrained.channels import with_channels
from cnn_jax.pretrained.source import Pretrained, open_source
from cnn_jax.training import averages, finetuning, losses, optimizer_names, optimizers, schedules, step
from cnn_jax.training.averages import EMA, SWA
from cnn_jax.training.config_check import check_config
from cnn_jax.training.schedules import Schedule

PRECISION = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

Tree = Any


@dataclass(frozen=True, eq=False)
class Setup:
    """A configuration with its data, network, optimizer and devices.

    config: a copy, with the number of classes and the parts where the given one leaves them to the data set.
    create_model: builds the network; its argument is the seed. network: its graph. params, stats: shapes of all its
      parameters and statistics. layers: its layer table.
    optimizer: without a learning rate, which `schedule` returns for a step. average: of its weights, or None.
    """

    config: Any
    data: Splits
    mesh: Mesh
    create_model: Callable[..., Any]
    network: graph.Graph
    layers: list[LayerRow]
    params: Tree
    stats: Tree
    trainable: finetuning.Trainable
    optimizer: optax.GradientTransformationExtraArgs
    schedule: Schedule
    average: EMA | SWA | None
    _source: Pretrained | None = None
    _resident: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def source(self) -> Pretrained | None:
        """The pretrained network that config.init_from names, for config.data.channels; None without one.

        A run that resumes does without it.

        Raises:
          UserError: there is none of this name; see `pretrained.source.open_source`.
        """
        name = self.config.init_from
        source = self._source or (open_source(name) if name else None)
        return source and with_channels(source, self.config.data.channels)

    # ------------------------------------------------------------ time

    @property
    def examples(self) -> int:
        """Number of training examples: the length of an epoch."""
        return len(self.data.parts["train"])

    @property
    def steps_per_epoch(self) -> float:
        return self.examples / self.config.batch_size

    @property
    def total_steps(self) -> int:
        return self.to_steps(self.config.duration)

    def to_steps(self, duration: str) -> int:
        """Returns a duration of the configuration in whole steps."""
        return to_steps(duration, batch_size=self.config.batch_size, num_examples=self.examples)

    def is_due(self, step: int, period: str) -> bool:
        """Returns whether something that happens once in a `period` happens after `step`."""
        return is_due(step, in_steps(period, batch_size=self.config.batch_size, num_examples=self.examples))

    def validations(self, start: int, stop: int) -> int:
        """Returns how many validations happen after the steps start + 1 .. stop, before the last one."""
        every = in_steps(self.config.eval.every, batch_size=self.config.batch_size, num_examples=self.examples)
        return times_due(start, stop, every)

    # ------------------------------------------------------------ arrays

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all parameters and statistics by name."""
        return {name: leaf.shape for tree in (self.params, self.stats) for name, leaf in trees.named_leaves(tree)}

    def put(self, batch: Any) -> Any:
        """Places a batch on the devices, split along its first axis."""
        return mesh.put(batch, self.mesh)

    def resident(self, part: str) -> Any:
        """Returns all images of a part on the devices, as `in_rows` has them, or their features; None for a stream."""
        if part not in self._resident:
            images = self.data.parts[part].resident
            rows = None if images is None else eval_steps.in_rows(images)
            self._resident[part] = mesh.replicate(rows, self.mesh)
        return self._resident[part]

    def cache_features(self, part: str, features: Any, labels: Any) -> None:
        """Uses features of all examples of a part from now on, not its images."""
        self.data.parts[part].keep_features(features, labels)
        self._resident.pop(part, None)

    # ------------------------------------------------------------ functions

    def split(self, params: Tree, stats: Tree) -> tuple[Tree, Tree, Tree]:
        """Returns (trained parameters, BatchNorm statistics that follow, all others) of a whole network."""
        trained, frozen_params = trees.partition(params, self.trainable.mask)
        layers = set(self.trainable.frozen_layers)

        def is_frozen(path: tuple, _: Any) -> bool:
            return trees.is_inside(trees.path_name(path), layers)

        frozen_stats, stats = trees.partition(stats, jax.tree_util.tree_map_with_path(is_frozen, stats))
        return trained, stats, trees.merged(frozen_params, frozen_stats)

    @functools.cached_property
    def loss(self) -> Callable[..., Any]:
        """The training loss; see `step.make_loss`."""
        return step.make_loss(
            self.network,
            augmentations=self.config.data.augment,
            losses=losses.weighted(losses.losses_of(self.config), self.config, self.data),
            **self.data.normalization,
        )

    def train_step(self, shardings: Tree) -> Callable[..., step.TrainState]:
        """Returns the jitted training step for a state of these shardings."""
        # XLA runs its own convolutions inside a loop on one thread of a CPU.
        has_kernels = self.network.kernels and self.mesh.size == 1 and cpu.target() is not None
        return step.make_train_step(
            self.loss,
            self.optimizer,
            self.schedule,
            accumulation=self.config.accumulation,
            unrolled=mesh.platform(self.mesh) == "cpu" and not has_kernels,
            average=self.average,
            checks_updates=self.config.optim.name != "sgd",
            shardings=shardings,
            rounded=self.network.rounded,
        )


def build(
    config: Any,
    *,
    source: Pretrained | None = None,
    devices: Sequence[Any] | None = None,
    open_dataset: Callable[[Any, int], Dataset] = sources.open_dataset,
) -> Setup:
    """Returns the setup of a run.

    Args:
      source: what config.init_from names, if it is open already.
      devices: that the run computes on, all of one kind; they need not exist. None: all that jax has.
      open_dataset: what opens config.data, as `sources.open_dataset` and `published.open_sizes` do.

    Raises:
      UserError: an impossible value, a data set that is not there, an image that is too small for the network.
    """
    check_config(config)
    devices = jax.devices() if devices is None else devices
    check_divisible(config, len(devices))
    data = Splits(config.data, config.seed, (jax.process_index(), jax.process_count()), open_dataset)
    config = _completed(config, data, len(devices))
    check_processes(config)
    create_model = functools.partial(
        models.create,
        config.model.name,
        num_classes=config.data.num_classes,
        input_shape=data.image_shape,
        dtype=PRECISION[config.precision],
        **model_fields(config),
    )
    layers = layer_table(create_model, data.image_shape)
    check_sizes(config, layers)
    model = jax.eval_shape(lambda: create_model())
    check_blocks(config, model)
    set_norm_group(config, model)
    _, params, _ = graph.split(model)
    trainable = finetuning.select(config.trainable, model.order, params)
    check_batch_norm(config, layers, trainable.frozen_layers)
    network, params, stats = graph.split(model, trainable.frozen_layers)
    placed = mesh.make_mesh(config.mesh.model, devices)
    kernels = config.cpu_kernels and mesh.platform(placed) == "cpu"
    network = replace(
        network,
        kernels=kernels,
        remat=config.remat,
        rounded=rounded_kernels(model),
        from_features=config.cache_features,
    )
    check_dense(config, network, params, stats)
    layer_rules = finetuning.layer_rules(config.optim.layer_decay, model.order, params)
    trained, _ = trees.partition(params, trainable.mask)
    examples = len(data.parts["train"])
    steps = functools.partial(in_steps, batch_size=config.batch_size, num_examples=examples)
    total_steps = whole(steps(config.duration))
    check_positions(config, total_steps)
    losses.losses_of(config)
    losses.given_weights(config)
    schedule = schedules.make_schedule(config.optim, total_steps, steps, peak=schedules.peak(config))
    check_first_rate(config.optim, schedule)
    setup = Setup(
        config=config,
        data=data,
        mesh=placed,
        create_model=create_model,
        network=network,
        layers=layers,
        params=params,
        stats=stats,
        trainable=trainable,
        optimizer=optimizers.make_optimizer(config.optim, trained, layer_rules, everything=params),
        schedule=schedule,
        average=averages.make_average(config, total_steps, steps),
        _source=source,
    )
    check(
        not config.eval.recompute_statistics or bool(jax.tree.leaves(setup.split(params, stats)[1])),
        f"config.eval.recompute_statistics is {config.eval.recompute_statistics}, but {config.model.name} has no "
        "BatchNorm that is trained",
    )
    return setup


def _completed(config: Any, data: Splits, devices: int) -> Any:
    """Returns a copy of the configuration with what it leaves to the data set."""
    config = config.copy_and_resolve_references()
    config.data.num_classes = len(data.class_names)
    config.data.update(data.chosen)
    # Evaluation fills its batches up to one size: no more than the largest part needs.
    largest = max(map(len, data.parts.values()))
    config.eval.batch_size = min(config.eval.batch_size, math.ceil(largest / devices) * devices)
    examples = len(data.parts["train"])
    check(
        config.batch_size <= examples,
        f"config.batch_size is {config.batch_size}, but the train part has {examples:,} examples, and a batch holds "
        f"each of them once at most: set config.batch_size to {examples} or less",
    )
    return config


def check_sizes(config: Any, layers: list[LayerRow]) -> None:
    """Raises UserError if config.strict_sizes is set and a layer drops positions of its input."""
    where = dropped(layers)
    check(
        not (config.strict_sizes and where),
        f"config.strict_sizes is True, but of images of {config.data.image_size} the strides of these layers drop "
        f"positions at the border: {where}. Give another config.data.image_size, or padding",
    )


def check_blocks(config: Any, model: Any) -> None:
    """Raises UserError if config.remat asks for the blocks of a network that does not say which they are."""
    check(
        not config.remat or not isinstance(model, CustomNetwork),
        f"config.remat is True, but {config.model.name} is a module of your own, whose blocks are not known: leave it "
        "at False, and use flax.nnx.remat inside of the module",
    )


def set_norm_group(config: Any, model: Any) -> None:
    """Sets how many images share BatchNorm statistics in training; raises UserError if no layer has any."""
    norms = [layer for _, layer in nnx.iter_graph(model) if isinstance(layer, BatchNorm)]
    check(
        config.norm_group == 0 or bool(norms),
        f"config.norm_group is {config.norm_group}, but {config.model.name} has no cnn_jax.nn.layers.BatchNorm: "
        "leave it at 0",
    )
    for layer in norms:
        layer.group = config.norm_group


def check_batch_norm(config: Any, layers: list[LayerRow], frozen: Collection[str]) -> None:
    """Raises UserError if a BatchNorm that is trained sees one value of each channel: its output would be constant."""
    for row in layers:
        if row.kind != "norm" or row.statistics == 0 or row.name in frozen:
            continue
        positions, micro_batch = math.prod(row.output_shape[:-1]), config.batch_size // config.accumulation
        check(
            positions * micro_batch > 1,
            f"config.batch_size is {config.batch_size} and config.accumulation {config.accumulation}, so the BatchNorm "
            f"{row.name} sees one value of each channel, and what it normalizes is 0: set config.batch_size to at "
            f"least {2 * config.accumulation}, or config.accumulation to 1 with a batch of 2 or more",
        )
        check(
            positions * config.norm_group != 1,
            f"config.norm_group is 1, so the BatchNorm {row.name} sees one value of each channel, and what it "
            "normalizes is 0: set config.norm_group to 0, or to 2 or more",
        )


def check_first_rate(optim: Any, schedule: Schedule) -> None:
    """Raises UserError if the learning rate begins at 0, but the optimizer divides by it."""
    if optim.name not in optimizer_names.DIVIDE_BY_FIRST_RATE:
        return
    warmup = optim.schedule.warmup
    other = (
        "set config.optim.schedule.warmup_start=0.01, or config.optim.schedule.warmup='0 steps'"
        if parse_duration(warmup)[0]
        else "set a config.optim.learning_rate and a config.optim.schedule.name that begin above 0"
    )
    check(
        float(schedule(jnp.int32(0))) > 0,
        f"config.optim.name is {optim.name!r}, which divides by the learning rate of the first step, but that is 0: "
        f"{other}",
    )


def check_positions(config: Any, steps: int) -> None:
    """Raises UserError unless the positions of all examples of a run fit into 32 bits."""
    check(
        steps * config.batch_size < 2**32,
        f"config.duration is {config.duration!r} = {steps * config.batch_size:,} examples, but must be below "
        "2**32: positions in a run are counted in 32 bits",
    )


def check_processes(config: Any) -> None:
    """Raises UserError for what one process must compute alone."""
    count = jax.process_count()
    check(
        config.eval.protocol == "single" or count == 1,
        f"config.eval.protocol is {config.eval.protocol!r}, which one process evaluates, but this is one of {count}: "
        "train with 'single' and evaluate afterwards in one process",
    )
    check(
        not config.cache_features or count == 1,
        "config.cache_features is True, which one process computes: train in one, or leave it at False",
    )


def check_dense(config: Any, network: graph.Graph, params: Tree, stats: Tree) -> None:
    """Raises UserError now, not after training, if a network that takes one size only is to see larger images."""
    if config.eval.protocol == "dense":
        side = max(protocols.scales(config))
        views = jax.ShapeDtypeStruct((1, 1, side, side, config.data.channels), jnp.uint8)
        jax.eval_shape(eval_steps.make_predict_step(network, mean=0, std=1, mirror=True), params, stats, views)


def check_divisible(config: Any, devices: int) -> None:
    """Raises UserError unless the batch sizes can be split over the devices; the message has the nearest that can."""
    for name, micro_batches in (("batch_size", config.accumulation), ("eval.batch_size", 1)):
        size, unit = get(config, name), devices * micro_batches
        lower, higher = max(unit, size // unit * unit), (size // unit + 1) * unit
        check(
            size % unit == 0,
            f"config.{name} is {size}, but must be divisible by {devices} devices x {micro_batches} micro-batches: "
            f"the nearest are {lower} and {higher}",
        )
