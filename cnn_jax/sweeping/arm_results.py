"""What a sweep has of each arm so far: its finished runs, their curves and layers."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.core.files import read_json
from cnn_jax.core.text import markdown
from cnn_jax.reporting import runs
from cnn_jax.sweeping.plan import Planned, Task, tasks
from cnn_jax.sweeping.question import Arm
from cnn_jax.tracking.recorder import read_jsonl


@dataclass(frozen=True)
class ArmResult:
    """The results of an arm so far."""

    planned: Planned
    runs: dict[int, runs.Finished]  # seed -> its finished run
    train_errors: dict[int, float]  # seed -> error on the training part, %
    curves: dict[int, list[dict[str, Any]]]  # seed -> records of metrics.jsonl
    layers: dict[int, dict[str, Any]]  # seed -> layers.json
    diverged: list[int]  # seeds whose loss was not finite

    @property
    def arm(self) -> Arm:
        return self.planned.arm

    @property
    def test_errors(self) -> dict[int, float]:
        """Seed -> error on the test part, %."""
        return {seed: 100 - run.accuracy for seed, run in self.runs.items()}

    @property
    def gaps(self) -> dict[int, float]:
        """Seed -> test error - training error, points."""
        return {seed: self.test_errors[seed] - error for seed, error in self.train_errors.items()}

    @property
    def images_per_second(self) -> dict[int, float]:
        """Seed -> median of the speed of training, without compilation, validation and saves."""
        found = {}
        for seed, records in self.curves.items():
            speeds = [record["images_per_second"] for record in records if record.get("images_per_second")]
            if speeds:
                found[seed] = statistics.median(speeds)
        return found

    @property
    def training_seconds(self) -> dict[int, float]:
        """Seed -> seconds of training at that speed: without start, compilation, validation and saves."""
        batch = self.planned.config.batch_size
        return {seed: self.runs[seed].test["step"] * batch / speed for seed, speed in self.images_per_second.items()}


def read(planned: Sequence[Planned], folder: Path, seeds: Iterable[int]) -> list[ArmResult]:
    """Returns the results of the arms in the folder of a sweep: only finished runs of their configurations count."""
    results = {one.arm.name: ArmResult(one, {}, {}, {}, {}, []) for one in planned}
    for task in tasks(planned, seeds, folder):
        run, result = task.finished(), results[task.arm.name]
        if run is None:
            if task.has_diverged:
                result.diverged.append(task.seed)
            continue
        result.runs[task.seed] = run
        result.curves[task.seed] = read_jsonl(task.folder / "metrics.jsonl")
        for record in result.curves[task.seed]:
            if record["kind"] == "train_part":
                result.train_errors[task.seed] = 100 * record["error"]
        if (task.folder / "layers.json").exists():
            result.layers[task.seed] = read_json(task.folder / "layers.json")
    return list(results.values())


def missing(every: Sequence[Task]) -> list[str]:
    """Returns a line for each run that is not finished: why, as far as it is known."""
    lines = []
    for task in every:
        if task.finished() is None:
            other = "its folder holds a run of another configuration" if task.misfits() else "not finished"
            lines.append(markdown(f"{task.name}: {task.failure or other}"))
    return lines
