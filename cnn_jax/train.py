"""The training loop, and evaluation of what it saved: config -> data -> model -> step -> checkpoints and metrics."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from cnn_jax import report, show, summary, workdir
from cnn_jax.build import Run
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.errors import UserError
from cnn_jax.metrics import Recorder, scalars
from cnn_jax.step import zero_sums


def run(config: Any, folder: Path, *, dry_run: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Trains as `config` says and returns the final metrics: {"validation": ..., "test": ...}.

    `folder` receives config.json, summary.txt, metrics.jsonl, TensorBoard files, checkpoints and curves.png. If it
    has a checkpoint, training goes on from the latest. With `dry_run` nothing is written, and {} returned.

    Raises:
      UserError: see `Run`; `folder` holds a run of another configuration; the loss is not finite.
    """
    console = console or Console()
    started = time.perf_counter()

    # ------------------------------------------------------------ build
    workdir.check_same(config, folder)
    this = Run(config)
    show.print_header(this, folder, console)
    if dry_run:
        return {}
    workdir.prepare(config, folder)
    summary.write(this.layers, folder / "summary.txt", title=config.model.name)
    total_steps, steps_per_epoch = this.total_steps, this.steps_per_epoch
    has_validation = "validation" in this.data.parts

    with contextlib.ExitStack() as open_files:  # an error, too, closes the record and finishes a running save
        # -------------------------------------------------------- restore
        checkpoints = open_files.enter_context(Checkpoints(folder, keep=config.checkpoint.keep))
        with show.waiting(console, "reading the data and preparing the network"):
            images = this.images("train")
            train_step, schedule = this.train_step(), jax.jit(this.schedule)
            latest = checkpoints.latest()
            if latest is None:
                state = jax.jit(this.create_state, out_shardings=this.replicated)()
            else:
                state = this.restore(checkpoints, latest)
        first_step = int(state.step)
        if latest is not None:
            console.print(f"going on from the checkpoint of step {first_step:,}", highlight=False)
        recorder = open_files.enter_context(Recorder(folder, step=first_step, tensorboard=config.log.tensorboard))
        progress = show.ProgressLine(
            console, first_step=first_step, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )

        # -------------------------------------------------------- train
        final: dict[str, Any] = {}
        best_error = checkpoints.best_error()
        clock = Stopwatch(first_step)
        with progress:
            batches = this.data.parts["train"].train_batches(first_step, total_steps, config.batch_size)
            for done, batch in enumerate(ahead(map(this.put, batches)), start=first_step + 1):
                state = train_step(state, batch, images)
                epoch = done / steps_per_epoch
                progress.advance(done)
                if done == first_step + 1:
                    jax.block_until_ready(state)
                    progress.message(f"first step after {time.perf_counter() - started:.1f} s")
                    clock = Stopwatch(done)
                last = done == total_steps

                if last or this.is_due(done, config.log.every):
                    sums = jax.device_get(state.sums)
                    rate = schedule(jnp.int32(done - 1)) * state.plateau.scale
                    state = replace(state, sums=jax.device_put(zero_sums(), this.replicated))
                    metrics = dict(
                        loss=float(sums["loss"] / sums["examples"]),
                        error=float(1 - sums["correct"] / sums["examples"]),
                        learning_rate=float(rate),
                        gradient_norm=float(sums["gradient_norm"] / sums["steps"]),
                        images_per_second=clock.images_per_second(done, config.batch_size),
                    )
                    recorder.write("train", done, epoch, **metrics)
                    progress.numbers(done, metrics)
                    check_finite(sums, done)

                validates = has_validation and (last or this.is_due(done, config.eval.every))
                improves = False
                if validates:
                    with clock.paused(state):
                        final["validation"] = this.evaluate(state, "validation")
                    metrics = final["validation"]
                    recorder.write("validation", done, epoch, **scalars(metrics))
                    accuracy = f"accuracy {1 - metrics['error']:.2%}, loss {metrics['loss']:.4f}"
                    progress.message(f"epoch {epoch:5.1f}  validation: {accuracy}")
                    improves = metrics["error"] < best_error
                    best_error = min(best_error, metrics["error"])
                    if config.optim.schedule.name == "plateau":
                        plateau = state.plateau.update(metrics["error"], config.optim.schedule)
                        state = replace(state, plateau=jax.device_put(plateau, this.replicated))

                if last or improves or this.is_due(done, config.checkpoint.every):
                    check_finite(jax.device_get(state.sums), done)
                    with clock.paused(state):
                        checkpoints.save(done, state, error=final["validation"]["error"] if validates else None)
                        report.plot_curves(folder)

        # -------------------------------------------------------- test
        if has_validation and "validation" not in final:  # everything was done before this start
            final["validation"] = this.evaluate(state, "validation")
        final["test"] = this.evaluate(state, "test")
        recorder.write("test", total_steps, total_steps / steps_per_epoch, **scalars(final["test"]))

    # ------------------------------------------------------------ report
    report.plot_curves(folder)
    if config.eval.confusion_matrix:
        report.plot_confusion(final["test"]["confusion"], this.data.class_names, folder / "confusion_matrix.png")
    show.print_results(final, console)
    seconds = time.perf_counter() - started
    console.print(f"{seconds:.0f} s; results are in {folder}", highlight=False, markup=False, soft_wrap=True)
    return final


