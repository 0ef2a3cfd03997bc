"""How fast training goes: images per second, waiting for input, memory.

The clock is the host's, and no step waits for it. Devices compute some steps behind the host, and reading a record
waits for them all: so the speed between two records is that of the devices.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax

from cnn_jax.parallel import chips

# Metrics of a training record that no two runs have in common.
MEASURED = ("images_per_second", "mfu", "input_wait", "memory_bytes", "peak_memory_bytes")


class Throughput:
    """Measures training between records, without validations and saves.

    Args:
      at_peak: the time for one image at the peak of all devices, seconds; see `seconds_at_peak`. None: not known.
    """

    def __init__(self, step: int, *, at_peak: float | None = None):
        self._at_peak = at_peak
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

        images_per_second. mfu, the model FLOPs utilization (Chowdhery et al. 2022, appendix B): the FLOP/s of forward
        and backward pass / the devices' dense bfloat16 peak, where that is known. input_wait: the share of the time, in
        [0, 1], in which the loop waited for batches (an upper bound: the devices may have had work left). These are
        None without a step. memory_bytes and peak_memory_bytes of the fullest device of this process, where jax counts
        them.
        """
        seconds = time.perf_counter() - self._since
        steps = step - self._step
        found: dict[str, float | int | None] = {
            "images_per_second": round(steps * batch_size / seconds, 1) if steps else None,
            "input_wait": round(min(1.0, self._waited / seconds), 4) if steps else None,
        }
        if self._at_peak is not None:
            found["mfu"] = round(steps * batch_size * self._at_peak / seconds, 4) if steps else None
        self.restart(step)
        return found | memory()

    @contextlib.contextmanager
    def paused(self, state: Any) -> Iterator[None]:
        """Leaves out what happens inside the block, but not the steps before it, which compute `state`."""
        jax.block_until_ready(state)
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started


def seconds_at_peak(macs: int, devices: Sequence[Any]) -> float | None:
    """Returns the seconds that training on one image takes at the peak of all devices together.

    Forward and backward pass are 3 times the multiplications and additions of the forward pass.

    Args:
      macs: of the forward pass. devices: of jax, all alike.

    Returns:
      None where the peak is not known, as that of CPUs.
    """
    peak = chips.peak(devices[0].device_kind)
    return None if peak is None else 3 * 2 * macs / (peak * len(devices))


def memory() -> dict[str, int]:
    """Returns the bytes in use, and the most that were, on the fullest device of this process; {} where jax does not
    count them, as on CPUs."""
    counted = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    if not counted:
        return {}
    most = {name: max(stats.get(name, 0) for stats in counted) for name in ("bytes_in_use", "peak_bytes_in_use")}
    return {"memory_bytes": most["bytes_in_use"], "peak_memory_bytes": most["peak_bytes_in_use"]}
