"""Trains a network.

    cnn_jax train --config=resnet50
    cnn_jax train --config=resnet20:cifar10 --workdir=runs/mine --config.optim.learning_rate=0.05
    cnn_jax train --from=runs/mine --workdir=runs/again
    cnn_jax train --list

`python -m cnn_jax.main` is the same command. With --mode=eval it is `cnn_jax evaluate`.
"""

import sys
from collections.abc import Sequence

from absl.flags import DEFINE_bool, DEFINE_enum

from cnn_jax.config import cli, recipes
from cnn_jax.core.errors import check
from cnn_jax.training import flags as training


def define(flags: cli.Flags) -> None:
    training.define(flags)
    DEFINE_bool("list", False, "List all recipes and stop.", flag_values=flags)
    with flags.under("Evaluation"):
        DEFINE_enum("mode", "train", ["train", "eval"], "eval: evaluate the run in --workdir.", flag_values=flags)
        training.define_evaluation(flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    cli.check_no_words(words)
    evaluates = flags.mode == "eval"
    for flag in ("dry-run", "extend", "profile") if evaluates else ("checkpoint", "checkpoints"):
        mode = "training, not with --mode=eval" if evaluates else "--mode=eval: training resumes from the latest one"
        check(not flags[flag].value, f"--{flag} goes with {mode}")
    if flags.list:
        print(recipes.listing())
    elif evaluates:
        training.evaluate(flags)
    else:
        training.train(flags)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax train --config=RECIPE[:DATASET] [flags]")


if __name__ == "__main__":
    sys.exit(main())
