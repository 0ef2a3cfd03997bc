"""What a sweep will run: the arms with their sizes, what differs between them, and a task for each arm and seed."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnn_jax.config.compare import differences, flat
from cnn_jax.config.configuration import Configuration
from cnn_jax.config.fields import RESUMABLE
from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import write_text
from cnn_jax.display.tables import Sheet, Short
from cnn_jax.reporting import runs
from cnn_jax.sweeping.question import Arm, Experiment
from cnn_jax.tracking import run_folder


@dataclass(frozen=True)
class Planned:
    """An arm with what is known about it before it runs."""

    arm: Arm
    config: Any
    parameters: int
    macs: int
    memory: int  # estimate, bytes


def plan(experiment: Experiment) -> list[Planned]:
    """Returns the arms with their sizes.

    Raises:
      UserError: a field that does not exist, an impossible value, two arms of one configuration, or arms of a group
        that differ in what the experiment requires to be equal.
    """
    import jax

    from cnn_jax.analysis.layer_sheets import trace
    from cnn_jax.analysis.layer_table import totals, training_bytes
    from cnn_jax.training import optimizers
    from cnn_jax.training.averages import has_average
    from cnn_jax.training.config_check import check_config

    jax.config.update("jax_platforms", "cpu")  # for tracing; the runs have the accelerators
    planned: list[Planned] = []
    traced: dict[str, Any] = {}  # arms may train one network in several ways
    for arm in experiment.arms:
        config = Configuration.from_recipe(arm.config, arm.words, flag=f"arm {arm.name!r}").config
        for other in planned:
            same = not differences(_plain(other.config), _plain(config))
            check(not same, f"the arms {other.arm.name!r} and {arm.name!r} have one configuration: leave one out")
        check_config(config)
        network = json.dumps([_plain(config)[name] for name in ("model", "data")])
        rows = traced[network] if network in traced else traced.setdefault(network, trace(config))
        sums = totals(rows)
        memory = training_bytes(
            rows,
            images=config.batch_size // config.accumulation,
            bytes_per_value=2 if config.precision == "bfloat16" else 4,
            copies_of_parameters=2 + optimizers.state_copies(config.optim) + has_average(config),
            remat=config.remat,
        )
        planned.append(Planned(arm, config, sums.parameters, sums.macs, memory))
    by_name = {one.arm.name: one for one in planned}
    for group in experiment.groups(experiment.compare[0]):
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


def differing(experiment: Experiment, planned: Sequence[Planned]) -> Sheet:
    """Returns a table of the arms that are compared: in which fields a configuration differs from its reference.

    Fields that only one of two networks has are left out.
    """
    configs = {one.arm.name: flat(_plain(one.config)) for one in planned}
    lines = []
    for _, reference, arm in experiment.pairs():
        own, other = configs[arm.name], configs[reference.name]
        fields = [name for name in sorted(own.keys() & other.keys()) if own[name] != other[name]]
        told = ", ".join(f"{name}: {own[name]} for {other[name]}" for name in fields)
        lines.append((arm.name, reference.name, told))
    return Sheet("What differs between the arms", ("arm", "compared with", "differs in"), lines)


def with_found(one: Planned, found: Mapping[str, Any]) -> Planned:
    """Returns an arm with values that a search found for it; they do not change its size."""
    arm = replace(one.arm, found=found)
    return replace(
        one, arm=arm, config=Configuration.from_recipe(arm.config, arm.words, flag=f"arm {arm.name!r}").config
    )


def plan_sheet(planned: Sequence[Planned]) -> Sheet:
    """Returns the sizes of the arms as a table."""
    headings = ("arm", "parameters", "MACs", "memory of training, bytes")
    lines = [(one.arm.name, one.parameters, Short(one.macs), Short(one.memory)) for one in planned]
    return Sheet("Arms (memory is an estimate, without the data)", headings, lines)


# ---------------------------------------------------------------- one run of an arm

NOT_FINITE = "not finite"  # how the reason of a run that diverged begins

# Fields that may change when a run resumes, but decide what it records for the report.
NEEDED = ("eval.train_part", "eval.layers")
MAY_DIFFER = tuple(field for field in RESUMABLE if field not in NEEDED)


@dataclass
class Task:
    """An arm with a seed: one ordinary run in a folder, its log and the reason of its failure in files next to it."""

    arm: Arm
    seed: int
    folder: Path
    config: Any  # with the seed
    attempts: int = 0
    log_start: int = 0  # offset in its log where the last attempt begins, bytes

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def command(self) -> list[str]:
        arguments = [*self.arm.arguments(self.seed), f"--workdir={self.folder}"]
        return [sys.executable, "-m", "cnn_jax.main", *arguments]

    def misfits(self) -> list[str]:
        """Returns a line for each field in which the run in its folder, if there is one, has another configuration."""
        if not (self.folder / "config.json").exists():
            return []
        data = self.config.data  # the run recorded the values that it took from the data set
        left_open = ["num_classes", *(part for part in ("train", "validation", "test") if not data[part])]
        may_differ = (*MAY_DIFFER, *(f"data.{field}" for field in left_open))
        return differences(run_folder.stored_config(self.folder), _plain(self.config), may_differ=may_differ)

    def finished(self) -> runs.Finished | None:
        """Returns the finished run, or None."""
        try:
            return None if self.misfits() else runs.read(self.folder)
        except (UserError, runs.LeftOut):
            return None

    @property
    def failure(self) -> str | None:
        """Why its last attempt failed for good; None if it did not, or if it is finished by now."""
        path = self.folder.with_name(f"{self.folder.name}.failed")
        return path.read_text(encoding="utf-8") if path.exists() and self.finished() is None else None

    @property
    def has_diverged(self) -> bool:
        """Whether its last attempt ended because a loss was not finite."""
        return (self.failure or "").startswith(NOT_FINITE)

    def fail(self, why: str | None) -> None:
        """Stores why it failed, or with None that it did not."""
        path = self.folder.with_name(f"{self.folder.name}.failed")
        if why is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, why)

    def last_words(self) -> str:
        """Returns the line of the last attempt's log that says why it ended."""
        text = self.log.read_bytes()[self.log_start :].decode(errors="replace") if self.log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        chosen = [line for line in lines if line.startswith("error: ") or "RESOURCE_EXHAUSTED" in line] or lines[-1:]
        return chosen[-1][:300] if chosen else "it printed nothing"