def evaluate_run(config: Any, folder: Path, which: str, *, console: Console | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of `folder` ("latest", "best" or a step) on the validation and the test part.

    Appends the numbers to evaluations.jsonl in the folder and returns them as `run` does.

    Raises:
      UserError: see `Run`; there is no such checkpoint, or it does not fit `config`.
    """
    console = console or Console()
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} has no checkpoints yet: train with --workdir={folder}")
    workdir.check_same(config, folder, may_differ=("eval.", "batch_size"))
    with Checkpoints(folder) as checkpoints:
        chosen = checkpoints.select(which)
        this = Run(config)
        state = this.restore(checkpoints, chosen)
    with show.waiting(console, "evaluating"):
        final = {part: this.evaluate(state, part) for part in ("validation", "test") if part in this.data.parts}
    with (folder / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        for part, metrics in final.items():
            file.write(json.dumps({"kind": part, "step": chosen} | scalars(metrics)) + "\n")
    if config.eval.confusion_matrix:
        report.plot_confusion(final["test"]["confusion"], this.data.class_names, folder / "confusion_matrix.png")
    what = f"{config.model.name} at step {chosen:,} of {folder}"
    console.print(what, highlight=False, markup=False, soft_wrap=True)
    show.print_results(final, console)
    return final


def check_finite(sums: dict[str, Any], done: int) -> None:
    """Raises UserError if a loss or gradient since the last record was not finite: such a state is not saved."""
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(sums[name]):
            raise UserError(
                f"the {name.replace('_', ' ')} is {sums[name]} at step {done:,}: a lower config.optim.learning_rate, "
                "a longer warmup or config.optim.clip_norm may help"
            )


def ahead(batches: Iterable[Any], count: int = 2) -> Iterator[Any]:
    """Yields `batches`, asking for `count` more than were taken: their transfer overlaps with the step before."""
    queue: list[Any] = []
    for batch in batches:
        queue.append(batch)
        if len(queue) > count:
            yield queue.pop(0)
    yield from queue


class Stopwatch:
    """Measures training speed between records, without validations and saves."""

    def __init__(self, done: int):
        self.done = done
        self.since = time.perf_counter()

    def images_per_second(self, done: int, batch_size: int) -> float | None:
        """Returns the speed since the last call, or None if there was no step."""
        now = time.perf_counter()
        speed = round((done - self.done) * batch_size / (now - self.since), 1) if done > self.done else None
        self.done, self.since = done, now
        return speed

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leaves out what happens inside the block, but not the steps under way to `state`."""
        jax.block_until_ready(state)
        started = time.perf_counter()
        yield
        self.since += time.perf_counter() - started
