"""The training loop, and evaluation of what it saved: config -> data -> model -> step -> checkpoints and metrics."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from cnn_jax import config as config_lib
from cnn_jax import evaluate, models, optim, report, step, summary
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.data import pipeline
from cnn_jax.errors import UserError, check
from cnn_jax.metrics import Recorder, progress_bar

PRECISION = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Fields that a run may change when it goes on: what is printed and kept, not what is computed.
CHANGEABLE = ("log", "checkpoint", "data.dir", "data.workers", "eval.confusion_matrix")


@dataclass
class Run:
    """What a configuration builds: everything but the parameters."""

    config: Any
    data: pipeline.Data
    mesh: jax.sharding.Mesh
    create_model: Callable[..., Any]
    rows: list[summary.LayerRow]
    network: step.Network
    create_state: Callable[[], step.TrainState]
    schedule: optim.Schedule
    optimizer: Any
    total_steps: int
    to_steps: Callable[..., int]

    @property
    def steps_per_epoch(self) -> float:
        return len(self.data.parts["train"]) / self.config.batch_size

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, batch: Any) -> Any:
        """Places a batch on the devices, split along its first axis."""
        return jax.device_put(batch, NamedSharding(self.mesh, PartitionSpec("data")))

    def resident(self, part: str) -> Any:
        """Returns the images of a part on the devices, or None if they are streamed."""
        images = self.data.parts[part].resident
        return None if images is None else jax.device_put(images, self.replicated)


def build(config: Any) -> Run:
    """Checks `config`, opens its data and traces its network; computes nothing.

    Raises:
      UserError: an impossible value, a data set that is not there, an image that is too small for the network.
    """
    config_lib.check_config(config)
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    for field in ("batch_size", "eval.batch_size"):
        size, micro = config_lib.get(config, field), config.accumulation if field == "batch_size" else 1
        unit = len(devices) * micro
        check(
            size % unit == 0,
            f"config.{field} is {size}, but must be divisible by {len(devices)} devices x {micro} micro-batches: "
            f"the nearest are {max(unit, size // unit * unit)} and {(size // unit + 1) * unit}",
        )

    data = pipeline.Data(config.data, config.seed)
    create_model = partial(
        models.create,
        config.model.name,
        num_classes=config.data.num_classes,
        input_shape=data.image_shape,
        dtype=PRECISION[config.precision],
        **config_lib.model_fields(config),
    )
    rows = summary.layer_table(create_model, data.image_shape)

    to_steps = partial(config_lib.to_steps, batch_size=config.batch_size, num_examples=len(data.parts["train"]))
    total_steps = to_steps(config.duration)
    network, abstract_params, _ = step.split(jax.eval_shape(lambda: create_model()))
    optimizer = optim.make_optimizer(config.optim, abstract_params)
    schedule = optim.make_schedule(config.optim, total_steps, to_steps)

    def create_state() -> step.TrainState:
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        _, params, stats = step.split(create_model(seed=key))
        return step.create_state(params, stats, optimizer, ema=config.ema_decay > 0)

    return Run(
        config, data, mesh, create_model, rows, network, create_state, schedule, optimizer, total_steps, to_steps
    )


def run(config: Any, workdir: Path, *, dry_run: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Trains as `config` says and returns the final metrics: {"validation": ..., "test": ...}.

    `workdir` receives config.json, summary.txt, metrics.jsonl, TensorBoard files, checkpoints and curves.png. If it
    has a checkpoint, training goes on from the latest.

    Raises:
      UserError: see `build`; or `workdir` holds a run of another configuration.
    """
    console = console or Console()
    started = time.perf_counter()

    # ------------------------------------------------------------ build
    this = build(config)
    print_header(this, workdir, console)
    if dry_run:
        return {}
    prepare_workdir(config, workdir)
    with (workdir / "summary.txt").open("w", encoding="utf-8") as file:
        summary.write_table(this.rows, Console(file=file, width=120), title=config.model.name)

    data, total_steps = this.data, this.total_steps
    has_validation = "validation" in data.parts
    log_every, eval_every, save_every = (
        this.to_steps(duration) for duration in (config.log.every, config.eval.every, config.checkpoint.every)
    )
    train_step = step.make_train_step(
        this.network,
        this.optimizer,
        this.schedule,
        augmentations=config.data.augment,
        seed=config.seed,
        label_smoothing=config.label_smoothing,
        accumulation=config.accumulation,
        ema_decay=config.ema_decay,
        **data.normalization,
    )
    eval_step = step.make_eval_step(this.network, **data.normalization, confusion=config.eval.confusion_matrix)

    # ------------------------------------------------------------ restore
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    latest = checkpoints.latest()
    if latest is None:
        state = jax.jit(this.create_state, out_shardings=this.replicated)()
    else:
        like = jax.eval_shape(this.create_state)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=this.replicated), like)
        state = checkpoints.restore(latest, like)
        console.print(f"going on from the checkpoint at step {latest:,} of {total_steps:,}")
    first_step = int(state.step)
    recorder = Recorder(workdir, step=first_step, tensorboard=config.log.tensorboard)

    # ------------------------------------------------------------ train
    train_part, train_images = data.parts["train"], this.resident("train")
    held_out_images = {part: this.resident(part) for part in data.parts if part != "train"}
    final: dict[str, Any] = {}
    marked, marked_step = time.perf_counter(), first_step  # since when images/s count

    def validate(state: step.TrainState) -> dict[str, Any]:
        params, stats = evaluated_arrays(state)
        part = data.parts["validation"]
        return evaluate.evaluate(
            eval_step, params, stats, part, held_out_images["validation"], config.eval.batch_size, this.put
        )

    with progress_bar(console) as bar:
        epochs = total_steps / this.steps_per_epoch
        task = bar.add_task("train", total=total_steps, completed=first_step, epoch=0.0, epochs=epochs, numbers="")
        batches = train_part.train_batches(first_step, total_steps, config.batch_size)
        for done, batch in enumerate(ahead(map(this.put, batches)), start=first_step + 1):
            state = train_step(state, batch, train_images)
            epoch = done / this.steps_per_epoch
            bar.update(task, completed=done, epoch=epoch)
            if done == first_step + 1:
                jax.block_until_ready(state.step)
                console.print(f"first step after {time.perf_counter() - started:.1f} s")
                marked, marked_step = time.perf_counter(), done
            last = done == total_steps

            if done % log_every == 0 or last:
                sums = jax.device_get(state.sums)
                state = step.replace(state, sums=jax.device_put(step.zero_sums(), this.replicated))
                seconds = time.perf_counter() - marked
                metrics = dict(
                    loss=float(sums["loss"] / sums["examples"]),
                    error=float(1 - sums["correct"] / sums["examples"]),
                    learning_rate=float(this.schedule(jnp.int32(done - 1)) * state.plateau.scale),
                    gradient_norm=float(sums["gradient_norm"] / sums["steps"]),
                )
                speed = (done - marked_step) * config.batch_size / seconds
                recorder.write("train", done, epoch, **metrics, images_per_second=round(speed, 1))
                numbers = f"loss {metrics['loss']:.3f}, accuracy {1 - metrics['error']:.1%}, {speed:,.0f} images/s"
                bar.update(task, numbers=numbers)
                marked, marked_step = time.perf_counter(), done

            if has_validation and (done % eval_every == 0 or last):
                paused = time.perf_counter()
                final["validation"] = validate(state)
                write_evaluation(recorder, "validation", done, epoch, final["validation"])
                error = final["validation"]["error"]
                if config.optim.schedule.name == "plateau":
                    plateau = state.plateau.update(error, config.optim.schedule)
                    state = step.replace(state, plateau=jax.device_put(plateau, this.replicated))
                console.print(f"epoch {epoch:5.1f}  {describe('validation', final['validation'])}", highlight=False)
                marked += time.perf_counter() - paused

            if done % save_every == 0 or last:
                paused = time.perf_counter()
                validated = has_validation and (done % eval_every == 0 or last)
                checkpoints.save(done, state, error=final["validation"]["error"] if validated else None)
                report.plot_curves(workdir)
                marked += time.perf_counter() - paused

    # ------------------------------------------------------------ test
    if first_step == total_steps and has_validation:
        final["validation"] = validate(state)
    final["test"] = test(this, state, eval_step, train_images, held_out_images["test"])
    if first_step < total_steps:
        write_evaluation(recorder, "test", total_steps, epochs, final["test"])
    recorder.close()
    checkpoints.close()
    report.plot_curves(workdir)
    if "confusion" in final["test"]:
        report.plot_confusion(final["test"]["confusion"], data.class_names, workdir / "confusion_matrix.png")
    print_results(final, console)
    console.print(f"{time.perf_counter() - started:.0f} s; results are in {workdir}")
    return final


