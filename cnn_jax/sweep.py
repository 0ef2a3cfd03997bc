"""Answers the question of an experiment: runs its arms, each with several seeds, and makes the report.

    cnn_jax sweep --list
    cnn_jax sweep residual --dry-run
    cnn_jax sweep residual
    cnn_jax sweep residual:cifar10:full --jobs=8
    cnn_jax sweep bottlenecks --cost
    cnn_jax sweep --index=runs/sweeps

QUESTION is one of --list, or a file of your own. Every arm is an ordinary run: --dry-run prints the command that trains
it alone. Finished runs are not repeated, stopped runs resume, and failed runs are reported and tried again by the next
call. The report is made from all finished runs, at the end or with --report.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_integer, DEFINE_multi_string, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check, check_folder

RUNNING = ("only", "jobs", "dry-run")  # flags of a sweep that runs
OTHERS = ("seeds", "folder", "launcher", "submit")


def define(flags: cli.Flags) -> None:
    DEFINE_bool("list", False, "Print our experiments and their questions.", flag_values=flags)
    DEFINE_string("index", None, "FOLDER: only write a page over the reports in its folders.", flag_values=flags)
    DEFINE_bool("dry-run", False, "Print the arms, what differs between them, and their commands.", flag_values=flags)
    DEFINE_string("only", None, "REGEX: only arms whose names have it.", flag_values=flags)
    DEFINE_integer("seeds", None, "Seeds of every arm, from 0. Default: what the experiment says.", flag_values=flags)
    DEFINE_bool("report", False, "Only make the report, of what is there.", flag_values=flags)
    DEFINE_bool("cost", False, "Only measure what its parts of networks cost, and print it.", flag_values=flags)
    DEFINE_enum("format", "text", ["text", "markdown", "json"], "With --cost: what to print.", flag_values=flags)
    DEFINE_string("folder", None, "FOLDER: of runs and report. Default: runs/sweeps/NAME.", flag_values=flags)
    DEFINE_integer(
        "jobs", None, "Runs at once. Default: one for each GPU; on CPUs for each four cores.", flag_values=flags
    )
    DEFINE_enum("launcher", "here", ["here", "slurm"], "Where the arms run.", flag_values=flags)
    DEFINE_multi_string(
        "submit", [], "NAME=VALUE: of submitit for --launcher=slurm, such as timeout_min=60.", flag_values=flags
    )


def run(flags: cli.Flags, words: list[str]) -> int | None:
    if flags.list:
        from cnn_jax.sweeping import question

        print(question.listing())
        return None
    if flags.index is not None:
        return index(words, flags)
    check(len(words) == 1, "name one experiment, such as residual; --list shows all")
    (spec,) = words
    if flags.cost:
        return cost(spec, flags)
    check_flags(flags)
    from cnn_jax.sweeping import runner

    options = runner.SweepOptions(
        only=flags.only,
        seeds=flags.seeds,
        folder=flags.folder,
        jobs=flags.jobs,
        launcher=flags.launcher,
        submit=flags.submit,
        dry_run=flags["dry-run"].value,
    )
    command = shlex.join(["cnn_jax", "sweep", *(word for word in flags.arguments if word != "--report")])
    if flags.report:
        return runner.report(spec, options, command=command)
    return runner.sweep(spec, options, command=command)


def check_flags(flags: cli.Flags) -> None:
    """Raises UserError for flags that do not go with each other."""
    for flag in ("seeds", "jobs"):
        value = flags[flag].value
        check(value is None or value > 0, f"--{flag} is {value}, but must be above 0")
    slurm = flags.launcher == "slurm"
    check(slurm or not flags.submit, "--submit goes with --launcher=slurm")
    check(not (slurm and flags.jobs), "--jobs goes without --launcher: give --submit=slurm_array_parallelism=N")
    check(not flags["format"].present, "--format goes with --cost")
    check_folder("--folder", flags.folder or "")
    runs = slurm or any(flags[flag].value for flag in RUNNING)
    check(not (flags.report and runs), "--report takes --seeds and --folder only: it runs nothing")


def index(words: list[str], flags: cli.Flags) -> None:
    """Writes the page over all reports in a folder."""
    flagged = [f"--{flag}" for flag in (*RUNNING, *OTHERS, "report", "cost") if flags[flag].present]
    check(not words and not flagged, f"--index goes alone: leave {', '.join(words + flagged)} out")
    check_folder("--index", flags.index)
    from cnn_jax.sweeping import index

    print(f"the page is {index.make(Path(flags.index))}")


def cost(spec: str, flags: cli.Flags) -> None:
    """Prints what the parts of an experiment cost."""
    others = [flag for flag in (*RUNNING, *OTHERS, "report") if flags[flag].present]
    check(not others, f"--cost takes --format only: leave --{others and others[0]} out")
    from cnn_jax.sweeping import cost, question

    parts = question.load(spec).parts
    check(bool(parts), f"{spec} names no parts to measure")
    cost.show(parts, flags.format)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax sweep QUESTION[:DATASET][:full] [flags]")


if __name__ == "__main__":
    sys.exit(main())
