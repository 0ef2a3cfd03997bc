"""What a sweep will run: the arms with their sizes, what differs between them, and a task for each arm and seed."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax import runs, workdir
from cnn_jax.commandline import other_config
from cnn_jax.errors import UserError, check
from cnn_jax.tables import Sheet, Short
from experiments.experiment import Arm, Experiment


@dataclass(frozen=True)
class Planned:
    """An arm with what is known of it before it runs."""

    arm: Arm
    config: Any
    parameters: int
    macs: int
    memory: int  # estimate, bytes


def plan(experiment: Experiment) -> list[Planned]:
    """Returns the arms with their sizes.

    Raises:
      UserError: a field that does not exist, an impossible value, two arms of one configuration, or arms of a group
        that differ in what the experiment demands to be equal.
    """
    import jax

    from cnn_jax import summary
    from cnn_jax.layer_table import training_bytes

    jax.config.update("jax_platforms", "cpu")  # for tracing; the runs have the accelerators
    planned: list[Planned] = []
    for arm in experiment.arms:
        config, _ = other_config(None, shlex.join([arm.config, *arm.words]), flag=f"arm {arm.name!r}")
        for other in planned:
            same = not workdir.differences(_plain(other.config), _plain(config))
            check(not same, f"the arms {other.arm.name!r} and {arm.name!r} have one configuration: leave one out")
        rows = summary.trace(config)
        sums = summary.totals(rows)
        memory = training_bytes(
            rows,
            images=config.batch_size // config.accumulation,
            bytes_per_value=2 if config.precision == "bfloat16" else 4,
            copies_of_parameters=3,
        )
        planned.append(Planned(arm, config, sums.parameters, sums.macs, memory))
    by_name = {one.arm.name: one for one in planned}
    for group in experiment.groups:
        for quantity in experiment.equal:
            values = {arm.name: getattr(by_name[arm.name], quantity) for arm in group}
            told = ", ".join(f"{name}: {value:,}" for name, value in values.items())
            check(
                len(set(values.values())) == 1,
                f"this experiment compares arms of equal {quantity}, but these differ: {told}",
            )
    return planned


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(config.to_json())


def differing(experiment: Experiment, planned: Sequence[Planned]) -> list[str]:
    """Returns a line for each arm that is compared: in which fields its configuration differs from its reference."""
    configs = {one.arm.name: workdir.flat(_plain(one.config)) for one in planned}
    lines = []
    for group in experiment.groups:
        reference = configs[group[0].name]
        for arm in group[1:]:
            own = configs[arm.name]
            fields = [name for name in sorted(reference | own) if reference.get(name) != own.get(name)]
            told = ", ".join(f"{name}: {own.get(name)} for {reference.get(name)}" for name in fields)
            lines.append(f"{arm.name}, beside {group[0].name}: {told}")
    return lines


def plan_sheet(planned: Sequence[Planned]) -> Sheet:
    """Returns the sizes of the arms as a table."""
    headings = ("arm", "parameters", "MACs", "memory of training, bytes")
    lines = [(one.arm.name, one.parameters, Short(one.macs), Short(one.memory)) for one in planned]
    return Sheet("Arms (memory is an estimate)", headings, lines)


# ---------------------------------------------------------------- one run of an arm


@dataclass
class Task:
    """An arm with a seed."""

    arm: Arm
    seed: int
    folder: Path
    attempts: int = 0

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def command(self) -> list[str]:
        arguments = [*self.arm.arguments(self.seed), f"--workdir={self.folder}"]
        return [sys.executable, "-m", "cnn_jax.main", *arguments]

    def finished(self) -> runs.Finished | None:
        """Returns the finished run, or None."""
        try:
            return runs.read(self.folder)
        except (UserError, runs.LeftOut):
            return None

    def last_words(self) -> str:
        """Returns the line of its log that says why it ended."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()]
        chosen = [line for line in lines if line.startswith("error: ") or "RESOURCE_EXHAUSTED" in line] or lines[-1:]
        return chosen[-1][:300] if chosen else "it printed nothing"


def tasks(planned: Sequence[Planned], seeds: int, folder: Path) -> list[Task]:
    """Returns the runs of a sweep, seed by seed, so that a sweep that is stopped has something of every arm.

    Raises:
      UserError: a folder holds a run of another configuration.
    """
    found = []
    for seed in range(seeds):
        for one in planned:
            task = Task(one.arm, seed, folder / one.arm.folder / f"seed-{seed}")
            config = one.config.copy_and_resolve_references()
            config.seed = seed
            if (task.folder / "config.json").exists():
                changed = workdir.differences(workdir.stored_config(task.folder), _plain(config))
                check(
                    not changed,
                    f"{task.folder} holds a run of another configuration:\n" + "\n".join(changed) + "\n"
                    "Give another --folder, or move that one away.",
                )
            found.append(task)
    return found


# ---------------------------------------------------------------- what failed


def record_failure(folder: Path, task: Task, why: str | None) -> None:
    """Notes in failures.json that a run failed, or with None that it did not."""
    failures = read_failures(folder)
    failures.pop(task.name, None)
    if why:
        failures[task.name] = why
    workdir.write_text(folder / "failures.json", json.dumps(failures, indent=1) + "\n")


def read_failures(folder: Path) -> dict[str, str]:
    """Returns name of the run -> why it failed."""
    path = folder / "failures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
