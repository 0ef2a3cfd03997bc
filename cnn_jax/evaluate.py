"""Evaluates a run, or the average of several, on the validation and the test part.

    cnn_jax evaluate runs/mine@best
    cnn_jax evaluate runs/mine --config.eval.protocol=10-crop
    cnn_jax evaluate runs/a runs/b@best runs/c

A run is FOLDER, FOLDER@best or FOLDER@STEP. Its own configuration is used; --config.eval fields may change.
"""

import sys
from collections.abc import Sequence

from cnn_jax.config import cli
from cnn_jax.training import flags as training


def define(flags: cli.Flags) -> None:
    cli.define_config(flags)
    with flags.under("The run"):
        training.define_workdir(flags, "FOLDER: the run, or what receives the numbers of several.")
        training.define_evaluation(flags)
    training.define_processes(flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    training.evaluate(flags, words)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax evaluate RUN... [flags]")


if __name__ == "__main__":
    sys.exit(main())
