"""The search of each arm's own value of a field, such as its learning rate, on the validation part.

A search trains ordinary runs of the arm, each with one of the values and with a seed that the comparison does not use,
in ARM/search/VALUE of the sweep's folder. Only the value that is found enters the comparison.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnn_jax.core.errors import check
from cnn_jax.display.tables import Sheet
from cnn_jax.sweeping.plan import Planned, Task, tasks, with_found
from cnn_jax.sweeping.question import Arm, Experiment
from cnn_jax.tracking.recorder import read_jsonl

SEED = 1000  # not one of the compared seeds
BEYOND = 3  # values tried beyond each end, at most
DIVERGED = (math.inf, math.inf)


@dataclass(frozen=True)
class Search:
    """What is known about the values of one arm.

    scores: value -> (error, loss) on the validation part after training; error in [0, 1]; both infinite if training
    diverged. pending: runs that are still needed. failed: runs that ended otherwise.
    """

    arm: Arm
    scores: dict[float, tuple[float, float]]
    pending: list[Task]
    failed: list[Task]

    @property
    def best(self) -> float:
        """The value with the lowest error; of equal errors, the one with the lowest loss."""
        return min(self.scores, key=lambda value: (*self.scores[value], value))


def search(experiment: Experiment, planned: Sequence[Planned], folder: Path) -> list[Search]:
    """Returns what is known about the values of each arm, and which runs are still needed."""
    if experiment.search is None:
        return []
    field, values = experiment.search
    return [search_arm(one, field, values, folder) for one in planned]


def search_arm(one: Planned, field: str, values: Sequence[float], folder: Path) -> Search:
    """Returns what is known about the values of an arm; if the best is at an end, the search continues beyond it."""
    found = Search(one.arm, {}, [], [])
    queue = list(values)
    while queue:
        for value in queue:
            task = task_of(one, field, value, folder)
            if (score := score_of(task)) is not None:
                found.scores[value] = score
            else:
                (found.failed if task.failure else found.pending).append(task)
        queue = beyond(found, values) if found.scores and not found.pending else []
    return found


def beyond(found: Search, values: Sequence[float]) -> list[float]:
    """Returns the next value beyond the end if the best one is there; [] if it has neighbors or is far enough out."""
    low, high = min(found.scores), max(found.scores)
    if found.best == low and sum(value < values[0] for value in found.scores) < BEYOND:
        further = low * values[0] / values[1]
    elif found.best == high and sum(value > values[-1] for value in found.scores) < BEYOND:
        further = high * values[-1] / values[-2]
    else:
        return []
    further = float(f"{further:.3g}")
    failed = any(task.folder.name == str(further) for task in found.failed)
    return [] if failed else [further]


def task_of(one: Planned, field: str, value: float, folder: Path) -> Task:
    """Returns the run of an arm with one of the values."""
    arm = replace(one.arm, name=f"{one.arm.name}, {field.split('.')[-1]}={value:g}")
    (task,) = tasks([with_found(replace(one, arm=arm), {field: value})], [SEED], folder)
    return replace(task, folder=folder / one.arm.folder / "search" / str(value))


def score_of(task: Task) -> tuple[float, float] | None:
    """Returns (error, loss) on the validation part after training; None while the run is not finished."""
    if task.finished() is None:
        return DIVERGED if task.has_diverged else None
    records = [record for record in read_jsonl(task.folder / "metrics.jsonl") if record["kind"] == "validation"]
    check(bool(records), f"{task.folder} has no validation, but a search chooses by it: give the arm a validation part")
    return records[-1]["error"], records[-1]["loss"]


def with_best(planned: Sequence[Planned], searches: Sequence[Search], field: str) -> list[Planned]:
    """Returns the arms with the values that their searches found."""
    return [
        with_found(one, {field: found.best}) if found.scores else one
        for one, found in zip(planned, searches, strict=True)
    ]


def sheet(field: str, searches: Sequence[Search]) -> Sheet:
    """Returns a line for each arm: validation error by value, and which value was chosen."""
    lines = []
    for found in searches:
        tried = ", ".join(
            f"{value:g}: {'diverged' if error == math.inf else f'{100 * error:.2f}%'}"
            for value, (error, _) in sorted(found.scores.items())
        )
        lines.append((found.arm.name, f"{found.best:g}" if found.scores else "", tried))
    name = field.split(".")[-1].replace("_", " ")
    return Sheet(f"Search of the {name}: validation error by value, one seed", ("arm", "taken", "tried"), lines)
