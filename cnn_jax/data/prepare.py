"""Gets a data set of TFDS ready for training: downloads it, converts what was prepared as TFRecord, checks it.

Five are prepared from their published archives, without TensorFlow: see `archives`. The others are prepared by TFDS.
"""

import concurrent.futures
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import locked, storage_errors
from cnn_jax.core.progress import progress_bar
from cnn_jax.data import archives, prepared, tfrecord
from cnn_jax.data.decode import decode
from cnn_jax.data.tfrecord import check_room

# What has to be downloaded by hand, where TFDS would continue without: file -> size, bytes.
MANUAL = {"imagenet2012": {"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160}}
MOST_LINES = 20  # of what is wrong


def run(name: str, given: str, *, source: str = "", converts: bool = False, to: str = "", checks: bool = False) -> None:
    """Prepares a data set, if it is not there, converts it or checks it, and prints what it is.

    Args:
      given: the folder of data sets, or "" for the usual one. source: the published archive, or the folder of several;
        "" downloads them. converts: from TFRecord. to: the folder of data sets that gets the result, or "" for the
        same. checks: reads every record.

    Raises:
      UserError: no such data set, or what is there is not whole. StorageError: a folder cannot be written.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    check(name not in prepared.BUNDLED, f"{name!r} is not a data set of TFDS, and needs no preparing")
    directory = prepared.data_dir(given)
    name = prepared.full_name(archives.ALIASES.get(name, name), directory)
    check(
        not source or name in archives.ARCHIVES,
        f"--from goes with {', '.join(archives.ARCHIVES)}; {name!r} is prepared by TFDS",
    )
    there = bool(list((directory / name).glob("*/dataset_info.json")))
    if not (converts or checks or there):
        if name in archives.ARCHIVES:
            archives.prepare(name, directory, source, console)
        else:
            prepare(name, directory, console)
    folder = prepared.find(name, directory)
    info = prepared.read_info(folder)
    if converts:
        target = Path(to).expanduser() / folder.relative_to(directory) if to else folder
        convert(info, folder, target, console, flag="--to" if to else "--dir")
        folder, info = target, prepared.read_info(target)
    prepared.check_readable(info, folder, prepared.command(name, directory))
    if checks:
        check_records(info, folder, console)
    sizes = ", ".join(f"{split.num_examples:,} {part}" for part, split in info.splits.items())
    console.print(f"{info.full_name}: {sizes}; {info.features['label'].num_classes} classes; in {folder}")


def refuse(folder: Path, wrong: Sequence[str]) -> None:
    """Raises UserError with what is wrong, if anything is: at most `MOST_LINES`."""
    more = [f"and {len(wrong) - MOST_LINES:,} more"] if len(wrong) > MOST_LINES else []
    lines = "\n".join(f"  {line}" for line in [*wrong[:MOST_LINES], *more])
    check(not wrong, f"{folder} is not whole:\n{lines}")


# ---------------------------------------------------------------- download


def prepare(name: str, directory: Path, console: Console) -> None:
    """Downloads a data set and prepares it as array_record, by TFDS.

    Raises:
      UserError: files that have to be downloaded by hand are not there or of another size, TensorFlow is missing, or
        TFDS gives up.
      StorageError: too little room.
    """
    check_manual(name, directory / "downloads" / "manual")
    check_room(directory, sum(MANUAL.get(name, {}).values()))  # the pictures are copied as they are
    check_installed()
    import tensorflow_datasets as tfds

    try:
        builder: Any = tfds.builder(name, data_dir=str(directory), file_format=prepared.FORMAT)
        prepared.check_readable(builder.info, Path(builder.data_dir), "")
        console.print(f"downloading and preparing {builder.info.full_name} in {builder.data_dir}")
        with storage_errors(f"{directory} cannot be written"), locked(directory / name, flag="--dir"):
            builder.download_and_prepare()
    except UserError:
        raise
    except Exception as error:  # of any kind: no network, another checksum, a package that a data set needs
        raise UserError(
            f"{name} could not be prepared: {type(error).__name__}: {error}\nNothing half-done counts: the same "
            "command starts again, and does not download again what is complete"
        ) from None


def check_manual(name: str, folder: Path) -> None:
    """Raises UserError unless the files that one has to download by hand are whole in `folder`, as far as sizes say."""
    wrong = []
    for file, size in MANUAL.get(name, {}).items():
        path = folder / file
        found = path.stat().st_size if path.is_file() else None
        state = "is not there" if found is None else f"has {found:,} bytes: it is cut off or another file"
        if found != size:
            wrong.append(f"  {path} {state}")
    total = sum(MANUAL.get(name, {}).values())
    listed = "\n".join(f"  {file}, {size:,} bytes" for file, size in MANUAL.get(name, {}).items())
    check(
        not wrong,
        f"{name} has to be downloaded by hand, once, after registering at https://image-net.org/download-images:\n"
        f"{listed}\ninto {folder} (not unpacked; {total / 1e9:.0f} GB, and the same again for the prepared copy, after "
        "which they can be removed).\nWhat is wrong:\n" + "\n".join(wrong) + "\nA copy that TFDS has prepared as "
        "TFRecord elsewhere serves as well: --dir=ITS_FOLDER --from-tfrecord",
    )


def check_installed() -> None:
    """Raises UserError unless what TFDS needs for preparing, but not for reading, is installed."""
    missing = [name for name in ("tensorflow", "importlib_resources") if importlib.util.find_spec(name) is None]
    check(
        not missing,
        f"preparing a data set needs {' and '.join(missing)}, once; training does not:\n"
        "  pip install 'cnn-jax[prepare]'\n"
        "What is prepared on another machine (file_format='array_record') can be copied here as a folder",
    )


# ---------------------------------------------------------------- convert, check


def convert(info: Any, folder: Path, to: Path, console: Console, *, flag: str) -> None:
    """Converts TFRecord into array_record; see `tfrecord.convert`. `flag` named `to`."""
    if prepared.file_format(info) == prepared.FORMAT and to == folder:
        console.print(f"{folder} has {prepared.FORMAT} already")
        return
    total = sum(split.num_examples for split in info.splits.values())
    console.print(f"converting {info.full_name} into {to}")
    with (
        storage_errors(f"{to} cannot be written"),
        locked(to.parent, flag=flag),
        progress_bar("converting", total) as advance,
    ):
        tfrecord.convert(info, folder, to, advance)


def check_records(info: Any, folder: Path, console: Console) -> None:
    """Reads and decodes every record; raises UserError with what is wrong, by file."""
    wrong: list[str] = []
    total = sum(split.num_examples for split in info.splits.values())
    with (
        progress_bar("checking", total) as advance,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for part, split in info.splits.items():
            tasks = [
                pool.submit(check_shard, Path(os.fspath(file)), int(count), info.features, advance)
                for file, count in zip(split.filepaths, split.shard_lengths, strict=True)
            ]
            results = [task.result() for task in tasks]
            unlabelled = sum(number for _, number in results)
            for lines, _ in results:
                wrong.extend(lines)
            if unlabelled == split.num_examples:
                console.print(f"the split {part!r} has no labels: training cannot use it")
            elif unlabelled:
                wrong.append(f"{folder}: {unlabelled:,} of {split.num_examples:,} records of {part!r} have no label")
    refuse(folder, wrong)
    console.print(f"all {total:,} records can be read and decoded")


def check_shard(file: Path, count: int, features: Any, advance: Callable[[int], None]) -> tuple[list[str], int]:
    """Returns (what is wrong with a file of records, how many have the label -1, which stands for none)."""
    channels, num_classes = features["image"].shape[-1] or 3, features["label"].num_classes
    wrong, unlabelled = [], 0
    try:
        reader = prepared.open_shard(file, count)
    except UserError as error:
        advance(count)
        return [str(error).split("\n")[0]], 0
    for start in range(0, count, 256):
        positions = range(start, min(start + 256, count))
        for position, record in zip(positions, prepared.read_many(reader, positions), strict=True):
            where = f"{file}, record {position}"
            try:
                record = prepared.read_one(reader, position, where) if record is None else record
                image, label = prepared.parse(record, where)
                decode(where, channels, image)
                if label == -1:
                    unlabelled += 1
                else:
                    prepared.check_label(label, num_classes, where)
            except UserError as error:
                wrong.append(str(error))
        advance(len(positions))
    return wrong, unlabelled
