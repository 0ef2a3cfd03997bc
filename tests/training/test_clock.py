import gzip
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.core.errors import UserError
from cnn_jax.tracking.metrics import read_jsonl
from cnn_jax.training import clock
from cnn_jax.training import loop as train
from cnn_jax.training.clock import MEASURED, Clock, Trace, steps_to_trace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still: `now[0]` is its time."""
    time_ = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: time_[0])
    return time_


def test_speed_percentiles_and_waiting_are_those_of_the_steps(now):
    measured, durations = Clock(10), [0.1 * i for i in range(1, 12)]

    def batches():
        for i in range(len(durations)):
            now[0] += 0.02  # reading
            yield i

    assert list(map(type, measured.waits([]))) == []
    for i, batch in enumerate(measured.waits(batches())):
        assert batch == i
        now[0] += durations[i] - 0.02
        measured.turn()
    found = measured.read(21, batch_size=8)
    total = sum(durations)
    assert found["images_per_second"] == pytest.approx(11 * 8 / total, abs=0.05)
    assert found["input_wait"] == pytest.approx(11 * 0.02 / total, abs=1e-4)
    cuts = statistics.quantiles(durations, n=100, method="inclusive")
    for percent in (50, 90, 99):
        assert found[f"step_seconds_p{percent}"] == pytest.approx(cuts[percent - 1], abs=1e-6)
    empty = measured.read(21, batch_size=8)  # since then nothing
    assert set(empty) <= set(MEASURED) and set(empty.values()) == {None}


def test_a_pause_counts_for_nothing(now):
    measured = Clock(0)
    now[0] += 1
    measured.turn()
    with measured.paused(np.zeros(())):
        now[0] += 1000
    now[0] += 3
    measured.turn()
    found = measured.read(2, batch_size=4)
    assert found["images_per_second"] == 2.0 and found["step_seconds_p50"] == 2.0


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    devices = [Device(dict(bytes_in_use=5, peak_bytes_in_use=6)), Device(dict(bytes_in_use=3, peak_bytes_in_use=9))]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert clock.memory() == {"memory_bytes": 5, "peak_memory_bytes": 9}
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])  # a CPU
    assert clock.memory() == {}


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_steps_of_a_trace(first, more):
    assert steps_to_trace(f"{first}:{first + more}") == (first, first + more)


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "0:5", "6:5", "-1:5", "a:b", "1:2:3", "1.5:2", "1: 2"])
def test_what_is_no_range_of_steps_is_refused(text):
    with pytest.raises(UserError, match="must be START:END, the first and the last step"):
        steps_to_trace(text)


@pytest.mark.parametrize("steps", [(1, 3), (3, 21), (21, 21)])
def test_steps_that_a_start_does_not_train_are_refused(tmp_path, steps):
    with pytest.raises(UserError, match="but this start trains the steps 2 to 20"):
        Trace(steps, tmp_path, first=2, last=20, report=print)


def test_a_run_writes_a_trace_of_the_steps_and_what_it_measured(tmp_path, small_config, console):
    small_config.duration = "12 steps"
    train.run(small_config, tmp_path, console=console, profile=(6, 8))
    printed = console.file.getvalue()
    assert f"the trace of the steps 6 to 8 is in {tmp_path / 'profile'}: open its perfetto_trace.json.gz" in printed
    (path,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert len(list(path.parent.glob("*.xplane.pb"))) == 1
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    marked = {int(event["args"]["step_num"]) for event in events if event.get("name") == "train"}
    assert marked == {6, 7, 8}
    records = [record for record in read_jsonl(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert len(records) == 3
    for record in records:
        times = [record[f"step_seconds_p{percent}"] for percent in (50, 90, 99)]
        assert 0 < times[0] <= times[1] <= times[2] and 0 <= record["input_wait"] <= 1
        assert record["images_per_second"] > 0


def test_an_error_ends_the_trace(tmp_path):
    with pytest.raises(KeyError), Trace((1, 5), tmp_path, first=1, last=9, report=print) as trace, trace.step(1):
        raise KeyError
    with Trace((1, 1), tmp_path / "next", first=1, last=9, report=print) as trace:  # another one may begin
        with trace.step(1):
            state = jax.numpy.ones(3) + time.time()
        trace.after(1, state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile=9:1",), "--profile is '9:1', but must be START:END"),
        (("--mode=eval", "--profile=1:2"), "--profile goes with training"),
    ],
)
def test_mistakes_at_the_command_line(refused, arguments, message):
    assert message in refused("main", "--config=lenet5", *arguments)
