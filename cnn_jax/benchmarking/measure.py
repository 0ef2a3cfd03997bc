"""Training speed, compile time, memory and the machine's peak.

The contenders run in turn, `ROUNDS` times each, and the result is the median with the smallest and the largest value.
Every segment starts from the initial parameters and trains on random labels: labels that can be learned would drive
gradients into denormal numbers, which are slow on CPUs.
"""

import functools
import importlib.metadata
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from cnn_jax.benchmarking import baselines, torch_data
from cnn_jax.benchmarking.baselines import Contender
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check
from cnn_jax.data.loader import Batch
from cnn_jax.display import terminal
from cnn_jax.eval import steps as eval_steps
from cnn_jax.parallel import mesh
from cnn_jax.training.session import ahead
from cnn_jax.training.setup import PRECISION, Setup, build
from cnn_jax.training.state import States

ROUNDS = 5
PARTS = ("step", "data", "both", "evaluation", "fused")
DEFAULT = PARTS[:3]
STREAMED_BATCHES = 8  # batches of random images, if the data set is a stream
FUSED = 16  # steps fused into one program
FLOPS_PER_MAC = 2 * 3  # a multiplication and an addition; forward pass, input gradient, parameter gradient


def benchmark(
    config: Any,
    *,
    only: Sequence[str] = DEFAULT,
    against: str | None = None,
    seconds: float = 2.0,
    progress: Console,
) -> dict[str, Any]:
    """Returns all measurements, as --json prints them; what `only` leaves out is None.

    Args:
      only: one of `PARTS`. against: "flax", "torch", "full" (the step of all parameters) or None; torch's DataLoader is
        measured, too, if "data" is a folder of pictures.
      seconds: of one segment; it has at least two steps.
      progress: the console that shows what is going on, if it is a terminal.

    Raises:
      UserError: see `setup.build` and `baselines`; a loss is not finite.
    """
    check(
        not config.cache_features, "config.cache_features is True: a benchmark computes everything, leave it at False"
    )
    setup = build(config)
    config = setup.config  # it has the number of classes of a folder
    check_comparison(setup, only, against)
    trains = trains_in(only)
    with terminal.waiting(progress, "reading the data and compiling"):
        part = setup.data.parts["train"]
        size = len(part) if part.is_resident else STREAMED_BATCHES * config.batch_size
        examples = random_examples(size, setup.data.image_shape, config.data.num_classes)
        compiled, contenders = ours(setup, examples, compiles=trains)
        contenders = {name: contenders[name] for name in PARTS if name in only}
        counts = {name: calibrate(name, contender, seconds) for name, contender in contenders.items()}
        memory = {"step_bytes": compiled["step_bytes"]} | peak_memory()  # before the reference allocates its own
        references = reference_loops(setup, examples, only, against)
        counts |= {name: calibrate(name, contender, seconds) for name, contender in references.items()}
        contenders |= references
    with terminal.waiting(progress, f"measuring {', '.join(contenders)}: about {seconds * ROUNDS * len(counts):.0f} s"):
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        work: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, contender in contenders.items():
                images = steps_in(name, counts[name]) * config.batch_size
                taken = timed(name, contender, counts[name])
                speeds[name].append(images / taken.seconds)
                work[name].append(taken.cpu_seconds / images)
    with terminal.waiting(progress, "measuring matrix products"):
        peak = matmul_peak(config.precision, seconds) if trains else None

    device = jax.devices()[0]
    flops = FLOPS_PER_MAC * sum(row.macs for row in setup.layers)
    speed = {name: summarize(values) for name, values in speeds.items()}
    trained = speed.get("step") or speed.get("both") or speed.get("fused")
    return {
        "model": config.model.name,
        "data": config.data.name,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": len(jax.devices()),
        "jax_version": jax.__version__,
        "reference": reference_name(against),
        "repeats": ROUNDS,
        "seconds": seconds,
        "steps": counts,
        "images_per_second": {name: speed.get(name) for name in dict.fromkeys((*PARTS, *speed))},
        # CPU time of all threads of this process; decoding workers are left out.
        "cpu_seconds_per_image": {name: summarize(values) for name, values in work.items()},
        "ratios": ratios(speeds, against if trains else None),
        "stream": stream(setup),
        "compile_seconds": compiled["seconds"],
        "memory": memory,
        "flops_per_image": flops,
        "matmul_peak_flops_per_second": peak,
        # A network that is trained in part computes fewer FLOPs.
        "share_of_matmul_peak": trained["median"] * flops / peak
        if trained and peak and setup.trainable.is_all
        else None,
        "config": json.loads(config.to_json()),
    }


