"""What the compiler's accounts say about a configuration: memory, speed, input, checkpoints, the largest batch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax

from cnn_jax.ahead_of_time.compiling import Account, compile_for, compiler
from cnn_jax.ahead_of_time.programs import Program, Programs
from cnn_jax.ahead_of_time.targets import Target, devices

STORAGE = 1e9  # assumed speed of writing a checkpoint, bytes/s


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. padding: of the arguments' layouts. program: its code. limit: what programs may use."""

    state: int
    batch: int
    resident: int
    padding: int
    temporaries: int
    program: int
    limit: int

    @property
    def total(self) -> int:
        return self.state + self.batch + self.resident + self.padding + self.temporaries + self.program


@dataclass(frozen=True)
class Step:
    """One compiled program. macs: of one image. devices: how many share its images."""

    program: Program
    account: Account
    memory: Memory
    macs: int
    devices: int

    @property
    def compiles(self) -> bool:
        return self.account.arguments > 0

    @property
    def fits(self) -> bool:
        return self.compiles and self.memory.total <= self.memory.limit

    @property
    def not_donated(self) -> int:
        """Bytes of the state that training copies instead of donating; a few kilobytes do not count."""
        rest = self.program.state - self.account.donated
        return rest if self.program.passes == 3 and rest > 4096 else 0

    @property
    def model_flops(self) -> float:
        """FLOPs of one device according to the layer table: 2 x MACs for each pass, three passes in training."""
        return 2 * self.program.passes * self.macs * self.program.images / self.devices

    def seconds(self, target: Target) -> float | None:
        """Returns the compiler's estimate of the step time, without communication; None if there is none."""
        cycles, clock = self.account.cycles, target.chip.clock
        return cycles / clock if cycles and clock else None


@dataclass(frozen=True)
class Examination:
    """A configuration for a target. largest: the largest batch that fits. is_compiled: found by compiling, not
    estimated.

    parameters, statistics: their numbers. checkpoint: bytes of all arrays of a state. image_bytes: of an example as the
      devices receive it. estimate: of the memory of a device in training, without a compiler, bytes.
    """

    target: Target
    thorough: bool
    config: Any
    train: Step
    evaluation: Step
    protocol: Step | None
    parameters: int
    statistics: int
    checkpoint: int
    image_bytes: int
    largest: int | None
    is_compiled: bool
    estimate: int

    @property
    def fits(self) -> bool:
        """Whether training and evaluation both fit."""
        return all(step.fits for step in (self.train, self.evaluation, self.protocol) if step is not None)

    @property
    def speed(self) -> float | None:
        """Images/s of training on all devices, by the compiler's estimate."""
        seconds = self.train.seconds(self.target)
        return self.config.batch_size / seconds if seconds else None

    @property
    def utilization(self) -> float | None:
        """Share of the peak that `speed` would be."""
        seconds = self.train.seconds(self.target)
        return self.train.model_flops / seconds / self.target.chip.peak if seconds else None

    def as_json(self) -> dict[str, Any]:
        """Returns all numbers for JSON; bytes, seconds and FLOPs are those of one device."""
        config, target = self.config, self.target
        steps = {"training": self.train, "evaluation": self.evaluation, "protocol": self.protocol}
        return {
            "network": config.model.name,
            "data": config.data.name,
            "target": target.name,
            "chip": {"title": target.chip.title, **asdict(target.chip), "memory": target.chip.memory},
            "devices": target.count,
            "machines": target.hosts,
            "compiler": compiler(target),
            "level": "thorough" if self.thorough or target.chip.kind == "gpu" else "quick",
            "batch_size": config.batch_size,
            "parameters": self.parameters,
            "statistics": self.statistics,
            "macs": self.train.macs,
            "precision": config.precision,
            "mesh": {"preset": config.mesh.preset, "model": config.mesh.model},
            "fits": self.fits,
            "steps": {name: _step_json(step, target) for name, step in steps.items() if step is not None},
            "estimate": {
                "images_per_second": self.speed,
                "utilization": self.utilization,
                "memory_without_compiler": self.estimate,
            },
            "input_bytes_per_image": self.image_bytes,
            "checkpoint_bytes": self.checkpoint,
            "largest_batch": self.largest,
            "largest_batch_was_compiled": self.is_compiled,
        }


