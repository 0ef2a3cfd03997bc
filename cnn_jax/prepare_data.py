"""Prepares a data set for training, or checks one.

    cnn_jax data prepare cifar10
    cnn_jax data prepare cifar10 --from=cifar-10-binary.tar.gz
    cnn_jax data prepare imagenet2012 --dir=/data/tfds
    cnn_jax data prepare imagenet2012 --dir=/data/tfds --from-tfrecord
    cnn_jax data check imagenet2012 --dir=/data/tfds
    cnn_jax data check photos

NAME is that of the TFDS catalog (https://www.tensorflow.org/datasets/catalog), with its variant if it has several:
imagenette/320px-v2. mnist, fashion_mnist, cifar10, cifar100 and svhn_cropped (or svhn) are prepared from the archives
that their authors published, without TensorFlow; --from takes archives that you downloaded elsewhere. Other data sets
are downloaded and prepared by TFDS, which needs TensorFlow for that (the extra "prepare"). `check` reads and decodes
every record of a data set, or every picture of DIR/PART/CLASS/... or DIR/CLASS/...

`python -m cnn_jax.prepare_data NAME` is `cnn_jax data prepare NAME`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl.flags import DEFINE_bool, DEFINE_string

from cnn_jax.config import cli
from cnn_jax.core.errors import check, check_choice

VERBS = ("prepare", "check")


def define(flags: cli.Flags) -> None:
    DEFINE_string(
        "dir", "", "FOLDER: of prepared data sets. Default: TFDS_DATA_DIR or ~/tensorflow_datasets.", flag_values=flags
    )
    DEFINE_string("from", "", "PATH: The published archive, or the folder of several, not unpacked.", flag_values=flags)
    DEFINE_bool("from-tfrecord", False, "Convert what is in --dir as TFRecord; no TensorFlow.", flag_values=flags)
    DEFINE_string(
        "to", "", "FOLDER: of data sets, for the result of --from-tfrecord. Default: --dir.", flag_values=flags
    )
    DEFINE_bool("check", False, "The same as `cnn_jax data check NAME`.", flag_values=flags)


def run(flags: cli.Flags, words: list[str]) -> None:
    words = ["prepare", *words] if len(words) == 1 and words[0] not in VERBS else words
    check(len(words) == 2, "name one data set, such as cifar10, or a folder of pictures to check")
    verb, name = words
    check_choice("the first word", verb, VERBS)
    converts, checks = flags["from-tfrecord"].value, flags.check or verb == "check"
    check(not (converts and checks), "--from-tfrecord and --check are two commands: give one")
    check(converts or not flags.to, "--to goes with --from-tfrecord")
    source = flags["from"].value
    check(not source or not (converts or checks), "--from goes with `cnn_jax data prepare NAME`, which prepares")
    if checks and Path(name).is_dir():
        check_pictures(Path(name))
        return
    from cnn_jax.data import prepare

    prepare.run(name, flags.dir, source=source, converts=converts, to=flags.to, checks=checks)


def check_pictures(folder: Path) -> None:
    """Prints what is in a folder of pictures; raises UserError with what is wrong."""
    from cnn_jax.core.progress import progress_bar
    from cnn_jax.data import folder_check, prepare
    from cnn_jax.display.tables import Sheet, render, screen

    with progress_bar("checking", None) as advance:
        report = folder_check.inspect(folder, advance)
    lines = [(one.part, one.name, one.pictures, one.smallest, one.largest) for one in report.classes]
    total = sum(one.pictures for one in report.classes)
    title = f"{folder}: {total:,} pictures, height x width of the smallest and the largest"
    print(
        render([Sheet(title, ("part", "class", "pictures", "smallest", "largest"), lines)], "text", width=screen()),
        end="",
    )
    for note in report.notes:
        print(f"note: {note}")
    prepare.refuse(folder, report.wrong)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.call(define, run, argv, usage="cnn_jax data {prepare NAME,check NAME,check DIR} [flags]")


if __name__ == "__main__":
    sys.exit(main())
