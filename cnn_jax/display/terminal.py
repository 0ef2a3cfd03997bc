"""What the terminal shows about a run: the facts before it starts, the progress, the short table at the end."""

import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from cnn_jax.core.text import printable
from cnn_jax.display.tables import duration

LABEL = 10  # characters of the names of facts


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
            BarColumn(bar_width=20),  # the line has at most 100 characters
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task(
            "train", total=total_steps, completed=first_step, epoch=0.0, epochs=self.epochs, numbers=""
        )

    def start(self) -> None:
        """Shows the bar in a terminal; may be called again."""
        if self.console.is_terminal:
            self.bar.start()

    def stop(self) -> None:
        """Removes the bar; may be called again."""
        self.bar.stop()

    def advance(self, done: int) -> None:
        """Shows progress after `done` steps."""
        self.bar.update(self.task, completed=done, epoch=done / self.steps_per_epoch)

    def numbers(self, done: int, metrics: dict[str, Any]) -> None:
        """Shows a training record."""
        speed = metrics["images_per_second"]
        numbers = f"loss {metrics['loss']:.3f}, accuracy {1 - metrics['error']:.1%}, {speed or 0:,.0f} images/s"
        if metrics.get("mfu"):
            numbers += f", MFU {metrics['mfu']:.0%}"
        self.bar.update(self.task, numbers=numbers)
        now = time.perf_counter()
        if not self.console.is_terminal and now - self.printed > 30:
            left = (now - self.started) / (done - self.first_step) * (self.total_steps - done)
            epoch = f"epoch {done / self.steps_per_epoch:.1f}/{self.epochs:.0f}"
            say(self.console, f"{epoch}  {numbers}, {duration(left)} left")
            self.printed = now


def say(console: Console, text: str) -> None:
    """Prints a line literally, except for control characters."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def facts(console: Console, lines: Iterable[tuple[str, str]]) -> None:
    """Prints names, in bold, and values in two columns; in a terminal, long values are wrapped."""
    for name, value in lines:
        text = printable(value)
        fits = console.width - LABEL
        parts = textwrap.wrap(text, fits, break_on_hyphens=False) if console.is_terminal and fits > LABEL else [text]
        for i, part in enumerate(parts or [""]):
            label = "" if i else name
            console.print(f"[bold]{label:{LABEL}}[/bold]{escape(part)}", highlight=False, soft_wrap=True)


@contextmanager
def waiting(console: Console, text: str) -> Iterator[None]:
    """Shows that something slow is running."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


def print_results(final: dict[str, Any], console: Console) -> None:
    """Prints the short table at the end, with the balanced accuracy where it differs, and how examples were seen."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    uneven = any(_is_uneven(metrics) for metrics in final.values())
    for heading in ("examples", "top-1 accuracy", *(["balanced accuracy"] if uneven else []), "top-5 accuracy", "loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    parts: dict[str, list[str]] = {}
    for part, metrics in final.items():
        shares = [1 - metrics["error"], 1 - metrics["top5_error"]]
        if uneven:
            shares.insert(1, metrics["balanced_accuracy"])
        table.add_row(part, f"{metrics['examples']:,}", *(f"{x:.2%}" for x in shares), f"{metrics['loss']:.4f}")
        parts.setdefault(metrics["protocol"], []).append(part)
    console.print(table, highlight=False)
    for protocol, seen in parts.items():
        say(console, f"images: {protocol}" + (f" ({', '.join(seen)})" if len(parts) > 1 else ""))


def _is_uneven(metrics: dict[str, Any]) -> bool:
    """Returns whether the balanced accuracy differs from the accuracy by a point or more."""
    return abs(metrics.get("balanced_accuracy", 1 - metrics["error"]) - (1 - metrics["error"])) >= 0.01
