"""What the terminal shows of a run: the facts before it starts, the progress, the short table at the end."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cnn_jax import models, trees
from cnn_jax.build import Run, has_unused_gpu
from cnn_jax.config import KINDS, model_fields
from cnn_jax.tables import duration, human


def print_header(run: Run, workdir: Path | str, console: Console) -> None:
    """Prints what will run, before it does."""
    config, data = run.config, run.data
    parameters, macs = sum(row.parameters for row in run.layers), sum(row.macs for row in run.layers)
    defaults = models.fields(config.model.name)
    changed = [f"{name}={value}" for name, value in model_fields(config).items() if defaults[name] != value]
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    kind, shape = KINDS[len(config.data.image_size)], "x".join(map(str, data.image_shape))
    devices = jax.devices()
    processes = jax.process_count()
    mesh = " x ".join(f"{size} {name}" for name, size in run.mesh.shape.items())
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
            f"{run.total_steps:,} steps of {config.batch_size} = {run.total_steps / run.steps_per_epoch:.4g} epochs; "
            f"recipe: {config.recipe}",
        ),
        ("memory", f"about {human(run.memory_bytes())}B on each device (estimate)"),
        ("", f"of it parameters, optimiser and statistics: {run.state_bytes():,} bytes, exactly; {placed}"),
        ("results", str(workdir)),
    )
    for name, value in lines:
        console.print(f"[bold]{name:10}[/bold]{escape(value)}", highlight=False, soft_wrap=True)
    if has_unused_gpu():
        console.print(
            "[bold red]warning:[/bold red] this machine has an NVIDIA GPU, but jax computes on the CPU: "
            "install the GPU build with  pip install -e '.\\[cuda]'",
            highlight=False,
            soft_wrap=True,
        )


def print_transfer(run: Run, console: Console) -> None:
    """Prints what a run takes from a trained network, what is new, and what is frozen, by name."""
    lines = []
    if run.source is not None and run.surgery is not None:
        surgery, names = run.surgery, list(run.shapes)
        lines.append(("from", run.source.description))
        if run.source.classes is None and any("classifier/" in name for name in surgery.taken):
            lines.append(("", "its classes have no names: that they are those of these data, in order, is assumed"))
        lines.append(("  taken", ", ".join(trees.summarized(surgery.taken, names))))
        for reason in dict.fromkeys(surgery.new.values()):
            new = [name for name, why in surgery.new.items() if why == reason]
            lines.append(("  new", f"{', '.join(trees.summarized(new, names))}: {reason}"))
        if surgery.left:
            lines.append(("  left", ", ".join(trees.summarized(surgery.left, [*names, *surgery.left]))))
    if not run.trainable.is_all:
        mask = dict(trees.named_leaves(run.trainable.mask))
        sizes = {name: math.prod(run.shapes[name]) for name in mask}
        count = sum(sizes[name] for name in mask if mask[name])
        trained, frozen = ([name for name in mask if mask[name] == value] for value in (True, False))
        lines.append(
            (
                "trained",
                f"{', '.join(trees.summarized(trained, mask))}: {count:,} of {sum(sizes.values()):,} parameters",
            )
        )
        lines.append(("frozen", ", ".join(trees.summarized(frozen, mask))))
    for name, value in lines:
        console.print(f"[bold]{name:10}[/bold]{escape(value)}", highlight=False, soft_wrap=True)


class ProgressLine:
    """The progress of training: a bar with time left in a terminal, a line every 30 seconds elsewhere."""

    def __init__(self, console: Console, *, first_step: int, total_steps: int, steps_per_epoch: float):
        self.console = console
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.epochs = total_steps / steps_per_epoch
        self.first_step = first_step
        self.started = self.printed = time.perf_counter()
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]:.1f}/{task.fields[epochs]:.0f}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(
            "train", total=total_steps, completed=first_step, epoch=0.0, epochs=self.epochs, numbers=""
        )

    def __enter__(self) -> "ProgressLine":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def advance(self, done: int) -> None:
        """Shows that `done` steps are done."""
        self.bar.update(self.task, completed=done, epoch=done / self.steps_per_epoch)

    def numbers(self, done: int, metrics: dict[str, Any]) -> None:
        """Shows a training record."""
        speed = metrics["images_per_second"]
        numbers = f"loss {metrics['loss']:.3f}, accuracy {1 - metrics['error']:.1%}, {speed or 0:,.0f} images/s"
        self.bar.update(self.task, numbers=numbers)
        now = time.perf_counter()
        if not self.console.is_terminal and now - self.printed > 30:
            left = (now - self.started) / (done - self.first_step) * (self.total_steps - done)
            epoch = f"epoch {done / self.steps_per_epoch:.1f}/{self.epochs:.0f}"
            say(self.console, f"{epoch}  {numbers}, {duration(left)} left")
            self.printed = now

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        say(self.console, text)


def say(console: Console, text: str) -> None:
    """Prints a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def waiting(console: Console, text: str) -> Iterator[None]:
    """Shows that something takes its time."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


def print_results(final: dict[str, Any], console: Console) -> None:
    """Prints the short table at the end, and how the examples were seen."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in ("examples", "top-1 accuracy", "top-5 accuracy", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    parts: dict[str, list[str]] = {}
    for part, metrics in final.items():
        accuracies = (f"{1 - metrics[name]:.2%}" for name in ("error", "top5_error"))
        table.add_row(part, f"{metrics['examples']:,}", *accuracies, f"{metrics['loss']:.4f}")
        parts.setdefault(metrics["protocol"], []).append(part)
    console.print(table, highlight=False)
    for protocol, seen in parts.items():
        say(console, f"seen: {protocol}" + (f" ({', '.join(seen)})" if len(parts) > 1 else ""))
