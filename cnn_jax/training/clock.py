"""How fast training goes: speed, times of steps, waiting for input, memory. And a trace of some steps, on demand.

The clock is the host's, and no step waits for it. Devices work off what the host asks of them, some steps later, and
what it asks at a record waits for them all: so the speed between two records is that of the devices, but the time of
one step is that between two turns of the loop, which is the devices' own only where the host has to wait for them.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.core.errors import UserError, check

PERCENTILES = (50, 90, 99)
# What a record of training has of this module, and no two runs have in common.
MEASURED = (
    "images_per_second",
    *(f"step_seconds_p{percent}" for percent in PERCENTILES),
    "input_wait",
    "memory_bytes",
    "peak_memory_bytes",
)


class Clock:
    """Measures training between records, without validations and saves."""

    def __init__(self, done: int):
        self.restart(done)

    def restart(self, done: int) -> None:
        """Begins anew after `done` steps."""
        self._done = done
        self._since = self._turned = time.perf_counter()
        self._steps: list[float] = []
        self._waited = 0.0

    def waits(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields `batches`; the time until each of them comes counts as waiting for input."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def turn(self) -> None:
        """Ends a step, which began at the end of the one before."""
        now = time.perf_counter()
        self._steps.append(now - self._turned)
        self._turned = now

    def read(self, done: int, batch_size: int) -> dict[str, float | int | None]:
        """Returns what was measured since the last call, and begins anew.

        {"images_per_second", "step_seconds_p50", "step_seconds_p90", "step_seconds_p99" (the host's, see above),
        "input_wait" (the share of the time, in [0, 1], in which the loop waited for batches: the devices may have had
        work left, so it is a bound from above), and of the fullest device of this process "memory_bytes" and
        "peak_memory_bytes", where jax counts them}; None of what there was no step for.
        """
        seconds = time.perf_counter() - self._since
        steps = done - self._done
        times = np.percentile(self._steps, PERCENTILES) if self._steps else [None] * len(PERCENTILES)
        found: dict[str, float | int | None] = {
            "images_per_second": round(steps * batch_size / seconds, 1) if steps else None
        }
        for percent, value in zip(PERCENTILES, times, strict=True):
            found[f"step_seconds_p{percent}"] = None if value is None else round(float(value), 6)
        found["input_wait"] = round(min(1.0, self._waited / seconds), 4) if steps else None
        self.restart(done)
        return found | memory()

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leaves out what happens inside the block, but not the steps under way to `state`."""
        jax.block_until_ready(state)
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self._since += spent
        self._turned += spent


def memory() -> dict[str, int]:
    """Returns the bytes in use, and the most that were, on the fullest device of this process; {} where jax does not
    count them, as on CPUs."""
    counted = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if not counted:
        return {}
    most = {name: max(stats.get(name, 0) for stats in counted) for name in ("bytes_in_use", "peak_bytes_in_use")}
    return {"memory_bytes": most["bytes_in_use"], "peak_memory_bytes": most["peak_bytes_in_use"]}


def steps_to_trace(text: str) -> tuple[int, int]:
    """Returns the first and the last step of START:END; raises UserError if it is none."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"--profile is {text!r}, but must be START:END, the first and the last step of the trace, such as 100:105"
        )
    return int(found[1]), int(found[2])


def check_steps(steps: tuple[int, int] | None, *, first: int, last: int) -> None:
    """Raises UserError unless all `steps` of --profile are among those from `first` to `last`."""
    given = steps and f"{steps[0]}:{steps[1]}"
    check(steps is None or first <= last, f"--profile is {given}, but all {last:,} steps of this run are done")
    check(
        steps is None or first <= steps[0] <= steps[1] <= last,
        f"--profile is {given}, but this start trains the steps {first} to {last}",
    )


class Trace:
    """Writes a trace of the steps from the first to the last of `steps`, both included, into `folder`; None: of none.

    Inside the block, which ends it if an error does. The devices are waited for at the end only.

    Args:
      first, last: steps that this start will do. report: is called with a sentence when the trace is written.

    Raises:
      UserError: the steps are not all among those.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, *, first: int, last: int, report: Callable[[str], Any]
    ):
        self.steps, self.folder, self.report = steps, folder, report
        self._active = False
        check_steps(steps, first=first, last=last)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks a step, and begins the trace before its first one."""
        if self.steps is None:
            yield
            return
        if number == self.steps[0]:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self._active = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """Ends the trace after its last step, when `state` is computed."""
        if self._active and self.steps is not None and number == self.steps[1]:
            jax.block_until_ready(state)
            self._stop()
            self.report(
                f"the trace of the steps {self.steps[0]} to {self.steps[1]} is in {self.folder}: open its "
                "perfetto_trace.json.gz at https://ui.perfetto.dev, or look at all of it with  pip install xprof && "
                f"xprof --logdir={self.folder}"
            )

    def _stop(self) -> None:
        self._active = False
        jax.profiler.stop_trace()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._active:
            self._stop()
