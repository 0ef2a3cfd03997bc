"""How fast training goes: images per second, waiting for input, memory.

The clock is the host's, and no step waits for it. Devices compute some steps behind the host, and reading a record
waits for them all: so the speed between two records is that of the devices.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

# Metrics of a training record that no two runs have in common.
MEASURED = ("images_per_second", "input_wait", "memory_bytes", "peak_memory_bytes")


class Throughput:
    """Measures training between records, without validations and saves."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begins anew after `step`."""
        self._step = step
        self._since = time.perf_counter()
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

    def read(self, step: int, batch_size: int) -> dict[str, float | int | None]:
        """Returns what was measured since the last call, and begins anew.

        images_per_second, and input_wait: the share of the time, in [0, 1], in which the loop waited for batches (an
        upper bound: the devices may have had work left); None without a step. memory_bytes and peak_memory_bytes of the
        fullest device of this process, where jax counts them.
        """
        seconds = time.perf_counter() - self._since
        steps = step - self._step
        found: dict[str, float | int | None] = {
            "images_per_second": round(steps * batch_size / seconds, 1) if steps else None,
            "input_wait": round(min(1.0, self._waited / seconds), 4) if steps else None,
        }
        self.restart(step)
        return found | memory()

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leaves out what happens inside the block, but not the steps before it, which compute `state`."""
        jax.block_until_ready(state)
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started


def memory() -> dict[str, int]:
    """Returns the bytes in use, and the most that were, on the fullest device of this process; {} where jax does not
    count them, as on CPUs."""
    counted = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if not counted:
        return {}
    most = {name: max(stats.get(name, 0) for stats in counted) for name in ("bytes_in_use", "peak_bytes_in_use")}
    return {"memory_bytes": most["bytes_in_use"], "peak_memory_bytes": most["peak_bytes_in_use"]}
