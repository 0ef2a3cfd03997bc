"""The training loop, and evaluation of what it saved: config -> data -> model -> step -> checkpoints and metrics."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from cnn_jax.analysis import layer_sheets
from cnn_jax.checkpoint import storage
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core.errors import Stopped, UserError
from cnn_jax.display import plots, show
from cnn_jax.parallel import together
from cnn_jax.tracking import provenance, workdir
from cnn_jax.tracking.metrics import Recorder, jsonable, scalars
from cnn_jax.training import diagnostics, guard, header
from cnn_jax.training.build import Run
from cnn_jax.training.clock import Clock, Trace, check_steps
from cnn_jax.training.signals import StopSignals
from cnn_jax.training.stall import StallWatch
from cnn_jax.training.step import zero_sums


def run(
    config: Any,
    folder: Path | str,
    *,
    dry_run: bool = False,
    extend: bool = False,
    profile: tuple[int, int] | None = None,
    console: Console | None = None,
    began: float | None = None,
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Trains as `config` says and returns the final metrics: {"validation": ..., "test": ...}.

    `folder` receives config.json, data.json, run.json, summary.txt, metrics.jsonl, TensorBoard files, checkpoints and
    curves.png. If it has a checkpoint, training goes on from the latest one that is whole, to the same numbers as if it
    had never stopped. With `dry_run` nothing is written, and {} returned. It may be the URL of a bucket's folder; see
    `storage.located`.

    Of several processes (`distributed`) all run this, save and restore together, and the first one records and prints.

    Args:
      extend: allows `config.duration` to be longer than that of the run in `folder`.
      profile: the first and the last step of a trace in `folder`/profile, by the first process; see `clock.Trace`.
      began: when the command began, of `time.perf_counter`; now, if not given. arguments: the command's, for run.json.

    Raises:
      UserError: see `Run`; `folder` holds a run of another configuration, or is in use.
      NotFiniteError: the loss or a gradient is not finite.
      StorageError: a disk is full, a folder cannot be written, a bucket does not answer, no checkpoint is whole.
      Stopped: a signal came (`signals.SIGNALS`), and the state after the step that was under way is saved.
    """
    console = console or together.console()
    tell = functools.partial(show.say, console)
    began = time.perf_counter() if began is None else began
    with contextlib.ExitStack() as resources:  # an error, too, closes the record and finishes a running save
        what = f"the run in {folder} stops"
        resources.enter_context(workdir.storage_errors(what))
        stop = resources.enter_context(StopSignals(tell, together=jax.process_count() > 1))
        kept = resources.enter_context(storage.opened(folder))
        here = kept.path

        # -------------------------------------------------------- build
        this = Run(config)
        config = this.config
        workdir.check_same(config, here, extend=extend)
        total_steps, steps_per_epoch = this.total_steps, this.steps_per_epoch
        check_steps(profile, first=1, last=total_steps)
        check_processes(this, {"--workdir": str(folder), "--extend": str(extend), "--dry-run": str(dry_run)})
        if extend:
            check_longer(this, here, console)
        header.print_header(this, folder, console)
        if not workdir.has_checkpoint(here):  # a run that goes on has what it took
            header.print_transfer(this, console)
        if dry_run:
            return {}
        patiently = functools.partial(workdir.retried, what=what, seconds=config.checkpoint.retry, report=tell)
        records = resources.enter_context(together.records(here))
        resources.enter_context(kept.held(records, seconds=config.checkpoint.lease, patiently=patiently, report=tell))
        workdir.prepare(config, records, data=this.data.identity, extend=extend)
        layer_sheets.write(config, this.layers, records / "summary.txt")
        has_validation = "validation" in this.data.parts

        # -------------------------------------------------------- restore
        checkpoints = resources.enter_context(
            Checkpoints(here, keep=config.checkpoint.keep, retry=config.checkpoint.retry, report=tell, storage=kept)
        )
        with show.waiting(console, "reading the data and preparing the network"):
            latest = together.decided(lambda: checkpoints.latest(tell, tidy=True))
            start = provenance.Start(
                records, config, this.layers, first_step=latest or 0, began=began, arguments=arguments
            )
            record = resources.enter_context(start)
            train_step, schedule = this.train_step(), jax.jit(this.schedule)
            state = this.create_state() if latest is None else this.restore(checkpoints, latest)
            workdir.write_input(records, this.data.input)
            patiently(kept.push)
            images = this.images("train")
        first_step = int(state.step)
        traced = profile if together.is_first() else None
        trace = Trace(
            traced,
            here / "profile",
            first=first_step + 1,
            last=total_steps,
            report=lambda text: tell(kept.named(text)),
        )
        resources.enter_context(trace)
        if config.eval.layers and latest is None:
            write_layers(this, state, records, "first")
        if latest is not None:
            tell(f"going on from the checkpoint of step {first_step:,}")
        recorder = resources.enter_context(
            Recorder(
                records,
                step=first_step,
                tensorboard=config.log.tensorboard and together.is_first(),
                patiently=patiently,
            )
        )
        progress = show.ProgressLine(
            console, first_step=first_step, total_steps=total_steps, steps_per_epoch=steps_per_epoch
        )

        # -------------------------------------------------------- train
        final: dict[str, Any] = {}
        best_error = together.decided(checkpoints.best_error)
        wishes = together.Wishes(this.mesh)
        clock = Clock(first_step)
        done, plotted = first_step, time.perf_counter()
        stall = StallWatch(config.log.stall, lambda: this.placed, lambda: f"{record.under_way} after step {done:,}")
        resources.enter_context(stall)
        with progress, record.spending("training"):
            batches = this.data.parts["train"].train_batches(first_step, total_steps, config.batch_size)
            for done, batch in enumerate(clock.waits(ahead(map(this.put, batches))), start=first_step + 1):
                with trace.step(done):
                    state = train_step(state, batch, images)
                this.pace(done, state)
                trace.after(done, state)
                clock.turn()
                epoch = done / steps_per_epoch
                progress.advance(done)
                if done == first_step + 1:
                    jax.block_until_ready(state)
                    stop.hold()
                    progress.message(f"first step after {time.perf_counter() - began:.1f} s")
                    clock.restart(done)
                last, stops = done == total_steps, wishes.granted(stop.received is not None)
                logs = last or this.is_due(done, config.log.every)
                validates = has_validation and (last or this.is_due(done, config.eval.every))
                saves = last or stops or this.is_due(done, config.checkpoint.every)

                if logs:
                    sums = jax.device_get(state.sums)
                    rate = np.asarray(schedule(np.int32(done - 1))) * np.asarray(state.plateau.scale)
                    state = replace(state, sums=this.replicate(zero_sums()))
                    metrics = dict(
                        loss=float(sums["loss"] / sums["examples"]),
                        error=float(1 - sums["correct"] / sums["examples"]),
                        learning_rate=float(rate),
                        gradient_norm=float(sums["gradient_norm"] / sums["steps"]),
                        **clock.read(done, config.batch_size),
                    )
                    if config.data.on_error == "skip":
                        metrics["skipped"] = together.total(len(this.data.parts["train"].skipped))
                    recorder.write("train", done, epoch, **metrics)
                    progress.numbers(done, metrics)

                if logs or validates or saves:
                    guard.check_finite(this, state, checkpoints, records)  # a state that is not finite is never saved

                if validates:
                    with clock.paused(state), record.spending("evaluation"):
                        final["validation"] = this.evaluate(state, "validation")
                    metrics = final["validation"]
                    recorder.write("validation", done, epoch, **scalars(metrics))
                    accuracy = f"accuracy {1 - metrics['error']:.2%}, loss {metrics['loss']:.4f}"
                    progress.message(f"epoch {epoch:5.1f}  validation: {accuracy}")
                    if metrics["error"] < best_error:
                        best_error, saves = metrics["error"], True
                    if config.optim.schedule.name == "plateau":
                        plateau = jax.device_get(state.plateau).update(metrics["error"], config.optim.schedule)
                        state = replace(state, plateau=this.replicate(plateau))

                if saves:
                    patiently(recorder.sync)
                    with clock.paused(state), record.spending("saving"):
                        checkpoints.save(done, state, error=final["validation"]["error"] if validates else None)
                        # Drawing takes as long as many short steps.
                        if together.is_first() and (stops or time.perf_counter() - plotted > 30):
                            patiently(lambda: plots.plot_curves(records))
                            plotted = time.perf_counter()
                        patiently(lambda: record.write(done))  # noqa: B023
                if stops:
                    break
        checkpoints.wait()
        stop.release()
        if together.anyone(stop.received is not None):
            by = stop.received or "a signal at another process"
            raise Stopped(
                f"stopped by {by} after step {done:,} of {total_steps:,}, which is saved: the same command with "
                f"--workdir={folder} goes on"
            )

        # -------------------------------------------------------- test
        with record.spending("evaluation"):
            if has_validation and "validation" not in final:  # everything was done before this start
                final["validation"] = this.evaluate(state, "validation")
            final["test"] = this.evaluate(state, "test")
            if config.eval.train_part:
                final["train"] = this.evaluate(state, "train")
        if config.eval.layers:
            write_layers(this, state, records, "last")
        # The test is the last record: a run that has it has everything.
        for part, kind in (("train", "train_part"), ("test", "test")):
            if part in final:
                recorder.write(kind, total_steps, total_steps / steps_per_epoch, **scalars(final[part]))

        # -------------------------------------------------------- report
        if together.is_first():
            plots.plot_curves(records)
        if config.eval.confusion_matrix and together.is_first():
            plots.plot_confusion(final["test"]["confusion"], this.data.class_names, records / "confusion_matrix.png")
    show.print_results(final, console)
    seconds = time.perf_counter() - began
    show.say(console, f"{seconds:.0f} s; results are in {folder}")
    return final


