"""Answers the question of an experiment: plans its arms, runs them, and makes the report."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import locked, read_json
from cnn_jax.display.tables import render, screen
from cnn_jax.sweeping import search, sweep_report
from cnn_jax.sweeping.launch import Slot, check_not_submitted, run_here, slots, submit
from cnn_jax.sweeping.plan import Planned, check_fit, differing, first_tasks, plan, plan_sheet, tasks
from cnn_jax.sweeping.question import Experiment, load


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep runs.

    only: regular expression that the names of arms must match. seeds: for every arm, from 0; None: the experiment's.
    folder: of runs and report; None: runs/sweeps/NAME. jobs: runs at once; None: see `launch.slots`.
    launcher: "here" or "slurm". submit: NAME=VALUE of submitit.
    """

    only: str | None = None
    seeds: int | None = None
    folder: str | None = None
    jobs: int | None = None
    launcher: str = "here"
    submit: Sequence[str] = ()
    dry_run: bool = False


def sweep(spec: str, options: SweepOptions, *, command: str) -> int:
    """Runs the unfinished runs of a sweep and writes its report; returns 1 if a run failed, else 0.

    Args:
      spec: see `question.load`. command: what was called, for the report.

    Raises:
      UserError: the experiment or an option is impossible, or a folder holds a run of another configuration.
    """
    settings, places = submit_options(options.submit), slots(options.jobs)
    experiment = load(spec)
    folder, seeds = folder_of(experiment, options), options.seeds or experiment.seeds
    planned = plan(experiment)
    chosen = chosen_arms(planned, options.only)
    say(f"{experiment.question}\n")
    say(render([plan_sheet(chosen), differing(experiment, planned)], "text", width=screen()).rstrip("\n"))
    if options.dry_run:
        first = [f"{task.arm.command(0)} --workdir={task.folder}" for task in first_tasks(experiment)]
        say("\n".join(["", *first, *(one.arm.command() for one in chosen)]))
        runs = f"{len(chosen) * seeds} runs"
        if experiment.search:
            name, values = experiment.search
            tried = ", ".join(f"{value:g}" for value in values)
            say(f"\nfirst, a search of {name} for each arm, with seed {search.SEED}: {tried}, and beyond")
            runs += f" and at least {len(chosen) * len(values)} of the search"
        say(f"\n{runs}; SEED: 0 to {seeds - 1}; folder: {folder}")
        return 0
    with locked(folder, flag="--folder"):
        train_first(experiment, places, options.launcher)
        if experiment.search:
            searches = run_search(experiment, chosen, folder, places, options.launcher, settings)
            if any(found.pending for found in searches):
                return 0
            chosen = search.with_best(chosen, searches, experiment.search[0])
        every = tasks(chosen, range(seeds), folder)
        check_fit(every)
        pending = [task for task in every if task.finished() is None]
        say(f"\n{len(every)} runs in {folder}, {len(every) - len(pending)} of them finished")
        check_not_submitted(folder, pending)
        if options.launcher == "slurm":
            jobs = submit(pending, folder, cluster="slurm", options=settings) if pending else []
            say(f"{len(jobs)} jobs submitted; make the report at any time with --report")
            return 0
        run_here(pending, places, say)
        if experiment.parts:
            sweep_report.measure_cost(experiment, spec, folder, say)
        make_report(experiment, planned, folder, seeds, command)
        return 1 if any(task.finished() is None for task in every) else 0


def report(spec: str, options: SweepOptions, *, command: str) -> None:
    """Writes the report of the finished runs; arguments as in `sweep`."""
    experiment = load(spec)
    folder = folder_of(experiment, options)
    check(folder.is_dir(), f"there is no {folder}: run the sweep first, or give its --folder")
    make_report(experiment, plan(experiment), folder, options.seeds or experiment.seeds, command)


def make_report(experiment: Experiment, planned: list[Planned], folder: Path, seeds: int, command: str) -> None:
    path = sweep_report.make(experiment, planned, folder, seeds=seeds, command=command)
    say("\n".join(["", experiment.question, *read_json(folder / "answers.json")["answers"]]))
    say(f"\nthe report is {path}")


def folder_of(experiment: Experiment, options: SweepOptions) -> Path:
    return Path(options.folder or Path("runs") / "sweeps" / experiment.name)


def say(text: str) -> None:
    print(text, flush=True)


def chosen_arms(planned: list[Planned], only: str | None) -> list[Planned]:
    """Returns the arms whose names match the regular expression `only`; raises UserError if there is none."""
    if only is None:
        return planned
    try:
        chosen = [one for one in planned if re.search(only, one.arm.name)]
    except re.error as error:
        raise UserError(f"--only={only!r} is not a regular expression: {error}") from None
    check(bool(chosen), f"--only={only!r} matches none of the arms: {'; '.join(one.arm.name for one in planned)}")
    return chosen


def submit_options(words: Sequence[str]) -> dict[str, Any]:
    """Returns the options NAME=VALUE of submitit."""
    options: dict[str, Any] = {}
    for text in words:
        name, equals, value = text.partition("=")
        check(bool(equals), f"--submit={text!r}: must be NAME=VALUE, such as timeout_min=60")
        options[name] = int(value) if value.isdecimal() else value
    return options


def run_search(
    experiment: Experiment,
    chosen: list[Planned],
    folder: Path,
    places: list[Slot],
    launcher: str,
    settings: dict[str, Any],
) -> list[search.Search]:
    """Runs the unfinished runs of the search and returns what is found; on a cluster, runs are submitted and stay
    pending.

    Raises:
      UserError: all runs of an arm's search failed.
    """
    tried: set[Path] = set()
    while True:
        searches = search.search(experiment, chosen, folder)
        waiting = [task for found in searches for task in (*found.pending, *found.failed)]
        pending = [task for task in waiting if task.folder not in tried]
        if not pending:
            break
        check_fit(pending)
        check_not_submitted(folder, pending)
        say(f"\n{len(pending)} runs of the search in {folder}")
        if launcher == "slurm":
            jobs = submit(pending, folder, cluster="slurm", options=settings)
            say(f"{len(jobs)} jobs submitted; when they are over, start the same command again")
            return searches
        run_here(pending, places, say)
        tried |= {task.folder for task in pending}
    for found in searches:
        why = "; ".join(f"{task.folder}: {task.failure}" for task in found.failed)
        check(bool(found.scores), f"{found.arm.name}: none of the runs of its search is finished: {why}")
    return searches


def train_first(experiment: Experiment, places: list[Slot], launcher: str) -> None:
    """Trains what the arms start from."""
    first = first_tasks(experiment)
    check_fit(first)
    pending = [task for task in first if task.finished() is None]
    if not pending:
        return
    lines = "\n".join(f"{task.arm.command(0)} --workdir={task.folder}" for task in pending)
    check(launcher == "here", f"the arms start from a run that is not there: train it first\n{lines}")
    say(f"\nfirst, what the arms start from:\n{lines}")
    run_here(pending, places[:1], say)
    for task in pending:
        check(task.finished() is not None, f"the arms cannot start: {task.folder} is not finished ({task.failure})")
