"""Names what pictures show: the most probable classes of a trained network; or writes its features.

    cnn_jax predict digit.png --checkpoint=bundled:lenet5-mnist
    cnn_jax predict photos 'more/**/*.jpg' --checkpoint=runs/mine@best --top=3 --format=csv --output=found.csv
    cnn_jax predict faces --checkpoint=runs/mine --features --output=faces.npz

Pictures are files, folders with all below them, or patterns in quotes; for networks of sequences and clips .npy files,
and folders of frames. Each is prepared as in the test of the training, in a single view.

With --features the file has the arrays features, float32 [N, F], files [N], source, and labels [N] if pictures lie in
folders below the one that is named: FOLDER/LABEL/a.png.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_bool, DEFINE_enum, DEFINE_float, DEFINE_integer, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check


def define(flags: cli.Flags) -> None:
    DEFINE_string("checkpoint", None, f"SOURCE: the trained network: {cli.SOURCES}.", flag_values=flags)
    DEFINE_integer("top", 5, "How many classes of each picture.", lower_bound=1, flag_values=flags)
    DEFINE_enum("format", "table", ["table", "json", "csv"], "csv has a line for each class.", flag_values=flags)
    DEFINE_string("output", None, "FILE: write there. Default: print; features.npz of features.", flag_values=flags)
    DEFINE_bool("features", False, "Write what the last layer sees of each picture.", flag_values=flags)
    DEFINE_bool("pixels", False, "With --features: the values that the network is given, instead.", flag_values=flags)
    with flags.under("Reading"):
        DEFINE_integer("batch-size", 64, "Examples in one step of the network.", lower_bound=1, flag_values=flags)
        DEFINE_enum(
            "on-error",
            "raise",
            ["raise", "skip"],
            "A file that cannot be read ends the command, or is left out and counted.",
            flag_values=flags,
        )
        DEFINE_float("timeout", 600.0, "Seconds to wait for a file.", lower_bound=0.001, flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> int:
    check(bool(words), "name the pictures: files, folders, or patterns such as 'photos/*.jpg'")
    check(bool(flags.checkpoint), "name the trained network: --checkpoint=SOURCE, such as bundled:lenet5-digits")
    for flag in ("top", "format") if flags.features else ("pixels",):
        check(not flags[flag].present, f"--{flag} goes with{'out' if flags.features else ''} --features")
    output = flags.output or ("features.npz" if flags.features else "")
    if output:
        cli.check_output(Path(output), "--output", ".npz" if flags.features else "")
    from cnn_jax.pretrained import predictions

    reading = dict(batch_size=flags["batch-size"].value, skip=flags["on-error"].value == "skip", timeout=flags.timeout)
    if flags.features:
        return predictions.write_features(flags.checkpoint, words, Path(output), pixels=flags.pixels, **reading)
    return predictions.predict(
        flags.checkpoint, words, Path(output) if output else None, top=flags.top, form=flags.format, **reading
    )


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax predict PICTURES... --checkpoint=SOURCE [flags]")


if __name__ == "__main__":
    sys.exit(main())
