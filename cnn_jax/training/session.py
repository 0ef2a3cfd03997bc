"""What a run does around its steps: it holds its folder, restores, records, validates, saves, shows its progress."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from cnn_jax.analysis import layer_sheets
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.config.compare import flat
from cnn_jax.config.durations import parse_duration
from cnn_jax.core import files
from cnn_jax.core.errors import FolderGoneError, Stopped, UserError
from cnn_jax.display import layer_plots, plots, terminal
from cnn_jax.eval import evaluation
from cnn_jax.parallel import collectives, mesh
from cnn_jax.tracking import run_folder, trackers
from cnn_jax.tracking.recorder import Recorder, jsonable, scalars
from cnn_jax.tracking.run_record import RunRecord
from cnn_jax.tracking.trackers import Trackers
from cnn_jax.training import averages, diagnostics, nan_report
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.preemption import NoSignals, StopSignals
from cnn_jax.training.profiling import Trace
from cnn_jax.training.setup import Setup
from cnn_jax.training.stall import StallTimer
from cnn_jax.training.state import States
from cnn_jax.training.step import TrainState, zero_sums
from cnn_jax.training.throughput import Throughput, seconds_at_peak

TRACKED_IMAGES = 32  # training images that trackers show
PLOT_EVERY = 30  # seconds between drawings of the curves: one takes as long as many short steps


@dataclass(frozen=True)
class Options:
    """How a run starts, besides its configuration.

    dry_run: stop after the header; nothing is written, but a picture of the learning rate into `plot`.
    extend: allow config.duration to be longer, and config.eval.patience another, than those of the run in the folder.
    profile: the first and the last step of a trace in FOLDER/profile, by the first process.
    stop: the signals that stop the run; by default they are left alone.
    began: when the command began, of `time.perf_counter`. arguments: the command's, for run.json.
    """

    dry_run: bool = False
    plot: Path | None = None
    extend: bool = False
    profile: tuple[int, int] | None = None
    console: Console = field(default_factory=collectives.console)
    stop: StopSignals = field(default_factory=NoSignals)
    began: float = field(default_factory=time.perf_counter)
    arguments: Sequence[str] | None = None


@dataclass(frozen=True)
class Due:
    """What happens after a step."""

    record: bool
    layers: bool
    validation: bool
    save: bool
    stop: bool

    @property
    def anything(self) -> bool:
        return self.record or self.layers or self.validation or self.save or self.stop


class Session:
    """One start of a run, while the block runs: an error, too, closes the records and finishes a running save.

    Args:
      folder: of the run, on this machine. name: what the user calls it: the same path, or the URL of a bucket's folder.
    """

    def __init__(self, setup: Setup, states: States, folder: Path, options: Options, *, name: Path | str):
        self.setup, self.states, self.folder, self.options, self.name = setup, states, folder, options, name
        self.config, self.stop = setup.config, options.stop
        self.tell: Callable[[str], None] = functools.partial(terminal.say, options.console)
        self.has_validation = "validation" in setup.data.parts
        self.improved = False  # by the validation after this step
        self.validated = 0  # step of the last validation
        self.is_over = False  # by early stopping
        self.final: dict[str, Any] = {}
        self.plotted = time.perf_counter()
        self.stall = StallTimer(self.config.log.stall)
        self.evaluator = Evaluator(setup, put=self._put)
        self.records_layers = parse_duration(self.config.log.layers)[0] > 0

    def __enter__(self) -> "Session":
        self._resources = contextlib.ExitStack()
        try:
            self._open()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._resources.__exit__(*error)

    def _open(self) -> None:
        """Holds the folder and prepares what records the run there."""
        hold, config, setup = self._resources.enter_context, self.config, self.setup
        self.records = hold(collectives.records(self.folder))
        hold(files.locked(self.records))
        self.inode, self.lock = files.inode(self.records), files.inode(self.records / ".lock")
        data = setup.data.identity
        for note in run_folder.prepare(config, self.records, data=data, extend=self.options.extend):
            self.tell(note)
        layer_sheets.write(config, setup.layers, self.records / "summary.txt")
        self.checkpoints = hold(Checkpoints(self.folder, shared=isinstance(self.name, Path)))
        own = run_folder.identity(json.loads(config.to_json()), data)
        self.saver = hold(Saver(self.checkpoints, keep=config.checkpoint.keep, run=own, report=self.tell))
        self.latest = collectives.decided(lambda: self.checkpoints.latest(self.tell, tidy=True))
        if self.latest is not None and collectives.is_first():
            saved = self.checkpoints.run(self.latest)
            run_folder.check_identity(saved, own, self.checkpoints.folder / str(self.latest))
        self.first_step = self.latest or 0
        self.run_record = hold(
            RunRecord(
                self.records,
                config,
                setup.layers,
                first_step=self.first_step,
                began=self.options.began,
                arguments=self.options.arguments,
            )
        )
        self.trackers = hold(
            Trackers(
                config.log.trackers if collectives.is_first() else "",
                self.records,
                name=str(self.name),
                config=flat(json.loads(config.to_json())),
                step=self.first_step,
                report=self.tell,
            )
        )
        options: dict[str, Any] = dict(step=self.first_step, report=self.tell)
        self.recorder = hold(Recorder(self.records, trackers=self.trackers, **options))
        if self.records_layers:
            if not (self.records / "layers.jsonl").exists():
                options.pop("report")
            self.layers = hold(Recorder(self.records, name="layers.jsonl", **options))
        self.trace = hold(
            Trace(
                self.options.profile if collectives.is_first() else None,
                self.folder / "profile",
                first=self.first_step + 1,
                last=setup.total_steps,
                report=self.tell,
            )
        )
        hold(self.stall)
        self.progress = terminal.ProgressLine(
            self.options.console,
            first_step=self.first_step,
            total_steps=setup.total_steps,
            steps_per_epoch=setup.steps_per_epoch,
        )
        self._resources.callback(self.progress.stop)

    # ------------------------------------------------------------ begin

    def begin(self) -> TrainState:
        """Returns the state of the latest checkpoint, or initial values."""
        with terminal.waiting(self.options.console, "reading the data and preparing the network"):
            self._train_step = self.setup.train_step(self.states.shardings)
            resumed = self.latest is not None
            state = self.states.restore(self.checkpoints, self.latest) if resumed else self.states.create()
            run_folder.write_input(self.records, self.setup.data.input)
            self.images = self.setup.resident("train")
            if self.latest is None and self.trackers.open:
                self._show_examples()
        if self.latest is None:
            if self.config.eval.layers:
                self._write_layers(state, "first")
            if self.records_layers:
                self.record_layers(0, state)
        else:
            done = " (this run is finished; --extend trains it on, to a longer config.duration)"
            finished = self.latest == self.setup.total_steps
            self.tell(f"resuming from the checkpoint of step {self.latest:,}{done if finished else ''}")
            if before := self.run_record.other_kernels():
                now = self.run_record.start["kernels"]
                self.tell(
                    f"convolutions run as {now}, but ran as {before} before: results may differ in their last bits"
                )
        self.best_error = collectives.decided(self.checkpoints.best_error)
        self.best_step = collectives.decided(lambda: self.checkpoints.best() or 0)
        self.is_over = self._is_out_of_patience(self.first_step)
        return state

    def _show_examples(self) -> None:
        """Shows the layer table and the first training images, augmented, in the trackers."""
        self.trackers.text("network", (self.records / "summary.txt").read_text(encoding="utf-8"))
        config = self.config
        is_image = len(config.data.image_size) == 2 and config.data.channels in (1, 3, 4)
        if is_image and not config.cache_features and jax.process_count() == 1:
            images = diagnostics.augmented(config, self._first_batch)[:TRACKED_IMAGES]
            self.trackers.image(0, "train/images", trackers.grid(images))

    def _put(self, batch: Any) -> Any:
        self.stall.feed()
        return self.setup.put(batch)

    # ------------------------------------------------------------ train

    def batches(self) -> Iterator[tuple[int, Any]]:
        """Yields (step, batch on the devices) of the steps that are left."""
        macs = sum(row.macs for row in self.setup.layers) if self.setup.trainable.is_all else None
        devices = self.setup.mesh.devices.flatten()
        self.throughput = Throughput(
            self.first_step, at_peak=None if macs is None else seconds_at_peak(macs, devices.tolist())
        )
        self.pace = mesh.Pace()
        self.run_record.switch("training")
        self.progress.start()
        part, total = self.setup.data.parts["train"], self.setup.total_steps
        total = self.first_step if self.is_over else total
        batches = part.train_batches(self.first_step, total, self.config.batch_size)
        placed = self.throughput.waits(ahead(map(self._put, batches)))
        yield from enumerate(placed, start=self.first_step + 1)

    def train_step(self, step: int, state: TrainState, batch: Any) -> TrainState:
        """Returns the state after `step`; the given one is donated."""
        with self.trace.step(step):
            return self._train_step(state, batch, self.images)

    def due(self, step: int, state: TrainState) -> Due:
        """Returns what happens after `step`, which computes `state`."""
        self.pace(state)
        self.trace.after(step, state)
        self.progress.advance(step)
        self.improved = False
        if step == self.first_step + 1:
            jax.block_until_ready(state)
            self.stop.save_first(True)
            self.tell(f"first step after {time.perf_counter() - self.options.began:.1f} s")
            self.throughput.restart(step)
        config, last = self.config, step == self.setup.total_steps
        stop = self.stop.requested(step)
        return Due(
            record=last or self.setup.is_due(step, config.log.every),
            layers=self.records_layers and (last or self.setup.is_due(step, config.log.layers)),
            validation=self.has_validation and (last or self.setup.is_due(step, config.eval.every)),
            save=last or stop or self.setup.is_due(step, config.checkpoint.every),
            stop=stop,
        )

    def check_finite(self, state: TrainState) -> None:
        """Raises NotFiniteError if the loss or a gradient was not finite; see `nan_report`."""
        nan_report.check_finite(self.setup, state, self.folder, self.records, self.saver)

    def record(self, step: int, state: TrainState) -> TrainState:
        """Records the metrics since the last record, and returns the state with sums of zero."""
        sums = jax.device_get(state.sums)
        metrics = dict(
            loss=float(sums["loss"] / sums["examples"]),
            error=float(1 - sums["correct"] / sums["examples"]),
            learning_rate=float(sums["learning_rate"]),
            gradient_norm=float(sums["gradient_norm"] / sums["steps"]),
            **self.throughput.read(step, self.config.batch_size),
        )
        if self.config.data.on_error == "skip":
            metrics["skipped"] = collectives.total(len(self.setup.data.parts["train"].skipped))
        self._write("train", step, metrics)
        self.progress.numbers(step, metrics)
        return replace(state, sums=mesh.replicate(zero_sums(), self.setup.mesh))

    def record_layers(self, step: int, state: TrainState) -> None:
        """Records what `diagnostics.examiner` finds of the first training batch."""
        found = self._examine(state, self._first_batch)
        self._check_folder()
        self.layers.write("layers", step, step / self.setup.steps_per_epoch, **found)

    @functools.cached_property
    def _examine(self) -> Callable[..., dict[str, Any]]:
        return diagnostics.examiner(self.setup)

    @functools.cached_property
    def _first_batch(self) -> Any:
        return diagnostics.training_batch(self.setup, 1)

    def averaged(self, state: TrainState) -> TrainState:
        """Returns the state with the BatchNorm statistics of a mean of weights; see `averages.with_statistics`."""
        with self.throughput.paused(state), self.run_record.spending("evaluation"):
            return averages.with_statistics(self.setup, state, self.states.shardings, self._put)

    def validate(self, step: int, state: TrainState) -> TrainState:
        """Evaluates the validation part; returns the state with a lower learning rate where a plateau asks for it."""
        with self.throughput.paused(state), self.run_record.spending("evaluation"):
            metrics = self.final["validation"] = self.evaluator.evaluate(state, "validation")
        self._write("validation", step, scalars(metrics))
        accuracy = f"accuracy {1 - metrics['error']:.2%}, loss {metrics['loss']:.4f}"
        self.tell(f"epoch {step / self.setup.steps_per_epoch:5.1f}  validation: {accuracy}")
        self.validated = step
        self.improved = metrics["error"] < self.best_error
        if self.improved:
            self.best_error, self.best_step = metrics["error"], step
        self.is_over = self._is_out_of_patience(step)
        schedule = self.config.optim.schedule
        if schedule.name != "plateau":
            return state
        plateau = jax.device_get(state.plateau).update(metrics["error"], schedule)
        return replace(state, plateau=mesh.replicate(plateau, self.setup.mesh))

    def _is_out_of_patience(self, step: int) -> bool:
        """Returns whether early stopping ends training after `step`: a function of it and the best step."""
        patience = self.config.eval.patience
        return 0 < patience <= self.setup.validations(self.best_step, step) and step < self.setup.total_steps

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save the state, after the records before it are on the disk."""
        self._check_folder()
        self.recorder.sync()
        if self.records_layers:
            self.layers.sync()
        error = self.final["validation"]["error"] if self.validated == step else None
        with self.throughput.paused(state), self.run_record.spending("saving"):
            self.saver.save(step, state, error=error)
            if collectives.is_first() and (self.stop.received or time.perf_counter() - self.plotted > PLOT_EVERY):
                self._draw(plots.plot_curves, self.records)
                self.plotted = time.perf_counter()
            self.run_record.write(step)

    # ------------------------------------------------------------ finish

    def finish(self, state: TrainState) -> dict[str, Any]:
        """Tests the last state, draws the curves and returns the final metrics.

        Raises:
          Stopped: a signal stopped the run; everything is saved.
        """
        step, total = int(state.step), self.setup.total_steps
        self.saver.wait()
        self.stop.save_first(False)
        if self.stop.received or (step < total and not self.is_over):
            raise Stopped(
                f"Stopped by {self.stop.received or 'a signal'} at step {step:,}/{total:,}; checkpoint saved. To "
                f"resume, run the same command with --workdir={self.name}"
            )
        self.progress.stop()
        if self.is_over:
            self.tell(
                f"early stopping at step {step:,}/{total:,}: no validation error below the {self.best_error:.2%} of "
                f"step {self.best_step:,} in {self.config.eval.patience} validations; that state is {self.name}@best"
            )
        self.run_record.switch("evaluation")
        config, final, evaluate = self.config, self.final, functools.partial(self.evaluator.evaluate, state)
        if self.has_validation and "validation" not in final:  # everything was done before this start
            final["validation"] = evaluate("validation")
        final["test"] = evaluate("test")
        if config.eval.train_part:
            final["train"] = evaluate("train")
        if config.eval.layers:
            self._write_layers(state, "last")
        terminal.print_results(final, self.options.console)
        self._say_if_it_did_not_learn(final["test"])
        # The test is the last record: a run that has it has everything.
        for part, kind in (("train", "train_part"), ("test", "test")):
            if part in final:
                self._write(kind, step, scalars(final[part]))
        self.trackers.results = {
            f"{part}/{name}": float(metrics[name]) for part, metrics in final.items() for name in ("error", "loss")
        }
        if collectives.is_first():
            self._draw(plots.plot_curves, self.records)
            if self.records_layers:
                self._draw(layer_plots.plot_layers, self.records)
            if config.eval.confusion_matrix:
                names, path = self.setup.data.class_names, self.records / "confusion_matrix.png"
                self._draw(plots.plot_confusion, final["test"]["confusion"], names, path)
        self.tell(f"{time.perf_counter() - self.options.began:.0f} s; results are in {self.name}")
        return final

    def _say_if_it_did_not_learn(self, metrics: dict[str, Any]) -> None:
        if evaluation.is_near_chance(metrics):
            found = "has not learned: test accuracy is near chance"
        elif evaluation.has_learned_little(metrics):
            found = f"has learned little: test accuracy is {1 - metrics['error']:.2%}"
        else:
            return
        self.tell(
            f"note: the network {found} (always naming the largest class: {metrics['largest_class']:.2%}). Try a "
            "longer config.duration, another config.optim.learning_rate (--find-lr=FILE.png draws the loss over it) or "
            "the unchanged recipe"
        )

    # ------------------------------------------------------------ files

    def _draw(self, plot: Callable[..., Any], *arguments: Any) -> None:
        """Draws a picture; what goes wrong is printed and costs nothing else."""
        try:
            plot(*arguments)
        except Exception as error:
            self.tell(f"a picture cannot be drawn ({plot.__name__}): {type(error).__name__}: {error}")

    def _check_folder(self) -> None:
        """Raises UserError if the folder is no longer the one that the run began in, or another run holds it."""
        if files.inode(self.records) != self.inode:
            raise FolderGoneError(self.name)
        if files.inode(self.records / ".lock") not in (None, self.lock):
            raise UserError(
                f"{self.name} is in use by another run: somebody removed the .lock of this run. "
                "It stops, so that the two do not write into each other's files"
            )

    def _write(self, kind: str, step: int, metrics: dict[str, Any]) -> None:
        self._check_folder()
        self.recorder.write(kind, step, step / self.setup.steps_per_epoch, **metrics)

    def _write_layers(self, state: TrainState, when: str) -> None:
        """Writes what `diagnostics.examine` finds of the first batch under "first" or "last" of layers.json."""
        path = self.records / "layers.json"
        found = files.read_json(path) if when == "last" and path.exists() else {}
        found[when] = self._examine(state, self._first_batch)
        files.write_text(path, json.dumps(jsonable(found), indent=1) + "\n")


def ahead(batches: Iterable[Any], count: int = 2) -> Iterator[Any]:
    """Yields `batches`, asking for `count` more than were taken: their transfer overlaps with the step before."""
    queue: list[Any] = []
    for batch in batches:
        queue.append(batch)
        if len(queue) > count:
            yield queue.pop(0)
    yield from queue
