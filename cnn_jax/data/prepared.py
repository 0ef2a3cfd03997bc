"""Data sets that TFDS has prepared: where they are, what they say of themselves, and their records.

FOLDER/NAME/VERSION/ or FOLDER/NAME/VARIANT/VERSION/ holds dataset_info.json (the splits, and how many records each of
their files has), features.json, the names of the classes, and the files: shards of records, of which each is a
serialized tf.train.Example. All of it is foreign: what is missing or damaged is an error that names the file. Reading
needs no TensorFlow.
"""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import NotPreparedError, UserError, check, check_folder, near
from cnn_jax.core.files import read_json, read_text
from cnn_jax.data.dataset import SOURCES
from cnn_jax.data.decode import UnreadableError

FORMAT = "array_record"  # the format of TFDS that has random access
BUNDLED = sorted(set(SOURCES) - {"tfds"})  # data sets that are not TFDS's are called as their source

# ---------------------------------------------------------------- where data sets are


def data_dir(given: str) -> Path:
    """Returns the folder of prepared data sets: the one that is `given`, TFDS_DATA_DIR, or ~/tensorflow_datasets.

    Raises:
      UserError: it is the URL of a bucket.
    """
    folder = given or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    check_folder("the folder of data sets" if given else "TFDS_DATA_DIR", folder)
    return Path(folder).expanduser()


def find(name: str, directory: Path) -> Path:
    """Returns the folder of the newest version of the data set `name`, NAME or NAME/VARIANT; see `full_name`.

    Raises:
      NotPreparedError: it is not there; the message says how to get it, or the near match of the name.
    """
    folder = directory / full_name(name, directory)
    versions = sorted(folder.glob("*/dataset_info.json"), key=_version)
    if versions:
        return versions[-1].parent
    others = directory.glob(f"{name.split('/')[0]}/*/*/dataset_info.json")
    prepared = sorted({str(info.parent.parent.relative_to(directory)) for info in others})
    also = f" Prepared are {', '.join(prepared)}." if prepared else ""
    raise NotPreparedError(
        f"data set {name!r} is not prepared: no {folder}/VERSION/dataset_info.json.{also}\n"
        "If it is elsewhere, give --config.data.dir=FOLDER or set TFDS_DATA_DIR. To download and prepare it here:\n"
        f"  {command(name, directory)}"
    )


def command(name: str, directory: Path) -> str:
    """Returns the command that prepares, converts or checks a data set."""
    return f"cnn_jax data prepare {name} --dir={shlex.quote(str(directory))}"


