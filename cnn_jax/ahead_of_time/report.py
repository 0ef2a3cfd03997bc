"""What `cnn_jax preflight` prints: one configuration on one screen, or several side by side."""

import shlex
from collections.abc import Sequence
from typing import Any

from cnn_jax.ahead_of_time.compiling import compiler
from cnn_jax.ahead_of_time.examination import STORAGE, Examination, Step
from cnn_jax.ahead_of_time.targets import Target
from cnn_jax.display.tables import Share, Sheet, Short, human

RECOMPUTED = 1.05  # FLOPs / (6 x MACs) above which XLA computes something twice


def lines(found: Examination, arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the lines of one screen: (heading, text).

    Args:
      arguments: the options of training, for the launch command.
    """
    target, config, train = found.target, found.config, found.train
    level = (
        "as training compiles"
        if found.thorough or target.chip.kind == "gpu"
        else "quick: estimates of time are too high; --thorough compiles as training does"
    )
    seconds = sum(step.account.seconds for step in (train, found.evaluation, found.protocol) if step)
    rows = [
        ("target", f"{target.describe()} ({target.name}); {compiler(target)}"),
        ("", f"compiled in {seconds:.0f} s ({level})"),
        (
            "training",
            f"{config.model.name} on {config.data.name}, batches of {config.batch_size:,} = "
            f"{config.batch_size / target.count:g} a device, {config.precision}, mesh {config.mesh.preset}"
            + (f" with model={config.mesh.model}" if config.mesh.model > 1 else ""),
        ),
        ("fits", _fits(train)),
        ("", _parts(train)),
        ("", _largest(found)),
        ("compute", _compute(found)),
        ("speed", _speed(found)),
        *_exchanged(train),
        ("input", _input(found)),
        ("evaluation", _fits(found.evaluation)),
    ]
    if found.protocol:
        rows.append(("", f"{found.protocol.program.name}: {_fits(found.protocol)}"))
    rows += [
        ("checkpoint", f"{human(found.checkpoint)}B, {found.checkpoint / STORAGE:.2g} s at {human(STORAGE)}B/s"),
        ("launch", command(target, arguments)),
    ]
    return rows


def _fits(step: Step) -> str:
    memory = step.memory
    if not step.compiles:
        needed = f"{human(step.account.needed)}B of temporaries" if step.account.needed else "more"
        return f"NO: the compiler refuses it, because it needs {needed}; a device has {human(memory.limit)}B"
    answer = "yes" if step.fits else "NO"
    share = memory.total / memory.limit
    return f"{answer}: {human(memory.total)}B of {human(memory.limit)}B on each device, {share:.1%}"


def _parts(step: Step) -> str:
    memory = step.memory
    resident = f"images of all parts {human(memory.resident)}B, " if memory.resident else ""
    copied = f" (of which {human(step.not_donated)}B are NOT donated)" if step.compiles and step.not_donated else ""
    return (
        f"state {human(memory.state)}B{copied}, {resident}batch {human(memory.batch)}B, "
        f"temporaries {human(memory.temporaries)}B, padding {human(memory.padding)}B, program {human(memory.program)}B"
    )


def _largest(found: Examination) -> str:
    if found.largest is None:
        return "the largest batch that fits: not known; --largest-batch compiles others"
    if found.is_compiled:
        return f"the largest batch that fits: {found.largest:,}, found by compiling"
    if found.largest == 0:
        return "the largest batch that fits: none, by this estimate"
    return f"the largest batch that fits: about {found.largest:,}, an estimate; --largest-batch finds it by compiling"


def _compute(found: Examination) -> str:
    train = found.train
    model = f"6 x MACs of the layers are {human(train.model_flops)}FLOPs a device and step"
    types = train.account.convolutions or {}
    convolutions = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(types.items())) or "none"
    if train.account.flops is None:
        return f"{model}; this compiler counts none; convolutions: {convolutions}"
    ratio = train.account.flops / train.model_flops
    again = "; XLA computes a part twice to fit" if ratio > RECOMPUTED else ""
    return f"{human(train.account.flops)}FLOPs, {ratio:.2f} of 6 x MACs{again}; convolutions: {convolutions}"


def _speed(found: Examination) -> str:
    chip = found.target.chip
    least = found.train.model_flops / chip.peak
    seconds, speed = found.train.seconds(found.target), found.speed
    if seconds is None or speed is None or found.utilization is None:
        cycles = found.train.account.cycles
        known = f"{human(cycles)}cycles, of a clock that is not published; " if cycles else ""
        return (
            f"no estimate: {known}at the peak of {chip.peak / 1e12:.0f} TFLOP/s a step would take "
            f"{1000 * least:.3g} ms; it takes several times as long"
        )
    return (
        f"estimate: {1000 * seconds:.3g} ms a step without communication, {human(speed)}images/s, "
        f"{found.utilization:.0%} of {chip.peak / 1e12:.0f} TFLOP/s (nothing has run)"
    )


def _exchanged(train: Step) -> list[tuple[str, str]]:
    if train.devices == 1:
        return []
    rows = [
        f"{row.count} {row.kind} of {row.dtype}, {human(row.bytes)}B, {row.overlapped} of them overlapped"
        for row in train.account.exchanges
    ]
    host = f"{train.account.host_transfers} transfers to or from the host" if train.account.host_transfers else ""
    found = [*rows, *([host] if host else [])] or ["nothing"]
    return [("exchanged" if i == 0 else "", text) for i, text in enumerate(found)]


def _input(found: Examination) -> str:
    if not found.image_bytes:
        return "images stay on the devices: a step takes their numbers only"
    each = f"{human(found.image_bytes)}B an image"
    if found.speed is None:
        return f"{each}, decoded and cropped"
    rate, hosts = found.speed, found.target.hosts
    return (
        f"{human(rate * found.image_bytes)}B/s of decoded images ({each}), {human(rate / hosts)}images/s on each "
        "machine, to keep up with that estimate"
    )


def command(target: Target, arguments: Sequence[str]) -> str:
    """Returns the command that trains on a target: launch/README.md says what the scripts need."""
    given = " ".join(map(shlex.quote, arguments))
    if target.hosts == 1:
        return f"cnn_jax train {given}"
    if target.chip.kind == "tpu":
        return f"TPU=NAME ZONE=ZONE TOPOLOGY={target.name} launch/tpu_pod.sh {given} --workdir=FOLDER"
    each = target.count // target.hosts
    options = f"--nodes={target.hosts} --ntasks-per-node={each} --gpus-per-node={each}"
    return f"sbatch {options} launch/slurm.sh {given}"


def comparison(found: Sequence[tuple[str, Examination]]) -> Sheet:
    """Returns the table of several configurations, each with what distinguishes it."""
    headings = (
        *("configuration", "target", "batch", "mesh", "fits", "memory", "state", "temporaries", "FLOPs / 6 MACs"),
        *("exchanged", "collectives", "est. ms", "est. images/s", "largest batch"),
    )
    rows = [(name, *_row(one)) for name, one in found]
    return Sheet("Bytes and FLOPs of each device; est.: the compiler's estimate, without communication", headings, rows)


def _row(found: Examination) -> tuple[Any, ...]:
    train = found.train
    seconds = train.seconds(found.target)
    flops = train.account.flops
    mesh = found.config.mesh.preset + (f" model={found.config.mesh.model}" if found.config.mesh.model > 1 else "")
    return (
        *(found.target.name, found.config.batch_size, mesh, "yes" if found.fits else "no"),
        *(Share(train.memory.total / train.memory.limit), Short(train.memory.state), Short(train.memory.temporaries)),
        round(flops / train.model_flops, 2) if flops else None,
        Short(sum(row.bytes for row in train.account.exchanges)),
        sum(row.count for row in train.account.exchanges),
        1000 * seconds if seconds else None,
        Short(found.speed) if found.speed else None,
        found.largest,
    )