def write_layers(this: Run, state: Any, folder: Path, when: str) -> None:
    """Writes what `diagnostics.examine` finds of the first batch under "first" or "last" of layers.json in `folder`."""
    path = folder / "layers.json"
    found = json.loads(path.read_text(encoding="utf-8")) if when == "last" and path.exists() else {}
    found[when] = diagnostics.examine(this, state, diagnostics.training_batch(this, 1))
    workdir.write_text(path, json.dumps(jsonable(found), indent=1) + "\n")


def check_processes(this: Run, command: dict[str, str]) -> None:
    """Raises UserError unless all processes run the same: the command, the configuration, and the data by name."""
    config = this.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.dir = ""  # may be a copy on each machine
    told: dict[str, Callable[[], str]] = {name: functools.partial(str, value) for name, value in command.items()}
    together.check_same(
        told
        | {
            "the configuration": config.to_json,
            "the data": lambda: json.dumps([this.data.identity, list(this.data.class_names)]) + this.data.listing(),
        }
    )


def check_longer(this: Run, folder: Path, console: Console) -> None:
    """Raises UserError unless `folder` has a run that is not longer than this one; says if the schedule changes."""
    if not workdir.has_checkpoint(folder):
        raise UserError(f"--extend goes on with a run, but {folder} has no checkpoint: leave --extend out")
    before = workdir.stored_config(folder)["duration"]
    if this.total_steps < this.to_steps(before):
        raise UserError(
            f"--extend: config.duration is {this.config.duration!r}, but must not be shorter than the {before!r} that "
            f"{folder} has been trained for"
        )
    schedule = this.config.optim.schedule.name
    if schedule in ("cosine", "polynomial") and this.total_steps > this.to_steps(before):
        show.say(console, f"the {schedule} schedule now ends later: its learning rate jumps where the run goes on")


