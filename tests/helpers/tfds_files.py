"""Writes small data sets as TFDS prepares them, as array_record and as TFRecord, without TensorFlow."""

import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def prepare(
    folder: Path,
    data_set: str,
    version: str,
    picture: Callable[[str, int], np.ndarray],  # (split, number) -> uint8 [H, W, C]
    *,
    splits: dict[str, int],  # how many examples each has
    shape: tuple[int | None, int | None, int],
    num_classes: int,
    file_type: str = "png",
) -> Path:
    """Prepares `data_set`/`version` below the returned data_dir; example i has the label i % num_classes.

    TFDS stores an image file unchanged: so no TensorFlow is needed.
    """
    import tensorflow_datasets as tfds

    pictures = folder / "pictures"
    pictures.mkdir(parents=True)

    with tfds.core.registered.skip_registration():

        class Prepared(tfds.core.GeneratorBasedBuilder):
            name = data_set
            VERSION = tfds.core.Version(version)

            def _info(self):
                image = tfds.features.Image(shape=shape, encoding_format=file_type)
                label = tfds.features.ClassLabel(num_classes=num_classes)
                features = tfds.features.FeaturesDict({"image": image, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split, count) for split, count in splits.items()}

            def _generate_examples(self, split, count):
                for i in range(count):
                    path = pictures / f"{split}{i}.{file_type}"
                    pixels = picture(split, i)
                    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
                    yield i, {"image": str(path), "label": i % num_classes}

    builder = Prepared(data_dir=str(folder / "data"), file_format="array_record")
    builder.download_and_prepare()
    return folder / "data"


# ---------------------------------------------------------------- records


def example(image: bytes, label: int) -> bytes:
    """Returns the serialized tf.train.Example of an image file and a label."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example()
    features.features.feature["image"].bytes_list.value.append(image)
    features.features.feature["label"].int64_list.value.append(label)
    return features.SerializeToString(deterministic=True)


def read_shard(file: Path) -> list[bytes]:
    """Returns all records of an array_record file."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(file))
    return list(reader.read_all())


def rewrite_shard(file: Path, records: list[bytes]) -> None:
    """Writes `records` as an array_record file, as TFDS does."""
    from array_record.python.array_record_module import ArrayRecordWriter

    file.unlink(missing_ok=True)
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def flip_a_byte(file: Path, content: bytes) -> None:
    """Flips one bit in the middle of `content` in `file`."""
    data = bytearray(file.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 1
    file.write_bytes(data)


# ---------------------------------------------------------------- TFRecord


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of `data` bit by bit (RFC 3720, section 12.1; polynomial 0x1EDC6F41, reflected)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def tfrecord(records: list[bytes]) -> bytes:
    """Returns a TFRecord file: length, its masked checksum, the bytes, their masked checksum."""

    def masked(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) % 2**32 + 0xA282EAD8) % 2**32)

    lengths = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(n + masked(n) + record + masked(record) for n, record in zip(lengths, records, strict=True))


def as_tfrecord(folder: Path, *, shards: int = 2) -> dict[str, list[bytes]]:
    """Replaces the files of a data set by `shards` TFRecord files for each split; returns {split: records}."""
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    found = {}
    for split in info["splits"]:
        stem = f"{info['name']}-{split['name']}"
        (file,) = folder.glob(f"{stem}.array_record-*")
        records = found[split["name"]] = read_shard(file)
        file.unlink()
        ends = [len(records) * i // shards for i in range(shards + 1)]
        split["shardLengths"] = [str(stop - start) for start, stop in itertools.pairwise(ends)]
        for i, (start, stop) in enumerate(itertools.pairwise(ends)):
            (folder / f"{stem}.tfrecord-{i:05d}-of-{shards:05d}").write_bytes(tfrecord(records[start:stop]))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return found
