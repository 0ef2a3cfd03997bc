"""Traces of some steps."""

import gzip
import json
import time
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.core.errors import UserError
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop as train
from cnn_jax.training.profiling import Trace, steps_to_trace
from cnn_jax.training.session import Options

ROOT = Path(__file__).parents[2]


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_steps_of_a_trace(first, more):
    assert steps_to_trace(f"{first}:{first + more}") == (first, first + more)


@pytest.mark.parametrize("text", ["", "5", "5:", ":5", "0:5", "6:5", "-1:5", "a:b", "1:2:3", "1.5:2", "1: 2"])
def test_an_invalid_range_of_steps_is_refused(text):
    with pytest.raises(UserError, match="must be START:END, the first and the last step"):
        steps_to_trace(text)


@pytest.mark.parametrize("steps", [(1, 3), (3, 21), (21, 21)])
def test_steps_outside_of_a_start_are_refused(tmp_path, steps):
    with pytest.raises(UserError, match="but this start trains the steps 2 to 20"):
        Trace(steps, tmp_path, first=2, last=20, report=print)


@pytest.mark.slow
def test_a_run_writes_a_trace_of_the_steps_and_what_it_measured(tmp_path, small_config, console):
    small_config.duration = "12 steps"
    train.run(small_config, tmp_path, Options(console=console, profile=(6, 8)))
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
        assert 0 <= record["input_wait"] <= 1
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
