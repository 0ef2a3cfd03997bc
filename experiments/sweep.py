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
from pathlib import Path

from cnn_jax import workdir
from cnn_jax.errors import UserError, check
from cnn_jax.tables import render
from experiments.experiment import experiments, load
from experiments.launch import run_here, slots, submit
from experiments.plan import differing, plan, plan_sheet, read_failures, tasks

if __name__ == "__main__":
    from absl import flags

    from cnn_jax import commandline

    _LIST = flags.DEFINE_bool("list", False, "Print the experiments and their questions.")
    flags.DEFINE_bool("dry-run", False, "Print the arms, what differs between them, and their commands; run nothing.")
    _ONLY = flags.DEFINE_string("only", None, "Regular expression: only arms whose names have it.")
    _SEEDS = flags.DEFINE_integer("seeds", None, "Seeds of every arm, from 0. Default: what the experiment says.")
    _REPORT = flags.DEFINE_bool("report", False, "Only make the report, of what is there.")
    _FOLDER = flags.DEFINE_string("folder", None, "Where runs and report go. Default: runs/sweeps/NAME.")
    _JOBS = flags.DEFINE_integer("jobs", None, "Runs at once. Default: one for each GPU; on CPUs for each four cores.")
    _LAUNCHER = flags.DEFINE_enum("launcher", "here", ["here", "slurm"], "Where the arms run.")
    _SUBMIT = flags.DEFINE_multi_string("submit", [], "NAME=VALUE of submitit for --launcher=slurm: timeout_min=60.")

    def launch(words: list[str]) -> int | None:
        """Does what the flags say; returns 1 if a run failed."""
        from experiments import report

        def say(text: str) -> None:
            print(text, flush=True)

        if _LIST.value:
            for path in experiments():
                say(f"{path}\n    {load(str(path)).question}")
            return None
        check(len(words) == 1, "name one experiment, such as experiments/residual.py; --list shows all")
        check(commandline.given_config() is None, "--config goes with training: an experiment names its own")
        for flag, value in (("seeds", _SEEDS.value), ("jobs", _JOBS.value)):
            check(value is None or value > 0, f"--{flag} is {value}, but must be above 0")
        experiment = load(words[0])
        folder = Path(_FOLDER.value or Path("runs") / "sweeps" / experiment.name)
        seeds = _SEEDS.value or experiment.seeds
        if _REPORT.value:
            check(folder.is_dir(), f"there is no {folder}: run the sweep first, or give its --folder")
            say(f"the report is {report.make(experiment, plan(experiment), folder, words[0])}")
            return None
        planned = plan(experiment)
        chosen = planned
        if _ONLY.value is not None:
            try:
                chosen = [one for one in planned if re.search(_ONLY.value, one.arm.name)]
            except re.error as error:
                raise UserError(f"--only={_ONLY.value!r} is no regular expression: {error}") from None
            names = "; ".join(one.arm.name for one in planned)
            check(bool(chosen), f"--only={_ONLY.value!r} matches none of the arms: {names}")
        say(experiment.question)
        say("")
        say(render([plan_sheet(chosen)], "text"))
        say("\n".join(differing(experiment, planned)))
        if flags.FLAGS["dry-run"].value:
            say("\n" + "\n".join(one.arm.command() for one in chosen))
            say(f"\nSEED: 0 to {seeds - 1}; folder: {folder}")
            return None
        with workdir.locked(folder, flag="--folder"):
            every = tasks(chosen, seeds, folder)
            pending = [task for task in every if task.finished() is None]
            say(f"\n{len(every)} runs in {folder}, {len(every) - len(pending)} of them finished")
            if _LAUNCHER.value == "slurm":
                options = {}
                for text in _SUBMIT.value:
                    name, equals, value = text.partition("=")
                    check(bool(equals), f"--submit={text!r}: must be NAME=VALUE, such as timeout_min=60")
                    options[name] = int(value) if value.isdecimal() else value
                jobs = submit(pending, folder, cluster="slurm", options=options) if pending else []
                say(f"{len(jobs)} jobs submitted; make the report at any time with --report")
                return None
            check(not _SUBMIT.value, "--submit goes with --launcher=slurm")
            run_here(pending, slots(_JOBS.value), folder, say)
            if experiment.parts:
                report.measure_cost(words[0], folder, say)
            say(f"the report is {report.make(experiment, planned, folder, words[0])}")
            failures = read_failures(folder)
            return 1 if failures else None

    commandline.launch(launch, operands=True)