def tasks(planned: Sequence[Planned], seeds: Iterable[int], folder: Path) -> list[Task]:
    """Returns the runs of a sweep, seed by seed, so that a stopped sweep has results of every arm."""
    found = []
    for seed in seeds:
        for one in planned:
            config = one.config.copy_and_resolve_references()
            config.seed = seed
            found.append(Task(one.arm, seed, folder / one.arm.folder / f"seed-{seed}", config))
    return found


def first_tasks(experiment: Experiment) -> list[Task]:
    """Returns the runs that others start from; raises UserError for a field that does not exist."""
    found = []
    for folder, arm in experiment.first.items():
        config = Configuration.from_recipe(arm.config, arm.words, flag=f"arm {arm.name!r}").config
        found.append(Task(arm, 0, Path(folder), config))
    return found


def check_fit(every: Sequence[Task]) -> None:
    """Raises UserError if a folder holds a run of another configuration."""
    for task in every:
        changed = task.misfits()
        check(
            not changed,
            f"{task.folder} holds a run of another configuration:\n" + "\n".join(changed) + "\n"
            "Give another --folder, or move that one away.",
        )


def seeds_in(folder: Path) -> set[int]:
    """Returns the seeds of the runs in the folder of a sweep."""
    return {int(path.name[5:]) for path in folder.glob("*/seed-*/") if path.name[5:].isdecimal()}