def full_name(name: str, directory: Path) -> str:
    """Returns NAME/VARIANT of a data set that TFDS has in variants, with TFDS's default for one without, else `name`.

    Raises:
      UserError: TFDS has no such data set, and none of that name lies in `directory`.
    """
    if (directory / name).is_dir() and list((directory / name).glob("*/dataset_info.json")):
        return name
    import tensorflow_datasets as tfds

    base, _, variant = name.partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        prepared = [path.name for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []
        others = sorted({*known, *prepared, *BUNDLED})
        check(
            base in prepared,
            f"no data set is called {name!r}{near(name.lower(), others) or '.'} Known: what {directory} holds, "
            f"{', '.join(BUNDLED)}, and the data sets of TFDS "
            "(https://www.tensorflow.org/datasets/catalog)",
        )
        return name
    builder: Any = tfds.builder_cls(base)
    variants = [config.name for config in builder.BUILDER_CONFIGS]
    if not variants and not variant:
        return name
    check(
        not variant or variant in variants,
        f"data set {base!r} has no variant {variant!r}{near(variant, variants) or '.'} "
        f"It has {', '.join(variants) or 'none'}",
    )
    return f"{base}/{variant or builder.default_builder_config.name}"


def _version(info: Path) -> list[int]:
    """Returns the version of a prepared data set, the name of its folder, so that 10.0.0 is after 9.0.0."""
    return [int(number) for number in re.findall(r"\d+", info.parent.name)]


# ---------------------------------------------------------------- what a prepared data set says of itself


def read_info(folder: Path) -> Any:
    """Returns the tfds.core.DatasetInfo of a prepared data set, in array_record if it has that format.

    Raises:
      UserError: dataset_info.json or features.json is missing or damaged.
    """
    features = folder / "features.json"
    check(features.is_file(), f"{features} is missing: {again(folder)}")
    classes: list[str] = []

    def collect(fields: dict[str, Any]) -> dict[str, Any]:
        named = (fields.get(key) for key in ("pythonClassName", "python_class_name", "type"))
        classes.extend(name for name in named if isinstance(name, str))
        return fields

    import tensorflow_datasets as tfds

    file = features
    try:
        json.loads(read_text(features), object_hook=collect)
        for name in classes:  # TFDS imports the modules of these
            check(name.startswith("tensorflow_datasets."), f"it has a feature of the class {name}, which is not TFDS's")
        file = folder / "dataset_info.json"
        read_json(file)
        file = folder
        info: Any = tfds.builder_from_directory(folder).info
        if file_format(info) != FORMAT and FORMAT in {one.value for one in info.available_file_formats()}:
            info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    except Exception as error:  # of any kind: TFDS checks little
        raise UserError(f"{file} cannot be read: {error}\nIt is damaged or none of TFDS's: {again(folder)}") from None
    return info


def file_format(info: Any) -> str:
    return str(getattr(info.file_format, "value", info.file_format))


def check_readable(info: Any, folder: Path, fix: str) -> None:
    """Raises UserError unless records have random access, an image and a label; `fix` is the command that converts."""
    check(
        file_format(info) == FORMAT,
        f"{folder} was prepared as {file_format(info)!r}, which has no random access.\n"
        f"To convert it, without TensorFlow:\n  {fix} --from-tfrecord",
    )
    import tensorflow_datasets as tfds

    features = dict(info.features or {})
    check(
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
        and features["image"].np_dtype in (np.uint8, np.uint16)
        and bool(features["label"].num_classes),
        f"{folder} has the features {sorted(features)}, but 'image', a picture, and 'label', one of a number of "
        "classes, are needed: it is not a classification data set",
    )


def again(folder: Path) -> str:
    return f"copy {folder} again, or remove it and prepare it again"


# ---------------------------------------------------------------- its records


def open_shard(file: Path, count: int) -> Any:
    """Returns the open reader of a file of `count` records; raises UserError if it is missing, damaged or another."""
    from array_record.python.array_record_module import ArrayRecordReader

    check(file.is_file(), f"{file} is missing: {again(file.parent)}")
    reader = ArrayRecordReader(
        str(file), options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
    )
    if not reader.ok():
        try:
            reader.read([0])
            reason = "its index cannot be read"
        except RuntimeError as error:
            reason = str(error)
        raise UserError(f"{file} is damaged or cut off: {reason}\nWhat to do: {again(file.parent)}")
    found = reader.num_records()
    check(
        found == count,
        f"{file} has {found:,} records, but dataset_info.json next to it says {count:,}: {again(file.parent)}",
    )
    return reader


def parse(record: bytes, where: str) -> tuple[bytes, int]:
    """Returns (image file, label) of a serialized tf.train.Example; raises UnreadableError, with `where` it is."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    proto: Any = tf_example_pb2
    try:
        features = proto.Example.FromString(record).features.feature
        (image,), (label,) = features["image"].bytes_list.value, features["label"].int64_list.value
    except (DecodeError, ValueError) as error:
        raise UnreadableError(f"{where}: it holds no image with a label: {error}") from None
    return image, label


def read_many(reader: Any, positions: Sequence[int]) -> Sequence[bytes | None]:
    """Returns the records at `positions` in a tenth of the time of one by one; all None where one is damaged."""
    try:
        return reader.read(positions)
    except RuntimeError:
        return [None] * len(positions)


def read_one(reader: Any, position: int, where: str) -> bytes:
    """Returns the record at `position`; raises UnreadableError, with `where` it is."""
    try:
        (record,) = reader.read([position])
    except RuntimeError as error:
        raise UnreadableError(f"{where}: it is damaged: {error}") from None
    return record


def check_label(label: int, num_classes: int, where: str) -> None:
    """Raises UserError for a label that is not a class."""
    hint = " (-1 stands for an example without a label: choose another split)" if label == -1 else ""
    check(0 <= label < num_classes, f"{where}: its label is {label}, but must be in 0..{num_classes - 1}{hint}")
