"""The formats in which MNIST, Fashion-MNIST, CIFAR and SVHN were published, as NumPy arrays.

Archives are foreign. They are read as streams: nothing is unpacked to the disk, no name inside them becomes a path, and
no more is decompressed than the published number of examples takes. What does not have exactly the published form is
one error that names the file.
"""

import contextlib
import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cnn_jax.core.errors import UserError, check

MOST_TEXT = 2**14  # bytes of a list of class names
SLACK = 2**20  # bytes of what archives hold besides examples: headers, padding, a README


@dataclass(frozen=True)
class Part:
    """One split of a data set, in the order of its archive."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: dict[str, np.ndarray]  # name of the feature -> [N]


@dataclass(frozen=True)
class Contents:
    """What the archives of a data set hold."""

    parts: Mapping[str, Callable[[], Part]]  # each is read when it is called
    class_names: dict[str, list[str]] = field(default_factory=dict)  # name of the feature -> names


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what is raised over a damaged archive into one UserError that names it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # gzip, zlib, tarfile and struct raise errors of many kinds
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is damaged or another file: {reason}") from None


# ---------------------------------------------------------------- MNIST and Fashion-MNIST


def read_idx(path: Path, shape: Sequence[int]) -> np.ndarray:
    """Returns the array uint8 of `shape` in a gzipped IDX file (LeCun, http://yann.lecun.com/exdb/mnist).

    The file has two bytes 0, the type (8: unsigned bytes), the number of axes, their sizes as big-endian uint32, and
    the values.

    Raises:
      UserError: it is damaged, or has another type, another shape or another length.
    """
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    expected = len(header) + math.prod(shape)
    with reading(path), gzip.open(path) as stream:
        content = stream.read(expected + 1)
        sizes = "x".join(map(str, shape))
        check(
            content.startswith(header),
            f"it begins with the bytes {content[: len(header)].hex()}, but an IDX file of {sizes} unsigned bytes "
            f"with {header.hex()}",
        )
        check(
            len(content) == expected,
            f"it holds {'more' if len(content) > expected else 'fewer'} than the {expected:,} bytes of {sizes} values",
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def open_mnist(files: Mapping[str, Path], splits: Mapping[str, int]) -> Contents:
    def part(split: str, stem: str) -> Part:
        images = read_idx(files[f"{stem}-images-idx3-ubyte.gz"], (splits[split], 28, 28))
        labels = read_idx(files[f"{stem}-labels-idx1-ubyte.gz"], (splits[split],))
        return Part(images[..., None], {"label": labels})

    return Contents({"train": lambda: part("train", "train"), "test": lambda: part("test", "t10k")})


# ---------------------------------------------------------------- CIFAR


class _Limited:
    """Reads from a stream, and fails behind `limit` bytes: tarfile itself reads headers of any length into memory."""

    def __init__(self, stream: gzip.GzipFile, limit: int):
        self.stream = stream
        self.left = limit

    def read(self, size: int) -> bytes:
        found = self.stream.read(min(size, self.left + 1))
        self.left -= len(found)
        check(self.left >= 0, "it holds more than the published data set")
        return found


def _tar(stream: gzip.GzipFile, limit: int) -> tarfile.TarFile:
    limited: Any = _Limited(stream, limit)  # in this mode, tarfile uses nothing but `read`
    return tarfile.open(fileobj=limited, mode="r|")


def read_members(path: Path, wanted: Mapping[str, range]) -> dict[str, bytes]:
    """Returns the content of the files in a .tar.gz that `wanted` names, with their possible sizes in bytes.

    Other members are skipped, whatever their names are.

    Raises:
      UserError: the archive is damaged, or one of the files is missing, there twice, no regular file or of another
        size, or the archive holds much more than them.
    """
    found: dict[str, bytes] = {}
    limit = sum(sizes.stop for sizes in wanted.values()) + SLACK
    with reading(path), gzip.open(path) as stream, _tar(stream, limit) as archive:
        for member in archive:
            if member.name not in wanted:
                continue
            sizes = wanted[member.name]
            check(member.isreg() and not member.issparse(), f"{member.name!r} is not a regular file")
            check(member.name not in found, f"{member.name!r} is there twice")
            check(
                member.size in sizes,
                f"{member.name!r} has {member.size:,} bytes, but must have "
                + (f"{sizes.start:,}" if len(sizes) == 1 else f"at most {sizes.stop - 1:,}"),
            )
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            found[member.name] = content.read(member.size)
            check(len(found[member.name]) == member.size, f"it ends inside {member.name!r}")
        missing = [name for name in wanted if name not in found]
        check(not missing, f"it has no {', '.join(missing)}")
    return found


def open_cifar(
    path: Path,
    splits: Mapping[str, int],
    folder: str,
    members: Mapping[str, Sequence[str]],
    labels: Mapping[str, tuple[str, int]],
) -> Contents:
    """Returns what the binary version of CIFAR holds (https://www.cs.toronto.edu/~kriz/cifar.html).

    A record is one byte for each label and 3,072 bytes for the image, of which the first 1,024 are red, the next green
    and the last blue, each row by row.

    Args:
      folder: that of the members in the archive. members: split -> its files, of equal length.
      labels: feature -> (file of its class names, number of classes), in the order of a record.
    """
    record = len(labels) + 3 * 32 * 32
    wanted = {f"{folder}/{file}": range(MOST_TEXT) for file, _ in labels.values()}
    for split, files in members.items():
        size = splits[split] // len(files) * record
        wanted |= {f"{folder}/{file}": range(size, size + 1) for file in files}
    content = read_members(path, wanted)

    def part(split: str) -> Part:
        values = np.frombuffer(b"".join(content[f"{folder}/{file}"] for file in members[split]), np.uint8)
        values = values.reshape(splits[split], record)
        images = values[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Part(images, {name: values[:, i] for i, name in enumerate(labels)})

    names = {
        feature: read_names(f"{path}: {folder}/{file}", content[f"{folder}/{file}"], count)
        for feature, (file, count) in labels.items()
    }
    return Contents({split: lambda split=split: part(split) for split in members}, names)


def read_names(where: str, content: bytes, count: int) -> list[str]:
    """Returns the `count` names in a text of one name a line; raises UserError, with `where`, for other texts."""
    names = [line.strip() for line in content.decode("ascii", errors="replace").split("\n") if line.strip()]
    check(
        len(names) == len(set(names)) == count and all(name.isprintable() for name in names) and content.isascii(),
        f"{where} has {len(names)} lines, but must have {count} different names of classes: it is damaged",
    )
    return names


def open_cifar10(files: Mapping[str, Path], splits: Mapping[str, int]) -> Contents:
    members = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
    labels = {"label": ("batches.meta.txt", 10)}
    return open_cifar(files["cifar-10-binary.tar.gz"], splits, "cifar-10-batches-bin", members, labels)


def open_cifar100(files: Mapping[str, Path], splits: Mapping[str, int]) -> Contents:
    members = {"train": ["train.bin"], "test": ["test.bin"]}
    labels = {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)}
    return open_cifar(files["cifar-100-binary.tar.gz"], splits, "cifar-100-binary", members, labels)


# ---------------------------------------------------------------- SVHN


# The types of stored values by their numbers (MathWorks, MAT-File Format, table 1-1).
MATLAB = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15


def read_matlab(path: Path, names: Sequence[str], limit: int) -> dict[str, np.ndarray]:
    """Returns the real numeric arrays in a MAT-file of version 5 that are called one of `names`.

    The file has a header of 128 bytes and elements: type and length as uint32, and the content, which may be a zlib
    stream of another element (MathWorks, MAT-File Format). Not by scipy, which crashes on some damaged files and
    decompresses any number of bytes.

    Args:
      limit: how many bytes all elements may take, decompressed.

    Raises:
      UserError: the file is damaged, of another version, or larger.
    """
    found = {}
    with reading(path), path.open("rb") as stream:
        header = stream.read(128)
        check(header[124:] == b"\x00\x01IM", "it is not a MAT-file of version 5, little-endian")
        while tag := stream.read(8):
            kind, length = struct.unpack("<II", tag)
            content = _inflated(stream, length, limit) if kind == COMPRESSED else stream.read(min(length, limit + 1))
            limit -= len(content)
            check(limit >= 0, "it holds more than the published data set")
            if kind == COMPRESSED:
                kind, size = struct.unpack_from("<II", content)
                content = memoryview(content)[8:]
            else:
                size = length
            check(len(content) == size, "it is truncated")
            name, values = _array(memoryview(content)) if kind == MATRIX else ("", None)
            if name in names and values is not None:
                found[name] = values
    return found


def _inflated(stream: BinaryIO, length: int, limit: int) -> bytearray:
    """Returns what the next `length` bytes hold as a zlib stream, at most `limit` + 1 MB."""
    content, inflate = bytearray(), zlib.decompressobj()
    while length and len(content) <= limit:
        chunk = stream.read(min(length, 2**20))
        check(bool(chunk), "it is truncated")
        length -= len(chunk)
        while chunk and not inflate.eof and len(content) <= limit:
            content += inflate.decompress(chunk, 2**20)
            chunk = inflate.unconsumed_tail
    return content


def _array(content: memoryview) -> tuple[str, np.ndarray | None]:
    """Returns (name, array) of a matrix: its flags, sizes, name and values; None for what is not real and numeric."""
    _, flags, place = _element(content, 0)
    _, sizes, place = _element(content, place)
    _, name, place = _element(content, place)
    shape = np.frombuffer(sizes, "<i4").tolist()
    numeric = 6 <= flags[0] <= 15 and not flags[1] & 8  # classes of numbers; the bit of complex ones
    kind, values, _ = _element(content, place) if numeric else (0, b"", 0)
    if kind not in MATLAB or min(shape) < 0:
        return bytes(name).decode("ascii"), None
    return bytes(name).decode("ascii"), np.frombuffer(values, f"<{MATLAB[kind]}").reshape(shape, order="F")


def _element(content: memoryview, start: int) -> tuple[int, memoryview, int]:
    """Returns (type, data, where the next begins) of the part of a matrix at `start`; short ones take 8 bytes."""
    (word,) = struct.unpack_from("<I", content, start)
    if word >> 16:
        kind, size, start, after = word & 0xFFFF, word >> 16, start + 4, start + 8
    else:
        (size,) = struct.unpack_from("<I", content, start + 4)
        kind, start, after = word, start + 8, start + 8 + -(-size // 8) * 8
    check(start + size <= len(content), "it is truncated")
    return kind, content[start : start + size], after


def read_svhn(path: Path, count: int) -> Part:
    """Returns the `count` examples of a .mat file of the cropped digits (http://ufldl.stanford.edu/housenumbers).

    X is uint8 [32, 32, 3, N]; y is [N, 1] from 1 to 10, where 10 stands for the digit 0.
    """
    found = read_matlab(path, ("X", "y"), 32 * 32 * 3 * count + 8 * count + SLACK)
    with reading(path):
        images, labels = (found.get(name, np.empty(0)) for name in ("X", "y"))
        check(
            images.shape == (32, 32, 3, count) and images.dtype == np.uint8 and labels.shape == (count, 1),
            f"it has X, {images.dtype} of {images.shape}, and y of {labels.shape}, but must have X, uint8 of "
            f"{(32, 32, 3, count)}, and y of {(count, 1)}",
        )
        check(bool(np.isin(labels, np.arange(1, 11)).all()), "it has labels that are not from 1 to 10")
        return Part(images.transpose(3, 0, 1, 2), {"label": labels[:, 0].astype(np.uint8) % 10})


def open_svhn(files: Mapping[str, Path], splits: Mapping[str, int]) -> Contents:
    return Contents(
        {
            split: lambda split=split, count=count: read_svhn(files[f"{split}_32x32.mat"], count)
            for split, count in splits.items()
        }
    )
