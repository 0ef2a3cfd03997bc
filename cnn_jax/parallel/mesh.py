"""Which device holds which part of a parameter: rules on names, for a mesh of the axes `data` and `model`.

The batch is split over all devices, so that convolutions are data-parallel whatever the rules say. A rule (regex, axes)
puts the parameters of that name on the mesh: `axes` has for each axis of the array "data", "model" or None, which
leaves it whole, as in (None, "model"); or it is "data" or "model" alone, which splits the longest axis that can be
split evenly, and leaves an array that has none on all devices. Preset fsdp leaves small arrays there, too.

What an optimizer keeps of each parameter, and moving averages, are where their parameters are. XLA's partitioner
(GSPMD, Xu et al. 2021) does the rest: it computes the same numbers for all rules, but for the order of sums.
"""

import math
import time
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax.config.fields import MESH_AXES
from cnn_jax.core import trees
from cnn_jax.core.errors import check

# Steps that are dispatched before one waits for them: devices of one CPU can block each other beyond 32.
IN_FLIGHT = 16
SHORT = 0.1  # seconds of a step: waiting takes about a millisecond
EVERYWHERE = PartitionSpec(MESH_AXES)  # of a batch

Axes = str | Sequence[str | None]
PRESETS: dict[str, tuple[tuple[str, Axes], ...]] = {
    "replicated": (),
    # "One weird trick for parallelizing convolutional neural networks" (Krizhevsky 2014): the linear layers of AlexNet
    # and VGG hold most parameters and compute little, so their neurons are split, the convolutions' parameters are not.
    "fc": (
        (r"head/hidden/\d+/kernel", (None, "model")),
        (r"head/hidden/\d+/bias", ("model",)),
        (r"head/classifier/kernel", "model"),
    ),
    # As in ZeRO, stage 3 (Rajbhandari et al. 2020), and PyTorch's FSDP. Small arrays make most of the exchanges and
    # hardly any of the memory: of ResNet-50's 161 arrays the 42 large ones hold 99% of the parameters.
    "fsdp": ((r".*", "data"),),
}
SMALL = 2**16  # values; preset fsdp leaves smaller arrays on all devices