def trains_in(only: Sequence[str]) -> bool:
    """Returns whether training steps are measured."""
    return bool({"step", "both", "fused"} & set(only))


def steps_in(name: str, count: int) -> int:
    """Returns how many steps a contender makes for `count`: fused steps come in whole programs."""
    return math.ceil(count / FUSED) * FUSED if name == "fused" else count


def loads_in(setup: Setup, only: Sequence[str], against: str | None) -> bool:
    """Returns whether torch's loader is measured along with ours."""
    return against == "torch" and "data" in only and setup.config.data.source == "folder"


def check_comparison(setup: Setup, only: Sequence[str], against: str | None) -> None:
    """Raises UserError if something to measure has no counterpart in `against`."""
    config, evaluates = setup.config, "evaluation" in only
    check(
        not evaluates or against in (None, "torch"),
        f"--against={against} has no evaluation: measure --only=evaluation alone, or with --against=torch",
    )
    if against in ("flax", "torch") and trains_in(only):
        baselines.check_comparable(config)
    check(
        against != "full" or not setup.trainable.is_all,
        "--against=full compares with the step that trains all parameters, as this one does: set config.trainable",
    )
    check(
        not against or trains_in(only) or loads_in(setup, only, against) or evaluates,
        f"--against={against} has nothing to compare with --only=data of the source {config.data.source!r}: "
        "--against=torch does with the data set 'folder'",
    )


def reference_loops(setup: Setup, examples: Batch, only: Sequence[str], against: str | None) -> dict[str, Contender]:
    """Returns the contenders that are measured along with ours, by name."""
    config, part, found = setup.config, setup.data.parts["train"], {}
    if loads_in(setup, only, against):
        found["torch data"] = torch_data.loader(part, config)
    if against == "torch" and (trains_in(only) or "evaluation" in only):
        loops = baselines.torch_loops(setup, examples)
        if trains_in(only):
            found["torch"] = loops["training"]
        if "evaluation" in only:
            found["torch evaluation"] = loops["evaluation"]
    elif against == "flax" and trains_in(only):
        found["flax"] = baselines.flax_loop(setup, host_batches(setup), examples if part.is_resident else None)
    elif against == "full" and trains_in(only):
        everything = config.copy_and_resolve_references()
        everything.update(trainable="full", take="all")
        found["full"] = ours(build(everything), examples, compiles=False)[1]["step"]
    return found


def reference_name(against: str | None) -> str | None:
    """Returns the reference in words."""
    if against == "full":
        return "full: the step that trains all parameters"
    return f"{against} {importlib.metadata.version(against)}" if against else None


# ---------------------------------------------------------------- what is measured


def random_examples(size: int, image_shape: Sequence[int], num_classes: int) -> Batch:
    """Returns {"image": uint8 [size, H, W, C] of 1..255, "label": int32 [size]}, NumPy arrays."""
    random = np.random.default_rng(0)
    image = random.integers(1, 256, (size, *image_shape), np.uint8)
    return {"image": image, "label": random.integers(num_classes, size=size, dtype=np.int32)}


def stream(setup: Setup) -> dict[str, Any] | None:
    """Returns how a streamed training part is read and how much is held in memory at most; None for a resident part.

    {"workers", "scaled_decoding", "held_batches", "held_bytes"}; besides, each worker holds one decoded example.
    """
    part, data = setup.data.parts["train"], setup.config.data
    if part.is_resident:
        return None
    image_bytes = math.prod(setup.data.image_shape) * setup.data.bytes_per_value
    held_bytes = part.held_batches * len(part.rows(setup.config.batch_size)) * image_bytes
    found = {"workers": data.workers, "scaled_decoding": data.scaled_decoding}
    return found | {"held_batches": part.held_batches, "held_bytes": held_bytes}