def evaluate_run(config: Any, workdir: Path, which: str, *, console: Console | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint of `workdir` ("latest", "best" or a step) on validation and test part.

    Appends the numbers to WORKDIR/evaluations.jsonl and returns them as `run` does.

    Raises:
      UserError: there is no such checkpoint.
    """
    console = console or Console()
    check((workdir / "checkpoints").is_dir(), f"{workdir} has no checkpoints: train first, with --workdir={workdir}")
    checkpoints = Checkpoints(workdir)
    chosen = checkpoints.select(which)
    this = build(config)
    like = jax.eval_shape(this.create_state)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=this.replicated), like)
    state = checkpoints.restore(chosen, like)
    checkpoints.close()
    eval_step = step.make_eval_step(this.network, **this.data.normalization, confusion=config.eval.confusion_matrix)
    final = {}
    if "validation" in this.data.parts:
        params, stats = evaluated_arrays(state)
        final["validation"] = evaluate.evaluate(
            eval_step,
            params,
            stats,
            this.data.parts["validation"],
            this.resident("validation"),
            config.eval.batch_size,
            this.put,
        )
    train_images = this.resident("train") if config.eval.recompute_statistics else None
    final["test"] = test(this, state, eval_step, train_images, this.resident("test"))
    with (workdir / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        for part, metrics in final.items():
            file.write(json.dumps({"kind": part, "step": chosen} | scalars(metrics)) + "\n")
    if "confusion" in final["test"]:
        report.plot_confusion(final["test"]["confusion"], this.data.class_names, workdir / "confusion_matrix.png")
    console.print(f"{config.model.name} at step {chosen:,} of {workdir}")
    print_results(final, console)
    return final


def test(this: Run, state: step.TrainState, eval_step: Callable, train_images: Any, images: Any) -> dict[str, Any]:
    """Returns the metrics on the test part, with recomputed BatchNorm statistics if the configuration asks for them."""
    params, stats = evaluated_arrays(state)
    config, parts = this.config, this.data.parts
    if config.eval.recompute_statistics and jax.tree.leaves(stats):
        statistics_step = step.make_statistics_step(this.network, **this.data.normalization)
        stats = evaluate.recompute_statistics(
            statistics_step,
            params,
            stats,
            parts["train"],
            train_images,
            config.batch_size,
            config.eval.recompute_statistics,
            this.put,
        )
    return evaluate.evaluate(eval_step, params, stats, parts["test"], images, config.eval.batch_size, this.put)


def evaluated_arrays(state: step.TrainState) -> tuple[Any, Any]:
    """Returns the (parameters, statistics) that evaluation uses: the moving average if there is one."""
    return (state.params, state.stats) if state.ema is None else (state.ema["params"], state.ema["stats"])


def ahead(batches: Iterator[Any], count: int = 2) -> Iterator[Any]:
    """Yields `batches`, asking for `count` more than were taken: their transfer overlaps with the step before."""
    queue: list[Any] = []
    for batch in batches:
        queue.append(batch)
        if len(queue) > count:
            yield queue.pop(0)
    yield from queue


# ---------------------------------------------------------------- the folder of a run


def prepare_workdir(config: Any, workdir: Path) -> None:
    """Makes `workdir` and writes config.json, or checks that the one there computes the same.

    Raises:
      UserError: the folder cannot be written, or holds a run of another configuration; the message shows what differs.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from None
    if not os.access(workdir, os.W_OK):
        raise UserError(f"--workdir={workdir} cannot be written")
    path = workdir / "config.json"
    new = json.loads(config.to_json())
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        before, after = flat(old), flat(new)
        differing = [
            f"  config.{field}: {before.get(field, 'absent')!r} in the folder, {after.get(field, 'absent')!r} now"
            for field in sorted(before | after)
            if before.get(field) != after.get(field) and not field.startswith(CHANGEABLE)
        ]
        if differing:
            raise UserError(
                f"{workdir} holds a run of another configuration:\n" + "\n".join(differing) + "\n"
                "Give these fields as they were to go on with it, or another --workdir for a new run."
            )
    partial_path = workdir / "config.json.partial"
    partial_path.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    partial_path.replace(path)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with dotted names."""
    fields = {}
    for name, value in tree.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields


# ---------------------------------------------------------------- what is shown


def print_header(this: Run, workdir: Path, console: Console) -> None:
    """Prints what will run, before it does."""
    config, data = this.config, this.data
    parameters, macs = sum(row.parameters for row in this.rows), sum(row.macs for row in this.rows)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())
    height, width, channels = data.image_shape
    devices = jax.devices()
    copies = 3 + (1 if config.ema_decay else 0)  # parameters, gradient, momentum
    resident_bytes = sum(len(part) * math.prod(data.image_shape) for part in data.parts.values() if part.is_resident)
    memory = summary.training_bytes(
        this.rows,
        images=config.batch_size // len(devices) // config.accumulation,
        bytes_per_value=jnp.dtype(PRECISION[config.precision]).itemsize,
        copies_of_parameters=copies,
        resident_bytes=resident_bytes,
    )
    shape = config_lib.model_fields(config)
    changed = {name: value for name, value in shape.items() if models.fields(config.model.name)[name] != value}
    epochs = this.total_steps / this.steps_per_epoch
    lines = {
        "data": f"{config.data.name}: {data.description}",
        "": f"{sizes}; {config.data.num_classes} classes; images {height}x{width}x{channels}",
        "model": f"{config.model.name}: {parameters:,} parameters, {summary.human(macs)}MACs per image"
        + "".join(f", {name}={value}" for name, value in changed.items()),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {config.precision}",
        "training": f"{this.total_steps:,} steps of {config.batch_size} = {epochs:.4g} epochs; recipe: {config.recipe}",
        "memory": f"about {summary.human(memory)}B on each device (estimate)",
        "results": str(workdir),
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in lines.items():
        grid.add_row(f"[bold]{name}[/bold]", value)
    console.print(grid, highlight=False)


def describe(name: str, metrics: dict[str, Any]) -> str:
    return f"{name}: accuracy {1 - metrics['error']:.2%}, loss {metrics['loss']:.4f}"


def print_results(final: dict[str, Any], console: Console) -> None:
    """Prints the short table at the end."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("examples", "top-1 accuracy", "top-5 accuracy", "loss"):
        table.add_column(heading, justify="right")
    for part, metrics in final.items():
        accuracies = (f"{1 - metrics[name]:.2%}" for name in ("error", "top5_error"))
        table.add_row(part, f"{metrics['examples']:,}", *accuracies, f"{metrics['loss']:.4f}")
    console.print(table, highlight=False)


def scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns the metrics that a record holds: numbers, and the accuracy of each class."""
    return {
        name: np.round(value, 6).tolist() if isinstance(value, np.ndarray) else value
        for name, value in metrics.items()
        if name != "confusion"
    }


def write_evaluation(recorder: Recorder, kind: str, done: int, epoch: float, metrics: dict[str, Any]) -> None:
    recorder.write(kind, done, epoch, **scalars(metrics))
