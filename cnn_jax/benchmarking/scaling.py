"""How the training step scales with the number of devices.

Each number of devices has its own process, because jax fixes the number at its first use. All processes keep running
and measure in turn, `measure.ROUNDS` times; ratios are taken within a round.
"""

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
from rich.console import Console

from cnn_jax.benchmarking import measure
from cnn_jax.core import compilation_cache
from cnn_jax.core.errors import UserError, check
from cnn_jax.display import terminal
from cnn_jax.training.setup import build

KINDS = ("strong", "weak")


def batch_sizes(batch_size: int, counts: Sequence[int]) -> dict[str, list[int]]:
    """Returns the global batch of each number of devices: "strong" keeps it constant, "weak" keeps the batch per
    device.

    Both are `batch_size` for the largest number.

    Raises:
      UserError: the numbers do not start with 1 and grow, or do not divide the batch.
    """
    check(
        len(counts) > 1 and counts[0] == 1 and all(a < b for a, b in itertools.pairwise(counts)),
        f"--devices is {','.join(map(str, counts))}, but must be 1 and larger numbers of devices, such as 1,2,4,8",
    )
    for count in counts:
        check(
            batch_size % count == 0,
            f"config.batch_size is {batch_size}, but must be divisible by the {count} of --devices",
        )
    return {"strong": [batch_size] * len(counts), "weak": [batch_size // counts[-1] * count for count in counts]}


def scaling(config: Any, counts: Sequence[int], *, seconds: float, progress: Console) -> dict[str, Any]:
    """Returns the measurements of the training step, as --json prints them.

    On a CPU the devices are forced: they are threads of one machine, whose cores they share.

    Args:
      config: its batch size is that of all devices together. counts: numbers of devices. seconds: of one segment.

    Raises:
      UserError: see `batch_sizes` and `measure.benchmark`; or there are fewer devices than `counts` asks for.
    """
    batches = batch_sizes(config.batch_size, counts)
    workers: list[_Worker] = []
    try:
        with terminal.waiting(progress, "starting a process for each number of devices, and compiling"):
            for i, count in enumerate(counts):
                workers.append(_Worker(config, count, {kind: batches[kind][i] for kind in KINDS}, seconds))
                workers[-1].receive()  # one compiles at a time
            facts = workers[0].facts
        about = seconds * measure.ROUNDS * len(counts) * len(KINDS)
        with terminal.waiting(progress, f"measuring: about {about:.0f} s"):
            speeds: dict[str, list[list[float]]] = {kind: [[] for _ in counts] for kind in KINDS}
            for _ in range(measure.ROUNDS):
                for kind in KINDS:
                    for found, worker in zip(speeds[kind], workers, strict=True):
                        found.append(worker.speed(kind))
    finally:
        for worker in workers:
            worker.stop()
    return facts | {
        "model": config.model.name,
        "data": config.data.name,
        "precision": config.precision,
        "forced": facts["platform"] == "cpu",
        "cores": os.cpu_count(),
        "repeats": measure.ROUNDS,
        "seconds": seconds,
        "scaling": {kind: rows(counts, batches[kind], speeds[kind]) for kind in KINDS},
    }


def rows(counts: Sequence[int], batches: Sequence[int], speeds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Returns a row for each number of devices: images/s, the ratio to one device, and that ratio / number of devices.

    Args:
      speeds: images/s of each number of devices, in each round.
    """
    found = []
    for count, batch, own in zip(counts, batches, speeds, strict=True):
        ratios = [speed / alone for speed, alone in zip(own, speeds[0], strict=True)]
        found.append(
            {
                "devices": count,
                "batch_size": batch,
                "images_per_second": measure.summarize(own),
                "ratio": measure.summarize(ratios),
                "efficiency": measure.summarize([ratio / count for ratio in ratios]),
            }
        )
    return found


class _Worker:
    """A process with a given number of devices."""

    def __init__(self, config: Any, count: int, batches: dict[str, int], seconds: float):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, config, count, batches, seconds)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = {}

    def receive(self) -> Any:
        """Returns what the process sends; the first message describes its devices."""
        try:
            found = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise UserError(f"a process that measures ended with exit code {self._process.exitcode}") from None
        if isinstance(found, str):
            raise UserError(found)
        self.facts = self.facts or found
        return found

    def speed(self, kind: str) -> float:
        """Returns the images/s of a segment."""
        with contextlib.suppress(OSError):  # the process has ended: `receive` reports it
            self._connection.send(kind)
        return self.receive()["images_per_second"]

    def stop(self) -> None:
        self._connection.close()  # the process ends at the end of its input
        self._process.join(timeout=10)
        self._process.kill()


def _serve(connection: Connection, config: Any, count: int, batches: dict[str, int], seconds: float) -> None:
    """Measures on request, in its own process."""
    try:
        facts = _take_devices(count)
        compilation_cache.enable()
        contenders = {kind: _contender(config, batch) for kind, batch in batches.items()}
        steps = {kind: measure.calibrate(kind, contender, seconds) for kind, contender in contenders.items()}
        connection.send(facts)
        while True:
            kind = connection.recv()
            taken = measure.timed(kind, contenders[kind], steps[kind]).seconds
            connection.send({"images_per_second": steps[kind] * batches[kind] / taken})
    except UserError as error:
        connection.send(str(error))
    except EOFError:
        pass


def _take_devices(count: int) -> dict[str, Any]:
    """Makes jax see `count` devices, before it looks for any, and returns a description of them."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share each GPU
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    jax.config.update("jax_cuda_visible_devices", ",".join(map(str, range(count))))
    devices = jax.devices()
    check(
        devices[0].platform in ("cpu", "gpu"),
        f"scaling measures CPUs and GPUs, but this is a {devices[0].device_kind}: its devices belong to one process",
    )
    check(len(devices) == count, f"--devices names {count}, but there are {len(devices)}")
    return {"platform": devices[0].platform, "device_kind": devices[0].device_kind, "jax_version": jax.__version__}


def _contender(config: Any, batch_size: int) -> measure.Contender:
    """Returns the training step on random images, see `measure.ours`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.batch_size = config.eval.batch_size = batch_size
    setup = build(config)
    part = setup.data.parts["train"]
    size = len(part) if part.is_resident else measure.STREAMED_BATCHES * batch_size
    examples = measure.random_examples(size, setup.data.image_shape, setup.config.data.num_classes)
    return measure.ours(setup, examples, compiles=False)[1]["step"]


def note(result: dict[str, Any]) -> str:
    """Returns a note on what the numbers mean."""
    if result["forced"]:
        return (
            f"The devices are simulated, and share {result['cores']} cores: this does not show how a network scales. A "
            "ratio below 1 is the overhead of splitting the step and of its communication."
        )
    return "Efficiency is the ratio / the number of devices: 100% is perfect scaling."
