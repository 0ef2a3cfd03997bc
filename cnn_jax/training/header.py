"""What a run prints before it starts: what will run, and what it takes from a trained network."""

import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from cnn_jax import models
from cnn_jax.analysis.layer_table import dropped
from cnn_jax.config.fields import model_fields
from cnn_jax.core import trees
from cnn_jax.data.dataset import KINDS
from cnn_jax.display import plots
from cnn_jax.display.tables import human
from cnn_jax.display.terminal import facts, say
from cnn_jax.tracking.run_folder import has_checkpoint
from cnn_jax.training import optimizers
from cnn_jax.training.setup import Setup
from cnn_jax.training.state import States


def print_header(setup: Setup, states: States, workdir: Path | str, folder: Path, console: Console) -> None:
    """Prints what will run, before it does.

    Args:
      workdir: the run's folder, as the user calls it. folder: the same on this machine.
    """
    config, data = setup.config, setup.data
    parameters, macs = sum(row.parameters for row in setup.layers), sum(row.macs for row in setup.layers)
    defaults = models.fields(config.model.name)
    changed = [f"{name}={value}" for name, value in model_fields(config).items() if defaults[name] != value]
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    kind, shape = KINDS[len(config.data.image_size)], "x".join(map(str, data.image_shape))
    devices = setup.mesh.devices.flatten()
    processes = jax.process_count()
    mesh = " x ".join(f"{size} {name}" for name, size in setup.mesh.shape.items())
    placed = config.mesh.preset + (" with rules of its own" if config.mesh.rules else "") + f" on {mesh}"
    of_several = f"; this is process {jax.process_index()} of {processes}" if processes > 1 else ""
    lines = (
        ("data", f"{config.data.name}: {data.description}"),
        ("", f"{sizes}; {config.data.num_classes} classes; {kind} {shape}"),
        (
            "model",
            ", ".join([f"{config.model.name}: {parameters:,} parameters", f"{human(macs)}MACs per image", *changed]),
        ),
        (
            "devices",
            f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {config.precision}{of_several}",
        ),
        (
            "training",
            f"{setup.total_steps:,} steps of {config.batch_size} = {setup.total_steps / setup.steps_per_epoch:.4g} "
            f"epochs; recipe: {config.recipe}",
        ),
        ("", optimizers.describe(config)),
        ("memory", f"about {human(states.memory_bytes())}B on each device (estimate)"),
        ("", f"parameters, optimizer, statistics: {states.bytes():,} bytes; {placed}"),
        ("results", str(workdir)),
    )
    if where := dropped(setup.layers):
        lines = (*lines[:3], ("", f"positions at the border are dropped by the strides of: {where}"), *lines[3:])
    facts(console, lines)
    if config.model.get("activation") == "sigmoid":
        note = "sigmoid saturates: a recipe for another activation may stay near chance. LeNet-5 on digits needs"
        say(console, f"note: {note} --config.optim.learning_rate=0.05 --config.duration='80 epochs'")
    total = host_memory()
    if devices[0].platform == "cpu" and total and states.memory_bytes() * len(devices) > total:
        console.print(
            f"[bold red]warning:[/bold red] this machine has {human(total)}B of memory: the run will probably be "
            "killed. A smaller config.batch_size, or a larger config.accumulation, needs less",
            highlight=False,
            soft_wrap=True,
        )
    if has_unused_gpu():
        console.print(
            "[bold red]warning:[/bold red] this machine has an NVIDIA GPU, but jax computes on the CPU: "
            "install the GPU build with  pip install 'cnn-jax\\[cuda]'",
            highlight=False,
            soft_wrap=True,
        )
    if not has_checkpoint(folder):  # a run that resumes has taken it
        print_transfer(setup, states, console)


def plot_learning_rate(setup: Setup, path: Path, console: Console) -> None:
    """Draws the learning rate of every step of the run into `path`."""
    config, count = setup.config, min(setup.total_steps, 10_000)
    steps = np.unique(np.linspace(0, setup.total_steps - 1, count).astype(np.int32))
    rates = np.asarray(jax.vmap(setup.schedule)(jnp.asarray(steps)))
    title = f"{config.model.name} on {config.data.name}: {optimizers.describe(config)}"
    plots.plot_learning_rate((steps + 1) / setup.steps_per_epoch, rates, path, title=title)
    after = "; the plateau schedule lowers it after validations" if config.optim.schedule.name == "plateau" else ""
    say(console, f"learning rate: first {rates[0]:.3g}, highest {rates.max():.3g}, last {rates[-1]:.3g}: {path}{after}")


def print_transfer(setup: Setup, states: States, console: Console) -> None:
    """Prints what a run takes from a pretrained network, what is new, and what is frozen, by name."""
    lines = []
    if setup.source is not None and states.surgery is not None:
        surgery, names = states.surgery, list(setup.shapes)
        lines.append(("from", setup.source.description))
        if setup.source.classes is None and any("classifier/" in name for name in surgery.taken):
            lines.append(("", "its classes have no names: they are taken to be those of these data, in order"))
        lines.append(("  taken", ", ".join(trees.summarized(surgery.taken, names))))
        for reason in dict.fromkeys(surgery.new.values()):
            new = [name for name, why in surgery.new.items() if why == reason]
            lines.append(("  new", f"{', '.join(trees.summarized(new, names))}: {reason}"))
        if surgery.left:
            lines.append(("  left", ", ".join(trees.summarized(surgery.left, [*names, *surgery.left]))))
    if not setup.trainable.is_all:
        mask = dict(trees.named_leaves(setup.trainable.mask))
        sizes = {name: math.prod(setup.shapes[name]) for name in mask}
        count = sum(sizes[name] for name in mask if mask[name])
        trained, frozen = ([name for name in mask if mask[name] == value] for value in (True, False))
        lines.append(
            (
                "trained",
                f"{', '.join(trees.summarized(trained, mask))}: {count:,} of {sum(sizes.values()):,} parameters",
            )
        )
        lines.append(("frozen", ", ".join(trees.summarized(frozen, mask))))
    facts(console, lines)


def host_memory() -> int | None:
    """Returns the memory of this machine, bytes, or None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def has_unused_gpu() -> bool:
    """Returns whether this machine has an NVIDIA GPU while jax computes on the CPU, and nobody asked for the CPU."""
    drivers = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/usr/lib/wsl/lib/nvidia-smi")
    wanted = "cpu" in os.environ.get("JAX_PLATFORMS", "")
    return jax.default_backend() == "cpu" and not wanted and any(Path(path).exists() for path in drivers)