def host_batches(setup: Setup) -> Callable[[int], Iterator[Batch]]:
    """Returns steps -> that many batches of the input pipeline; every call continues where the last one ended.

    A resident part gives indices, a stream the data set's images with random labels.
    """
    part, size = setup.data.parts["train"], setup.config.batch_size
    random = np.random.default_rng(1)
    done = 0

    def batches(count: int) -> Iterator[Batch]:
        nonlocal done
        done += count
        for batch in part.train_batches(done - count, done, size):
            labels = random.integers(setup.config.data.num_classes, size=size, dtype=np.int32)
            yield batch if part.is_resident else batch | {"label": labels}

    return batches


def ours(setup: Setup, examples: Batch, *, compiles: bool) -> tuple[dict[str, Any], dict[str, Contender]]:
    """Returns the result of `compilation` for the step, and the contenders of `PARTS` (see `baselines`).

    Args:
      examples: the random ones; all of them stay on the devices if the part is resident.
      compiles: False leaves compilation out.
    """
    resident = setup.data.parts["train"].is_resident
    images = mesh.replicate(eval_steps.in_rows(examples), setup.mesh) if resident else None
    batches = host_batches(setup)
    batch = next(batches(1))
    if not resident:
        batch |= {name: array[: setup.config.batch_size] for name, array in examples.items()}
    batch = setup.put(batch)
    states = States(setup)
    train_step = setup.train_step(states.shardings)
    compiled: dict[str, Any] = {"seconds": None, "step_bytes": None}
    if compiles:
        compiled = compilation(train_step, jax.block_until_ready(states.create()), batch, images)

    def mean_loss(state: Any) -> Any:
        sums = jax.block_until_ready(state).sums
        return sums["loss"] / sums["examples"]

    def step(state: Any, count: int) -> Any:
        pace = mesh.Pace()
        for _ in range(count):
            state = train_step(state, batch, images)
            pace(state)
        return mean_loss(state)

    @functools.partial(jax.jit, donate_argnums=0)
    def steps_in_one(state: Any, batch: Any, images: Any) -> Any:
        return jax.lax.scan(lambda state, _: (train_step(state, batch, images), None), state, length=FUSED)[0]

    def fused(state: Any, count: int) -> Any:  # the time of a step without the host in between
        for _ in range(math.ceil(count / FUSED)):
            state = steps_in_one(state, batch, images)
        return mean_loss(state)

    def data(_: Any, count: int) -> float:
        for _ in batches(count):  # on the host, as a DataLoader's; the transfer to the device is part of "both"
            pass
        return 0.0

    def both(state: Any, count: int) -> Any:  # as the training loop does it
        pace = mesh.Pace()
        for arrays in ahead(map(setup.put, batches(count))):
            state = train_step(state, arrays, images)
            pace(state)
        return mean_loss(state)

    eval_step = eval_steps.make_eval_step(setup.network, **setup.data.normalization, confusion=False)
    size = setup.config.batch_size
    arrays = {name: array[:size] for name, array in examples.items()} | {"mask": np.ones(size, np.float32)}
    tested = setup.put(arrays)

    def evaluation(state: Any, count: int) -> Any:
        others = trees.merged(state.stats, state.frozen)
        pace, sums = mesh.Pace(), []
        for _ in range(count):
            sums.append(eval_step(state.params, others, tested, None))
            pace(sums[-1])
        return sum(float(one["loss"] / one["examples"]) for one in sums) / count

    return compiled, {
        "evaluation": (states.create, evaluation),
        "fused": (states.create, fused),
        "step": (states.create, step),
        "data": (lambda: None, data),
        "both": (states.create, both),
    }


