"""Answers the question of an experiment: runs its arms, each with several seeds, and makes the report.

    python -m experiments.sweep --list
    python -m experiments.sweep experiments/residual.py --dry-run
    python -m experiments.sweep experiments/residual.py
    python -m experiments.sweep experiments/residual.py:cifar10:full --jobs=8

Every arm is an ordinary run: `--dry-run` prints the command that trains it alone. What is finished is not run again,
what was stopped goes on, what failed is reported and tried again by the next call; the report is made from what is
there, at the end or with --report.
"""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check, check_folder
from cnn_jax.display.tables import render
from cnn_jax.tracking import workdir
from cnn_jax.sweeping.question import Experiment, experiments, load
from cnn_jax.sweeping.launch import Slot, check_not_submitted, run_here, slots, submit
from cnn_jax.sweeping.plan import Planned, check_fit, differing, first_tasks, plan, plan_sheet, tasks

if __name__ == "__main__":
    from absl import flags

    from cnn_jax.config import commandline

    _LIST = flags.DEFINE_bool("list", False, "Print the experiments and their questions.")
    flags.DEFINE_bool("dry-run", False, "Print the arms, what differs between them, and their commands; run nothing.")
    _ONLY = flags.DEFINE_string("only", None, "Regular expression: only arms whose names have it.")
    _SEEDS = flags.DEFINE_integer("seeds", None, "Seeds of every arm, from 0. Default: what the experiment says.")
    _REPORT = flags.DEFINE_bool("report", False, "Only make the report, of what is there.")
    _FOLDER = flags.DEFINE_string("folder", None, "Where runs and report go. Default: runs/sweeps/NAME.")
    _JOBS = flags.DEFINE_integer("jobs", None, "Runs at once. Default: one for each GPU; on CPUs for each four cores.")
    _LAUNCHER = flags.DEFINE_enum("launcher", "here", ["here", "slurm"], "Where the arms run.")
    _SUBMIT = flags.DEFINE_multi_string("submit", [], "NAME=VALUE of submitit for --launcher=slurm: timeout_min=60.")

    def chosen_arms(planned: list[Planned]) -> list[Planned]:
        if _ONLY.value is None:
            return planned
        try:
            chosen = [one for one in planned if re.search(_ONLY.value, one.arm.name)]
        except re.error as error:
            raise UserError(f"--only={_ONLY.value!r} is no regular expression: {error}") from None
        names = "; ".join(one.arm.name for one in planned)
        check(bool(chosen), f"--only={_ONLY.value!r} matches none of the arms: {names}")
        return chosen

    def submit_options() -> dict[str, Any]:
        options: dict[str, Any] = {}
        for text in _SUBMIT.value:
            name, equals, value = text.partition("=")
            check(bool(equals), f"--submit={text!r}: must be NAME=VALUE, such as timeout_min=60")
            options[name] = int(value) if value.isdecimal() else value
        return options

    def train_first(experiment: Experiment, places: list[Slot], say: Callable[[str], None]) -> None:
        """Trains what the arms start from."""
        first = first_tasks(experiment)
        check_fit(first)
        pending = [task for task in first if task.finished() is None]
        if not pending:
            return
        lines = "\n".join(f"{task.arm.command(0)} --workdir={task.folder}" for task in pending)
        check(_LAUNCHER.value == "here", f"the arms start from a run that is not there: train it first\n{lines}")
        say(f"\nfirst, what the arms start from:\n{lines}")
        run_here(pending, places[:1], say)
        for task in pending:
            check(task.finished() is not None, f"the arms cannot start: {task.folder} is not finished ({task.failure})")

    def check_flags(words: list[str]) -> None:
        check(len(words) == 1, "name one experiment, such as experiments/residual.py; --list shows all")
        check(commandline.given_config() is None, "--config goes with training: an experiment names its own")
        for flag, value in (("seeds", _SEEDS.value), ("jobs", _JOBS.value)):
            check(value is None or value > 0, f"--{flag} is {value}, but must be above 0")
        slurm = _LAUNCHER.value == "slurm"
        check(slurm or not _SUBMIT.value, "--submit goes with --launcher=slurm")
        check(not (slurm and _JOBS.value), "--jobs goes without --launcher: give --submit=slurm_array_parallelism=N")
        others = (_ONLY.value, _JOBS.value, slurm or None, flags.FLAGS["dry-run"].value or None)
        check_folder("--folder", _FOLDER.value or "")
        check(not _REPORT.value or others == (None,) * 4, "--report takes --seeds and --folder only: it runs nothing")

    def launch(words: list[str]) -> int | None:
        """Does what the flags say; returns 1 if a run failed."""
        from experiments import report

        def say(text: str) -> None:
            print(text, flush=True)

        if _LIST.value:
            found = experiments()
            check(bool(found), "there are no experiments/*.py here: start it in the top folder of a clone")
            for path in found:
                say(f"{path}\n    {load(str(path)).question}")
            return None
        check_flags(words)
        options, places = submit_options(), slots(_JOBS.value)
        experiment = load(words[0])
        folder = Path(_FOLDER.value or Path("runs") / "sweeps" / experiment.name)
        seeds = _SEEDS.value or experiment.seeds
        check(not _REPORT.value or folder.is_dir(), f"there is no {folder}: run the sweep first, or give its --folder")
        planned = plan(experiment)
        command = shlex.join(
            ["python", "-m", "experiments.sweep", *(word for word in sys.argv[1:] if word != "--report")]
        )

        def make_report() -> None:
            say(f"the report is {report.make(experiment, planned, folder, seeds=seeds, command=command)}")

        if _REPORT.value:
            make_report()
            return None
        chosen = chosen_arms(planned)
        say(experiment.question)
        say("")
        say(render([plan_sheet(chosen)], "text"))
        say("\n".join(differing(experiment, planned)))
        if flags.FLAGS["dry-run"].value:
            say("")
            for task in first_tasks(experiment):
                say(f"{task.arm.command(0)} --workdir={task.folder}")
            say("\n".join(one.arm.command() for one in chosen))
            say(f"\nSEED: 0 to {seeds - 1}; folder: {folder}")
            return None
        with workdir.locked(folder, flag="--folder"):
            train_first(experiment, places, say)
            every = tasks(chosen, range(seeds), folder)
            check_fit(every)
            pending = [task for task in every if task.finished() is None]
            say(f"\n{len(every)} runs in {folder}, {len(every) - len(pending)} of them finished")
            check_not_submitted(folder, pending)
            if _LAUNCHER.value == "slurm":
                jobs = submit(pending, folder, cluster="slurm", options=options) if pending else []
                say(f"{len(jobs)} jobs submitted; make the report at any time with --report")
                return None
            run_here(pending, places, say)
            if experiment.parts:
                report.measure_cost(experiment, words[0], folder, say)
            make_report()
            return 1 if any(task.finished() is None for task in every) else None

    commandline.launch(launch, operands=True)