def _step_json(step: Step, target: Target) -> dict[str, Any]:
    return {
        "images": step.program.images,
        "compiles": step.compiles,
        "fits": step.fits,
        "memory": asdict(step.memory) | {"total": step.memory.total},
        "model_flops": step.model_flops,
        "estimated_seconds": step.seconds(target),
        **asdict(step.account),
    }


def examine(config: Any, target: Target, *, thorough: bool = False, search: bool = False) -> Examination:
    """Compiles the steps of training and evaluation for a target. No example is read and no array made.

    Args:
      thorough: compile as training does. search: compile for other batch sizes until the largest that fits is known.

    Raises:
      UserError: see `setup.build`, `targets.devices` and `compiling.compile_for`.
    """
    chips = devices(target)
    programs = Programs(config, chips)
    config = programs.config
    macs = sum(row.macs for row in programs.setup.layers)
    resident = _resident_bytes(programs)

    def step(program: Program) -> Step:
        account = compile_for(program, target, thorough=thorough)
        # The state stays during evaluation, and the images of all parts after the first one.
        state = programs.states.bytes()
        padding = max(0, account.arguments - program.state - program.batch - _own_resident(program))
        own = account.temporaries + max(0, account.output - account.donated)
        memory = Memory(
            state=state,
            batch=program.batch,
            resident=resident,
            padding=padding,
            temporaries=own if account.arguments else max(0, account.needed - state),
            program=account.code,
            limit=target.chip.memory,
        )
        return Step(program, account, memory, macs, target.count)

    train, evaluation = step(programs.train()), step(programs.evaluation())
    views = programs.protocol()
    unit = target.count * config.accumulation
    if search:

        def fits(size: int) -> bool:
            other = config.copy_and_resolve_references()
            with other.unlocked():
                other.batch_size = size
            return step(Programs(other, chips).train()).fits

        most = programs.setup.examples // unit * unit
        known = {config.batch_size: train.fits}
        largest = largest_batch(lambda n: known.get(n) if n in known else fits(n), config.batch_size, unit, most)
    else:
        largest = estimated_batch(train, unit, programs.setup.examples)
    shapes = jax.tree.leaves(programs.states.shapes)
    return Examination(
        target=target,
        thorough=thorough,
        config=config,
        train=train,
        evaluation=evaluation,
        protocol=step(views) if views else None,
        parameters=sum(row.parameters for row in programs.setup.layers),
        statistics=sum(row.statistics for row in programs.setup.layers),
        checkpoint=sum(leaf.size * leaf.dtype.itemsize for leaf in shapes),
        image_bytes=0 if programs.is_resident else train.program.batch * target.count // config.batch_size,
        largest=largest,
        is_compiled=search,
        estimate=programs.states.memory_bytes(),
    )


def _own_resident(program: Program) -> int:
    return program.resident if program.passes == 3 else 0  # an evaluation's images are gathered before its step


def _resident_bytes(programs: Programs) -> int:
    return programs.evaluation().resident


def estimated_batch(train: Step, unit: int, most: int) -> int | None:
    """Returns about how large a batch fits, if all but state and resident data grows with it; None if unknown.

    At most `most`; a multiple of `unit`, and of 128 images a device if it is that large.
    """
    memory, images = train.memory, train.program.images
    grows = memory.batch + memory.padding + memory.temporaries
    if not train.compiles or grows <= 0:
        return None
    room = memory.limit - memory.state - memory.resident - memory.program
    found = min(most, int(max(0, room) * images / grows))
    step = unit * 128 if found >= unit * 128 else unit
    return found // step * step


def largest_batch(fits: Callable[[int], bool | None], start: int, unit: int, most: int) -> int | None:
    """Returns the largest batch that fits, to within an eighth: a multiple of `unit` up to `most`, or None if none
    fits.

    Args:
      fits: whether a batch size fits; called for few sizes, `start` first.
    """
    good, bad = 0, 0
    size = start
    while not bad and good < most:
        if not fits(size):
            bad = size
        else:
            good, size = size, min(2 * size, most)
    while not good and bad > unit:
        size = max(unit, bad // 2 // unit * unit)
        if fits(size):
            good = size
        else:
            bad = size
    while good and bad - good > max(unit, good // 8):
        size = (good + bad) // 2 // unit * unit
        if size == good:
            break
        if fits(size):
            good = size
        else:
            bad = size
    return good or None
