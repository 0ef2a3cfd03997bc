"""Early stopping: it ends where the validation errors say, also after a resume, and its run counts as finished."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config.durations import is_due, times_due
from cnn_jax.core.errors import Stopped, UserError
from cnn_jax.reporting import runs
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop
from cnn_jax.training.config_check import check_config
from cnn_jax.training.preemption import NoSignals
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from cnn_jax.training.throughput import MEASURED


class StopAt(NoSignals):
    """Stops a run after a step, as a signal does."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def requested(self, step):
        if step == self.step:
            self.received = "SIGTERM"
        return step == self.step


@pytest.fixture
def config(small_config):
    """60 steps with a rate at which the validation error goes up and down."""
    with small_config.unlocked():
        small_config.update({"duration": "60 steps", "batch_size": 32})
        small_config.eval.update({"every": "2 steps"})
        small_config.checkpoint.update({"every": "7 steps"})
    return small_config


def records(folder):
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in read_jsonl(folder / "metrics.jsonl")]


def validation_errors(folder):
    return [(r["step"], r["error"]) for r in records(folder) if r["kind"] == "validation"]


def expected_end(errors, patience):
    """Returns the step at which a loop over the errors of a whole run stops, or None."""
    best, waited = np.inf, 0
    for step, error in errors[:-1]:  # the last one ends it anyway
        best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited == patience:
            return step
    return None


def last_state(config, folder):
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest(pytest.fail)
        return step, jax.device_get(States(build(config)).restore(checkpoints, step))


@given(st.integers(0, 200), st.integers(0, 100), st.floats(0.1, 40))
def test_due_steps_are_counted_without_asking_each(start, more, period):
    each = sum(is_due(step, period) for step in range(start + 1, start + more + 1))
    assert times_due(start, start + more, period) == each


@pytest.mark.slow
def test_it_stops_where_the_errors_say_and_resumes_exactly(config, tmp_path, console):
    loop.run(config, tmp_path / "whole", Options(console=console))
    errors = validation_errors(tmp_path / "whole")
    found = {patience: expected_end(errors, patience) for patience in range(1, 10)}
    patience, end = next((p, e) for p, e in sorted(found.items(), reverse=True) if e)
    assert 4 < end < 60
    config.eval.patience = patience
    final = loop.run(config, tmp_path / "stopped", Options(console=console))
    best_step = min(errors[: [s for s, _ in errors].index(end) + 1], key=lambda one: one[1])[0]
    printed = console.file.getvalue()
    assert f"early stopping at step {end}/60: no validation error below the " in printed
    assert f"of step {best_step} in {patience} validations; that state is {tmp_path / 'stopped'}@best" in printed
    assert validation_errors(tmp_path / "stopped") == [one for one in errors if one[0] <= end]
    assert records(tmp_path / "stopped")[-1]["kind"] == "test" and records(tmp_path / "stopped")[-1]["step"] == end
    step, state = last_state(config, tmp_path / "stopped")
    assert step == end

    for stop in (1, best_step + 3, end):
        folder = tmp_path / f"at{stop}"
        with pytest.raises(Stopped, match=f"at step {stop}/60"):
            loop.run(config, folder, Options(console=console, stop=StopAt(stop)))
        again = loop.run(config, folder, Options(console=console))
        assert again["test"]["loss"] == final["test"]["loss"]
        assert records(folder) == records(tmp_path / "stopped")
        step, other = last_state(config, folder)
        assert step == end
        jax.tree.map(np.testing.assert_array_equal, state, other)


def test_a_run_that_stopped_early_is_finished_and_extendable(config, tmp_path, console):
    config.optim.learning_rate = 0.0
    config.eval.patience = 2
    loop.run(config, tmp_path, Options(console=console))
    assert records(tmp_path)[-1]["step"] == 6  # the first of three equal errors is the best
    assert runs.read(tmp_path).test["step"] == 6
    config.eval.patience = 4
    with pytest.raises(UserError, match=r"eval\.patience: 2 in the folder, 4 now\n.*longer, add --extend"):
        loop.run(config, tmp_path, Options(console=console))
    loop.run(config, tmp_path, Options(console=console, extend=True))
    assert runs.read(tmp_path).test["step"] == 10


def test_a_run_that_ends_first_is_not_called_early(config, tmp_path, console):
    config.optim.learning_rate = 0.0
    config.update({"duration": "6 steps"})
    config.eval.patience = 2
    loop.run(config, tmp_path, Options(console=console))
    assert "early stopping" not in console.file.getvalue() and records(tmp_path)[-1]["step"] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval": {"patience": -1}}, "patience is -1, but must be finite and not negative"),
        ({"eval": {"patience": 1}, "data": {"train_on": "train+validation"}}, "leaves no validation part to decide by"),
        ({"eval": {"patience": 1}, "swa_last": "10 steps"}, "averages the weights at a planned end"),
    ],
)
def test_what_excludes_early_stopping(config, changes, message):
    config.update(changes)
    with pytest.raises(UserError, match=message):
        check_config(config)
