"""Prints the layer table of a network, and networks side by side.

    cnn_jax summary --config=resnet50:imagenet2012
    cnn_jax summary --config=resnet50 --format=csv
    cnn_jax summary --config=resnet50 --compare=resnet18 --plot=layers.png
    cnn_jax summary --config=resnet50:imagenet2012 --compare="model.head=fc"

All numbers are for one image. No data set is opened.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_enum, DEFINE_multi_string, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check


def define(flags: cli.Flags) -> None:
    cli.define_config(flags)
    DEFINE_enum("format", "text", ["text", "markdown", "csv", "json"], "What to print.", flag_values=flags)
    DEFINE_multi_string(
        "compare",
        [],
        'NETWORK: another to compare with that of --config, "[RECIPE[:DATASET]] [FIELD=VALUE ...]"; may be repeated.',
        flag_values=flags,
    )
    DEFINE_string("plot", None, "FILE: PNG to draw parameters and MACs of each layer in.", flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    cli.check_no_words(words)
    plot = Path(flags.plot) if flags.plot is not None else None
    check(plot is None or plot.suffix == ".png", f"--plot is {flags.plot!r}, but must be a file that ends in .png")
    first = cli.needed(flags)
    configurations = [first, *(first.other(text, flag="--compare") for text in flags.compare)]
    from cnn_jax.analysis import layer_sheets
    from cnn_jax.training.config_check import check_config

    for one in configurations:
        check_config(one.config)
    layer_sheets.show(configurations, flags.format, plot)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax summary --config=RECIPE[:DATASET] [flags]")


if __name__ == "__main__":
    sys.exit(main())