def compilation(train_step: Any, *arguments: Any) -> dict[str, Any]:
    """Compiles without the persistent cache; returns {"seconds": {"trace_and_lower", "compile"}, "step_bytes"}.

    Bytes are XLA's account for one device, or None: arguments + temporaries + outputs that do not share memory with
    arguments.
    """
    was_enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax reads the configuration only once
    try:
        started = time.perf_counter()
        lowered = train_step.lower(*arguments)
        traced = time.perf_counter()
        compiled = lowered.compile()
        done = time.perf_counter()
    finally:
        jax.config.update("jax_enable_compilation_cache", was_enabled)
        compilation_cache.reset_cache()
    account = compiled.memory_analysis()
    step_bytes = account and (
        account.argument_size_in_bytes
        + account.output_size_in_bytes
        - account.alias_size_in_bytes
        + account.temp_size_in_bytes
    )
    return {
        "seconds": {"trace_and_lower": traced - started, "compile": done - traced},
        "step_bytes": step_bytes,
    }


def peak_memory() -> dict[str, Any]:
    """Returns {"peak_bytes", "peak_of"}: the peak memory of a device, or of this process if jax does not know it."""
    used = [stats["peak_bytes_in_use"] for device in jax.devices() if (stats := device.memory_stats())]
    if used:
        return {"peak_bytes": max(used), "peak_of": "the fullest device"}
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_bytes": peak, "peak_of": "the process (resident size)"}


def matmul_peak(precision: str, seconds: float) -> float:
    """Returns the fastest product of square matrices on one device times the devices, FLOP/s; takes about `seconds`."""
    sizes = (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
    best = 0.0
    for size in sizes:
        matrix = jax.random.normal(jax.random.key(0), (size, size), PRECISION[precision])
        product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
        jax.block_until_ready(product(matrix, matrix))
        until = time.perf_counter() + seconds / len(sizes)
        repeats = 0
        while repeats < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            jax.block_until_ready([product(matrix, matrix) for _ in range(3)])
            best = max(best, 3 * 2 * size**3 / (time.perf_counter() - started))
            repeats += 1
    return best * len(jax.devices())


# ---------------------------------------------------------------- how it is measured


class Taken(NamedTuple):
    """What steps took: time, and CPU time of all threads of this process."""

    seconds: float
    cpu_seconds: float


def timed(name: str, contender: Contender, count: int) -> Taken:
    """Returns what `count` steps of a contender take; raises UserError if their mean loss is not finite."""
    begin, steps = contender
    state = jax.block_until_ready(begin())
    steps(begin(), 1)  # so that memory and caches are as in the middle of a run, not as another contender left them
    started, worked = time.perf_counter(), time.process_time()
    loss = steps(state, count)
    taken = Taken(time.perf_counter() - started, time.process_time() - worked)
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of {name!r} is {float(loss)} after {count:,} steps: its speed says nothing. A lower "
            "--config.optim.learning_rate may help"
        )
    return taken


def calibrate(name: str, contender: Contender, seconds: float) -> int:
    """Returns how many steps take about `seconds`, at least 2; compiles and warms up."""
    count = 2
    timed(name, contender, count)
    while (taken := timed(name, contender, count).seconds) < seconds / 4:
        count *= 2
    return max(2, round(count * seconds / taken))


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the smallest and the largest of `values`."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(speeds: dict[str, list[float]], against: str | None) -> dict[str, dict[str, float] | None]:
    """Returns ratios of speeds, taken within each round; None where a part was not measured."""
    slower = [min(pair) for pair in zip(speeds.get("step", ()), speeds.get("data", ()), strict=False)]
    known = speeds | {"min(step, data)": slower}
    pairs = [("both", "step"), ("both", "min(step, data)")]
    pairs += [("fused", "step")] if "fused" in known else []
    pairs += [("step", against), ("both", against)] if against else []
    pairs += [(part, f"torch {part}") for part in ("data", "evaluation") if f"torch {part}" in known]
    result: dict[str, dict[str, float] | None] = {}
    for top, bottom in pairs:
        values = [a / b for a, b in zip(known.get(top, ()), known.get(bottom, ()), strict=False)]
        result[f"{top}/{bottom}"] = summarize(values) if values else None
    return result
