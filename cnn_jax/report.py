"""Makes tables of finished runs: test accuracy over seeds, and a scorecard with published results.

    cnn_jax report runs/*
    cnn_jax report runs/* --format=markdown --columns=network,seeds,test,median,time,command
    cnn_jax report runs/* --nogroup --format=csv
    cnn_jax report runs/* --scorecard
    cnn_jax report runs/* --curves=curves.html

Numbers are those of the test part after the last step. Unfinished and damaged runs are named on the error output, with
what is missing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_list, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check


def define(flags: cli.Flags) -> None:
    DEFINE_enum("format", "text", ["text", "markdown", "csv", "json"], "What to print.", flag_values=flags)
    DEFINE_bool(
        "group",
        True,
        "One line for runs that differ in the seed only; --nogroup: for each run.",
        flag_values=flags,
    )
    DEFINE_list(
        "columns",
        [],
        "COLUMN,...: beginnings of the headings to print. Default: what differs.",
        flag_values=flags,
    )
    DEFINE_bool("scorecard", False, "Published results and those of the runs, side by side.", flag_values=flags)
    DEFINE_string(
        "curves",
        None,
        "FILE.png or FILE.html: draw loss and error of all runs over epochs, also of those that are training.",
        flag_values=flags,
    )


def run(flags: cli.Flags, words: list[str]) -> None:
    check(flags.group or not flags.scorecard, "--scorecard is of groups: leave --nogroup out")
    check(bool(words), "name the folders of runs: cnn_jax report runs/*")
    if flags.curves is not None:
        from cnn_jax.reporting import curves

        path = Path(flags.curves)
        check(path.suffix in (".png", ".html"), f"--curves is {flags.curves!r}, but must end in .png or .html")
        cli.check_output(path, "--curves")
        for note in curves.write([Path(word) for word in words], path):
            print(note, file=sys.stderr)
        print(path)
        return
    from cnn_jax.reporting import run_tables

    run_tables.show(words, flags.format, grouped=flags.group, columns=flags.columns, with_scorecard=flags.scorecard)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax report RUNS... [flags]")


if __name__ == "__main__":
    sys.exit(main())
