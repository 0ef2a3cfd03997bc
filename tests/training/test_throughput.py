"""How fast training goes."""

import jax
import numpy as np
import pytest

from cnn_jax.training import throughput
from cnn_jax.training.throughput import MEASURED, Throughput


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still: `now[0]` is its time."""
    time_ = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: time_[0])
    return time_


def test_speed_and_waiting_are_those_of_the_steps(now):
    measured, durations = Throughput(10), [0.1 * i for i in range(1, 12)]

    def batches():
        for i in range(len(durations)):
            now[0] += 0.02  # reading
            yield i

    assert list(map(type, measured.waits([]))) == []
    for i, batch in enumerate(measured.waits(batches())):
        assert batch == i
        now[0] += durations[i] - 0.02
    found = measured.read(21, batch_size=8)
    total = sum(durations)
    assert found["images_per_second"] == pytest.approx(11 * 8 / total, abs=0.05)
    assert found["input_wait"] == pytest.approx(11 * 0.02 / total, abs=1e-4)
    empty = measured.read(21, batch_size=8)  # since then nothing
    assert set(empty) <= set(MEASURED) and set(empty.values()) == {None}


def test_mfu_is_the_share_of_the_peak(now):
    class Device:
        device_kind = "NVIDIA H200"

    # ResNet-50, 4.1 GMACs: 24.6 GFLOPs a training image, so 2 x 989 TFLOP/s would train 80,407 a second.
    at_peak = throughput.seconds_at_peak(4_100_000_000, [Device(), Device()])
    assert at_peak is not None and 1 / at_peak == pytest.approx(80_407, abs=1)
    measured = Throughput(0, at_peak=at_peak)
    now[0] += 2.0
    assert measured.read(10, batch_size=4020)["mfu"] == pytest.approx(0.25, abs=1e-3)
    assert throughput.seconds_at_peak(1, jax.devices("cpu")) is None
    assert "mfu" not in Throughput(0).read(0, 1)


def test_pause_counts_for_nothing(now):
    measured = Throughput(0)
    now[0] += 1
    with measured.paused(np.zeros(())):
        now[0] += 1000
    now[0] += 3
    assert measured.read(2, batch_size=4)["images_per_second"] == 2.0


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    devices = [Device(dict(bytes_in_use=5, peak_bytes_in_use=6)), Device(dict(bytes_in_use=3, peak_bytes_in_use=9))]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert throughput.memory() == {"memory_bytes": 5, "peak_memory_bytes": 9}
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])  # a CPU
    assert throughput.memory() == {}