def make_mesh(model: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns devices, by default all of this run, as (`data`, `model`), with `model` of them on the second axis.

    Raises:
      UserError: the number of devices is not divisible by `model`.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    check(count % model == 0, f"config.mesh.model is {model}, but must divide the number of devices, {count}")
    return jax.make_mesh((count // model, model), MESH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 2)


def platform(mesh: Mesh) -> str:
    """Returns what kind of device the mesh has: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


# ---------------------------------------------------------------- placing


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places arrays, which all processes have alike, on all devices."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere)
    # device_put would send them around to compare them
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(everywhere, np.asarray(x), np.shape(x)), tree)


def put(batch: Any, mesh: Mesh) -> Any:
    """Places a batch on the devices, split along its first axis; each process has its own rows."""
    if mesh.size == 1 and "index" in batch:
        return batch  # a few kilobytes, which the compiled step takes from the host faster than anything else
    split = NamedSharding(mesh, EVERYWHERE)
    if jax.process_count() > 1:
        return jax.make_array_from_process_local_data(split, batch)
    return jax.device_put(batch, split)


class Pace:
    """Waits for what a step computes, where the next one must not be dispatched yet; called after each step of a loop.

    Devices of one CPU share its threads, and can block each other where too many steps are dispatched. On one device of
    a CPU, a step that is dispatched while another one computes takes temporary memory of its own, which the system must
    clear first. That costs more than waiting, unless steps are short.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.never_waits = False
        self.last: float | None = None  # when the last step was over, seconds

    def __call__(self, result: Any) -> None:
        """Waits, or not.

        Args:
          result: arrays that the step computes.
        """
        if self.never_waits:
            return
        first = jax.tree.leaves(result)[0]
        devices = first.sharding.device_set
        self.steps += 1
        if next(iter(devices)).platform != "cpu":
            self.never_waits = True
        elif len(devices) == 1:
            first.block_until_ready()  # the others are ready with it
            now = time.perf_counter()
            self.never_waits = self.last is not None and now - self.last < SHORT
            self.last = now
        elif self.steps % IN_FLIGHT == 0:
            jax.block_until_ready(result)


# ---------------------------------------------------------------- rules


def parameter_specs(params: Any, mesh: Mesh, config: Any) -> Any:
    """Returns the tree of PartitionSpecs of parameters, by the first rule that matches; others are on all devices.

    Args:
      params: arrays or shapes. config: config.mesh, whose rules come before those of its preset.

    Raises:
      UserError: a rule matches nothing, does not fit an array, or splits over an axis of one of several devices.
    """
    specs = jax.tree.map(lambda _: PartitionSpec(), params)
    rules = [("config.mesh.rules", *rule, 0) for rule in config.rules]
    least = SMALL if config.preset == "fsdp" else 0
    rules += [(f"config.mesh.preset={config.preset!r}", *rule, least) for rule in PRESETS[config.preset]]
    for field, pattern, axes, least in reversed(rules):
        for axis in {axes} if isinstance(axes, str) else set(axes) - {None}:
            check(
                mesh.shape[axis] > 1 or mesh.size == 1,
                f"{field} splits {pattern!r} over {axis!r}, which has one of the {mesh.size} devices: "
                f"config.mesh.model is {mesh.shape['model']}, and must be a divisor of {mesh.size} that is "
                + ("above 1" if axis == "model" else f"below {mesh.size}"),
            )
        hits = trees.match(params, pattern, field=field)
        specs = jax.tree_util.tree_map_with_path(
            lambda path, leaf, hit, spec, field=field, axes=axes, least=least: (
                _spec(trees.path_name(path), leaf.shape, axes, mesh, field)
                if hit and math.prod(leaf.shape) >= least
                else spec
            ),
            params,
            hits,
            specs,
        )
    return specs


def _spec(name: str, shape: Sequence[int], axes: Axes, mesh: Mesh, field: str) -> PartitionSpec:
    if isinstance(axes, str):
        divisible = [i for i, size in enumerate(shape) if size % mesh.shape[axes] == 0]
        longest = max(divisible, key=lambda i: shape[i], default=None)
        return PartitionSpec(*(axes if i == longest else None for i in range(len(shape))))
    check(
        len(axes) == len(shape), f"{field}: {name} has the shape {tuple(shape)}, but the rule is for {len(axes)} axes"
    )
    for size, axis in zip(shape, axes, strict=True):
        parts = 1 if axis is None else mesh.shape[axis]
        check(
            size % parts == 0,
            f"{field}: {name} has the shape {tuple(shape)}, whose {size} cannot be split into {parts} equal parts over "
            f"{axis!r}: change the rule, or config.mesh.model",
        )
    return PartitionSpec(*axes)


def state_shardings(state: Any, params: Any, specs: Any, mesh: Mesh) -> Any:
    """Returns the tree of shardings of a training state (arrays or shapes).

    Each leaf whose name ends in that of a parameter, and whose shape is the same, is where the parameter is: so
    momentum and moving average follow. What is left, as Adafactor's means of rows and columns, is on all devices.

    Args:
      params, specs: all parameters (arrays or shapes), and their PartitionSpecs.
    """
    shapes, known = ({name: leaf for name, leaf in trees.named_leaves(tree)} for tree in (params, specs))

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        parts = trees.path_name(path).split("/")
        endings = ("/".join(parts[i:]) for i in range(len(parts)))
        own = (known[name] for name in endings if name in known and shapes[name].shape == leaf.shape)
        return NamedSharding(mesh, next(own, PartitionSpec()))

    return jax.tree_util.tree_map_with_path(sharding, state)


def gather(params: Any, shardings: Any, rounded: Collection[str] = ()) -> Any:
    """Returns parameters of which every device has a part, whole on every device; those that `model` splits stay.

    Inside of a compiled step. XLA for TPUs would split the convolutions instead: by its own account ResNet-50 took 45%
    more memory and 40% more cycles on four chips of a v5e than with every parameter on every device.

    Args:
      rounded: names of those that the network rounds to bfloat16. They are rounded before, which halves what travels.
    """

    def one(path: tuple, x: Any, sharding: NamedSharding) -> Any:
        if not _is_gathered(sharding):
            return x
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        values = x
        if trees.path_name(path) in rounded:
            # Its own part first: else every device would round the whole array, after it has traveled.
            values = jax.lax.with_sharding_constraint(x.astype(jnp.bfloat16), sharding)
        return jax.lax.with_sharding_constraint(values, whole).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(one, params, shardings)


def scatter(grads: Any, shardings: Any) -> Any:
    """Returns gradients with each device's part of those whose parameters are split.

    XLA for GPUs so adds up only a device's own part (reduce-scatter). XLA for TPUs would split the convolutions that
    make them, as in `gather`: there, they are whole before.
    """

    def one(x: Any, sharding: NamedSharding) -> Any:
        if not any(sharding.spec):
            return x
        if _is_gathered(sharding) and next(iter(sharding.device_set)).platform == "tpu":
            x = jax.lax.with_sharding_constraint(x, NamedSharding(sharding.mesh, PartitionSpec()))
        return jax.lax.with_sharding_constraint(x, sharding)

    return jax.tree.map(one, grads, shardings)


def _is_gathered(sharding: NamedSharding) -> bool:
    """Returns whether `data` alone splits a parameter, which the network takes whole."""
    return set(sharding.spec) - {None} == {"data"}


def device_bytes(tree: Any, shardings: Any) -> int:
    """Returns the bytes of arrays, or shapes, on one device: exact, because all parts are equal."""
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    )
