"""From TFRecord to array_record, without TensorFlow: TFDS writes the same records into both.

A TFRecord file is a sequence of (uint64 length, masked CRC-32C of it, that many bytes, masked CRC-32C of them), all
little-endian (https://www.tensorflow.org/tutorials/load_data/tfrecord). It has no index: that is why training converts.
"""

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import StorageError, UserError, check
from cnn_jax.core.files import write_text
from cnn_jax.data.prepared import FORMAT, again, file_format, open_shard

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's names of shards


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, rotated and shifted as TFRecord has it.

    Raises:
      UserError: what computes it is not installed.
    """
    try:
        import google_crc32c
    except ImportError:
        raise UserError("TFRecord needs google-crc32c: pip install 'cnn-jax[tfrecord]'") from None
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file; raises UserError, with the place, where a checksum is wrong or it ends."""
    check(file.is_file(), f"{file} is missing: {again(file.parent)}")
    size = file.stat().st_size
    with file.open("rb") as stream:
        number = start = 0
        while start < size:
            where = f"{file}, record {number} at byte {start:,}"
            header = stream.read(12)
            check(len(header) == 12, f"{where}: the file is cut off: {again(file.parent)}")
            length, crc = struct.unpack("<QI", header)
            check(
                crc == masked_crc(header[:8]),
                f"{where}: the checksum of its length is wrong: the file is damaged or no TFRecord: "
                f"{again(file.parent)}",
            )
            end = start + 12 + length + 4
            check(end <= size, f"{where}: the file is cut off: {again(file.parent)}")
            record = stream.read(length)
            (crc,) = struct.unpack("<I", stream.read(4))
            check(crc == masked_crc(record), f"{where}: its checksum is wrong, it is damaged: {again(file.parent)}")
            yield record
            number, start = number + 1, end


def convert(info: Any, folder: Path, to: Path, progress: Callable[[int], None] = lambda records: None) -> None:
    """Writes the TFRecord data set in `folder` as array_record into `to`, which may be the same folder.

    dataset_info.json is written last, so that what is half done does not count; shards that are done are not written
    again by a second start. In the same folder both formats stand side by side after that, as TFDS allows.

    Args:
      info: of `folder`, see `prepared.read_info`. progress: is called with the number of records, now and then.

    Raises:
      UserError: a file is missing or damaged, or has another number of records than dataset_info.json says.
      StorageError: the disk has too little room.
      OSError: a file cannot be read or written.
    """
    check(
        file_format(info) == "tfrecord",
        f"{folder} was prepared as {file_format(info)!r}, but only 'tfrecord' is converted",
    )
    in_place = to.exists() and to.samefile(folder)
    for name, split in info.splits.items():
        check(
            not in_place or split.filename_template.template == TEMPLATE,
            f"the files of the split {name!r} in {folder} have names that hold no format: give --to=FOLDER",
        )
    shards = list_shards(info)
    for source, _, _ in shards:
        check(source.is_file(), f"{source} is missing: {again(folder)}")
    left = [(source, count) for source, name, count in shards if not (to / name).is_file()]
    # array_record has up to 64 bytes more for a record than TFRecord.
    check_room(to, sum(source.stat().st_size + 64 * count + 2**17 for source, count in left))
    to.mkdir(parents=True, exist_ok=True)
    for source, name, count in shards:
        if (to / name).is_file():
            open_shard(to / name, count).close()
            progress(count)
        else:
            _convert_shard(source, to / name, count, progress)
    _finish(folder, to)


def list_shards(info: Any) -> list[tuple[Path, str, int]]:
    """Returns (file, its name in array_record, number of records) of each shard of a data set."""
    shards = []
    for name, split in info.splits.items():
        check(name.isidentifier() and info.name.isidentifier(), f"{info.name!r} has a split {name!r}: not a name")
        for i, (file, count) in enumerate(zip(split.filepaths, split.shard_lengths, strict=True)):
            target = f"{info.name}-{name}.{FORMAT}-{i:05d}-of-{split.num_shards:05d}"
            shards.append((Path(os.fspath(file)), target, int(count)))
    return shards


def check_room(to: Path, needed: int) -> None:
    """Raises StorageError unless the disk of `to` has `needed` bytes free."""
    there = next(path for path in (to, *to.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageError(
            f"{there} has {free / 1e9:.3g} GB free, but {needed / 1e9:.3g} GB are needed: make room, or name a "
            "folder on another disk"
        )


def _convert_shard(source: Path, target: Path, count: int, progress: Callable[[int], None]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    half = target.with_name(f"{target.name}.incomplete")
    try:
        half.touch()  # a folder that cannot be written says so here
        writer = ArrayRecordWriter(str(half), "group_size:1")
        found = done = 0
        for found, record in enumerate(read_records(source), start=1):
            writer.write(record)
            if found - done == 256:
                progress(found - done)
                done = found
        writer.close()
        check(
            found == count,
            f"{source} has {found:,} records, but dataset_info.json next to it says {count:,}: {again(source.parent)}",
        )
        open_shard(half, count).close()
    except RuntimeError as error:  # of array_record
        half.unlink(missing_ok=True)
        raise StorageError(f"{half} cannot be written: {error}") from None
    except UserError:
        half.unlink(missing_ok=True)
        raise
    half.replace(target)
    progress(found - done)


def _finish(folder: Path, to: Path) -> None:
    """Writes what describes the data set, dataset_info.json last and at once."""
    from google.protobuf import json_format
    from tensorflow_datasets.core import dataset_info

    info: Any = dataset_info.read_from_json(folder / "dataset_info.json")
    if to.samefile(folder):
        info.alternative_file_formats.append(FORMAT)
    else:
        info.file_format = FORMAT
        del info.alternative_file_formats[:]
        for file in folder.iterdir():
            if file.suffix in (".json", ".txt") and file.name != "dataset_info.json" and not file.is_symlink():
                shutil.copyfile(file, to / file.name)
        for split in info.splits:
            split.filepath_template = TEMPLATE
    write_text(to / "dataset_info.json", json_format.MessageToJson(info))