def evaluate_run(config: Any, folder: Path | str, which: str, *, console: Console | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of `folder` ("latest", "best" or a step) on the validation and the test part.

    Appends the numbers to evaluations.jsonl in the folder and returns them as `run` does.

    Raises:
      UserError: see `Run`; there is no such checkpoint, or it does not fit `config`.
    """
    console = console or together.console()
    with storage.opened(folder) as kept:
        if not (kept.path / "checkpoints").is_dir():
            raise UserError(f"{folder} has no checkpoints yet: train with --workdir={folder}")
        this = Run(config)
        config = this.config
        workdir.check_same(config, kept.path, may_differ=("eval.", "batch_size", "cache_features"))
        check_processes(this, {"--workdir": str(folder), "--checkpoint": which})
        with Checkpoints(kept.path, storage=kept) as checkpoints:
            chosen = together.decided(lambda: checkpoints.select(which, lambda text: show.say(console, text)))
            state = this.restore(checkpoints, chosen)
        with show.waiting(console, "evaluating"):
            final = {part: this.evaluate(state, part) for part in ("validation", "test") if part in this.data.parts}
        what = f"the evaluation cannot be written to {folder}"
        with workdir.storage_errors(what), together.records(kept.path) as records:
            with (records / "evaluations.jsonl").open("a", encoding="utf-8") as file:
                for part, metrics in final.items():
                    file.write(json.dumps({"kind": part, "step": chosen} | scalars(metrics)) + "\n")
            if config.eval.confusion_matrix:
                plots.plot_confusion(
                    final["test"]["confusion"], this.data.class_names, records / "confusion_matrix.png"
                )
            if together.is_first():
                kept.push_records()
    show.say(console, f"{config.model.name} at step {chosen:,} of {folder}")
    show.print_results(final, console)
    return final


def ahead(batches: Iterable[Any], count: int = 2) -> Iterator[Any]:
    """Yields `batches`, asking for `count` more than were taken: their transfer overlaps with the step before."""
    queue: list[Any] = []
    for batch in batches:
        queue.append(batch)
        if len(queue) > count:
            yield queue.pop(0)
    yield from queue
