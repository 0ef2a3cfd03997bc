from dataclasses import replace

import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.display.tables import render
from cnn_jax.sweeping.plan import plan
from cnn_jax.sweeping.question import load
from cnn_jax.sweeping.search import SEED, search, sheet, task_of, with_best
from sweeps import SMALL, write

FIELD = "optim.learning_rate"
EXPERIMENT = replace(load(str(SMALL)), search=(FIELD, (0.01, 0.1)))


def found_after(folder, errors):
    """Returns the searches of both arms, the first of which ended with these validation errors, by value."""
    planned = plan(EXPERIMENT)
    for value, error in errors.items():
        task = task_of(planned[0], FIELD, value, folder)
        if error is None:
            task.fail("not finite: the loss is nan")
        else:
            write(task, error)
    return planned, search(EXPERIMENT, planned, folder)


def values(tasks):
    return [float(task.folder.name) for task in tasks]


def test_a_search_begins_with_the_given_values_and_its_own_seed(tmp_path):
    _, (first, second) = found_after(tmp_path, {})
    assert values(first.pending) == values(second.pending) == [0.01, 0.1] and not first.scores
    task = first.pending[1]
    assert task.folder == tmp_path / "width=0.1" / "search" / "0.1" and task.config.seed == SEED
    assert f"--config.{FIELD}=0.1" in task.command and task.config.optim.learning_rate == 0.1


@pytest.mark.parametrize(
    ("errors", "next_value", "best"),
    [
        ({0.01: 0.3, 0.1: 0.2}, 1.0, 0.1),
        ({0.01: 0.2, 0.1: 0.3}, 0.001, 0.01),
        ({0.01: 0.2, 0.1: None}, 0.001, 0.01),  # diverged
        ({0.01: 0.3, 0.1: 0.2, 1.0: 0.4}, None, 0.1),
        ({0.001: 0.1, 0.0001: 0.08, 0.00001: 0.05, 0.01: 0.2, 0.1: 0.3}, None, 0.00001),  # far enough out
    ],
)
def test_a_search_continues_beyond_the_end_with_the_best_value(tmp_path, errors, next_value, best):
    _, (first, _) = found_after(tmp_path, errors)
    assert values(first.pending) == ([] if next_value is None else [next_value]) and first.best == best


def test_the_loss_breaks_ties_between_equal_errors(tmp_path):
    planned = plan(EXPERIMENT)
    for value, loss in ((0.01, 0.5), (0.1, 0.4), (1.0, 0.6)):
        write(task_of(planned[0], FIELD, value, tmp_path), 0.2, loss=loss)
    assert search(EXPERIMENT, planned, tmp_path)[0].best == 0.1


def test_the_arms_are_compared_with_the_values_found(tmp_path):
    planned, searches = found_after(tmp_path, {0.01: 0.3, 0.1: 0.2, 1.0: 0.4})
    first, second = with_best(planned, searches, FIELD)
    assert first.config.optim.learning_rate == 0.1 and first.arm.changes == planned[0].arm.changes
    assert second == planned[1]  # of which nothing is known yet
    assert f"--config.{FIELD}=0.1" in first.arm.command(0)
    text = render([sheet(FIELD, searches)], "text")
    assert "0.01: 30.00%, 0.1: 20.00%, 1: 40.00%" in text


def test_a_search_needs_rising_values(tmp_path):
    file = tmp_path / "q.py"
    text = SMALL.read_text().replace("seeds=2", 'seeds=2, search=("optim.learning_rate", (0.1, 0.01))')
    file.write_text(text)
    with pytest.raises(UserError, match="must be at least 2 rising numbers above 0"):
        load(str(file))
