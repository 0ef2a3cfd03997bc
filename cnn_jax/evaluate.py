"""Evaluates any trained network on any data set, or runs on the validation and the test part of their own data.

    cnn_jax evaluate runs/mine@best --output=results
    cnn_jax evaluate runs/mine --config.eval.protocol=10-crop
    cnn_jax evaluate runs/a runs/b@best runs/c
    cnn_jax evaluate bundled:lenet5-mnist --data=mnist --json=lenet5.json
    cnn_jax evaluate hub:timm/resnet50.tv_in1k --data=photos --output=results

A run is FOLDER, FOLDER@best or FOLDER@STEP. Its own configuration is used; --config.eval fields may change. Several are
an ensemble: their class probabilities are averaged.

With --data the network is any SOURCE: a run, bundled:NAME, FILE.safetensors, FILE.pth or hub:OWNER/NAME. Images
are prepared as in the test of its training; --config.FIELD=VALUE changes that. Classes are matched by name. It prints
accuracy, precision, recall and F1 of the classes, and the calibration: the expected calibration error (ECE), and the
temperature that fits the validation part.
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
    training.define_results(flags)
    training.define_processes(flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    training.evaluate_source(flags, words)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax evaluate SOURCE... [flags]")


if __name__ == "__main__":
    sys.exit(main())
