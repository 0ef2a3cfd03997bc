"""Trains a network that starts from a trained one.

    cnn_jax finetune resnet50.safetensors --data=folder --config.data.dir=photos
    cnn_jax finetune bundled:lenet5-mnist --data=digits --regime=head --workdir=runs/head
    cnn_jax finetune runs/head@best --data=digits

The network, its image size and normalization come from SOURCE; --data names the data set. Everything else is the recipe
for fine-tuning, configs/finetune.py. `cnn_jax train --from=RUN` repeats the run.
"""

import sys
from collections.abc import Sequence

from cnn_jax.config import cli
from cnn_jax.training import flags as training


def define(flags: cli.Flags) -> None:
    training.define_finetuning(flags)
    training.define(flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    training.finetune(flags, words)


def main(argv: Sequence[str] | None = None) -> int:
    usage = "cnn_jax finetune SOURCE --data=DATASET [flags]"
    return cli.call(define, run, argv, usage=usage, prints_config=False)


if __name__ == "__main__":
    sys.exit(main())
