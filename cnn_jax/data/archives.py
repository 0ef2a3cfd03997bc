"""Data sets that are prepared from the archives that their authors published, without TensorFlow.

The result is what TFDS prepares: the same names, versions, features, order of the records and pixels. TFDS sorts the
examples of a split by the MD5 of the split's name and the example's number, so that a slice such as train[:90%] is a
random one.
"""

import hashlib
import io
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from cnn_jax.core.download import RemoteFile, download, verify
from cnn_jax.core.errors import StorageError, UserError, check
from cnn_jax.core.files import locked, remove, storage_errors, sync_folder
from cnn_jax.core.progress import progress_bar
from cnn_jax.data import archive_formats
from cnn_jax.data.archive_formats import Contents, Part
from cnn_jax.data.prepared import FORMAT, check_label
from cnn_jax.data.sources.published import SIZES
from cnn_jax.data.tfrecord import check_room

SHARD = 300_000  # examples in one file, at most


@dataclass(frozen=True)
class Archive:
    """A data set as it was published, and what TFDS calls it."""

    version: str  # of TFDS
    homepage: str
    files: tuple[RemoteFile, ...]
    open: Callable[[Mapping[str, Path], Mapping[str, int]], Contents]  # files by name, examples in each split
    splits: dict[str, int]
    shape: tuple[int, int, int]  # of an image: height, width, channels
    classes: dict[str, int] = field(default_factory=lambda: {"label": 10})  # of each feature that is a label
    class_names: dict[str, list[str]] = field(default_factory=dict)  # where they are not in the archive
    id_digits: int = 0  # of the feature "id", such as train_00012; 0: there is none


def _files(url: str, rows: str) -> tuple[RemoteFile, ...]:
    """Returns the files below `url` of lines of name, size in bytes and SHA-256, those that TFDS publishes."""
    split = (line.split() for line in rows.strip().splitlines())
    return tuple(RemoteFile(url + name, int(size), sha256) for name, size, sha256 in split)


MNIST = _files(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    """
    train-images-idx3-ubyte.gz  9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
    train-labels-idx1-ubyte.gz    28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
    t10k-images-idx3-ubyte.gz   1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
    t10k-labels-idx1-ubyte.gz      4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
    """,
)
FASHION_MNIST = _files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    """
    train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
    train-labels-idx1-ubyte.gz    29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
    t10k-images-idx3-ubyte.gz   4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
    t10k-labels-idx1-ubyte.gz      5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
    """,
)
CIFAR10 = _files(
    "https://www.cs.toronto.edu/~kriz/",
    "cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
CIFAR100 = _files(
    "https://www.cs.toronto.edu/~kriz/",
    "cifar-100-binary.tar.gz 168513733 58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)
SVHN = _files(
    "http://ufldl.stanford.edu/housenumbers/",
    """
    train_32x32.mat  182040794 435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8
    test_32x32.mat    64275384 cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b
    extra_32x32.mat 1329278602 a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3
    """,
)
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

ARCHIVES = {
    "mnist": Archive(
        version="3.0.1",
        homepage="http://yann.lecun.com/exdb/mnist/",
        files=MNIST,
        open=archive_formats.open_mnist,
        splits=SIZES["mnist"].splits,
        shape=(28, 28, 1),
    ),
    "fashion_mnist": Archive(
        version="3.0.1",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        files=FASHION_MNIST,
        open=archive_formats.open_mnist,
        splits=SIZES["fashion_mnist"].splits,
        shape=(28, 28, 1),
        class_names={"label": CLOTHES},
    ),
    "cifar10": Archive(
        version="3.0.2",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=CIFAR10,
        open=archive_formats.open_cifar10,
        splits=SIZES["cifar10"].splits,
        shape=(32, 32, 3),
        id_digits=5,
    ),
    "cifar100": Archive(
        version="3.0.2",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=CIFAR100,
        open=archive_formats.open_cifar100,
        splits=SIZES["cifar100"].splits,
        shape=(32, 32, 3),
        classes={"coarse_label": 20, "label": 100},
        id_digits=5,
    ),
    "svhn_cropped": Archive(
        version="3.1.0",
        homepage="http://ufldl.stanford.edu/housenumbers/",
        files=SVHN,
        open=archive_formats.open_svhn,
        splits=SIZES["svhn_cropped"].splits,
        shape=(32, 32, 3),
        id_digits=6,
    ),
}
ALIASES = {"svhn": "svhn_cropped"}


def prepare(name: str, directory: Path, source: str, console: Console) -> None:
    """Prepares a data set of `ARCHIVES` in `directory` as array_record.

    Args:
      source: the archive, or the folder of the archives; "" downloads them into `directory`/downloads/NAME, or uses
        what is there.

    Raises:
      UserError: an archive is missing, damaged or another file, or cannot be downloaded.
      StorageError: too little room, or `directory` cannot be written.
    """
    archive = ARCHIVES[name]
    target = directory / name / archive.version
    folder = directory / "downloads" / name
    files = find_files(archive, Path(source)) if source else {file.name: folder / file.name for file in archive.files}
    missing = [file for file in archive.files if not files[file.name].is_file()]
    examples = sum(archive.splits.values()) * (math.prod(archive.shape) + 256)  # bytes, at most
    check_room(directory, examples + sum(file.size for file in missing))
    with storage_errors(f"{directory} cannot be written"), locked(directory / name, flag="--dir"):
        if (target / "dataset_info.json").is_file():  # by another process, before this one had the lock
            return
        check(not target.exists(), f"{target} is there, but has no dataset_info.json: remove it")
        for file in missing:
            folder.mkdir(parents=True, exist_ok=True)
            fetch(file, files[file.name], name)
        for file in archive.files:
            verify(file, files[file.name])
        console.print(f"preparing {name}/{archive.version} in {target}")
        write(name, archive, files, target)


def fetch(file: RemoteFile, path: Path, name: str) -> None:
    """Downloads an archive of the data set `name`; raises UserError as `download` does, with the way around."""
    try:
        with progress_bar(f"downloading {file.name}", file.size, in_bytes=True) as advance:
            download(file, path, advance)
    except StorageError:
        raise
    except UserError as error:
        raise UserError(
            f"{error}. Without a network, download it elsewhere and run: cnn_jax data prepare {name} --from=FOLDER"
        ) from None


def find_files(archive: Archive, source: Path) -> dict[str, Path]:
    """Returns the archives by name: those in the folder `source`, or `source` itself where there is one.

    Raises:
      UserError: they are not there.
    """
    if source.is_file() and len(archive.files) == 1:
        return {archive.files[0].name: source}
    listed = "\n".join(f"  {file.name}, {file.size:,} bytes, from {file.url}" for file in archive.files)
    check(source.is_dir(), f"--from is {str(source)!r}, but must be the folder that holds\n{listed}")
    missing = [file.name for file in archive.files if not (source / file.name).is_file()]
    check(not missing, f"--from={source} has no {', '.join(missing)}. The data set has\n{listed}")
    return {file.name: source / file.name for file in archive.files}


# ---------------------------------------------------------------- as TFDS writes it


def write(name: str, archive: Archive, files: Mapping[str, Path], target: Path) -> None:
    """Writes what archives hold as the prepared data set `target`, which exists afterwards or not at all."""
    contents = archive.open(files, archive.splits)
    partial = target.parent / "incomplete" / target.name  # not at the depth where `prepared.find` looks
    remove(partial)
    partial.mkdir(parents=True)
    lengths, total = {}, sum(archive.splits.values())
    try:
        with progress_bar("writing", total) as advance:
            for split, read in contents.parts.items():
                part = read()
                check_part(part, archive, f"the split {split!r} of {name}")
                lengths[split] = write_split(part, name, split, archive.id_digits, partial, advance)
                del part  # the largest takes 1.6 GB
        write_metadata(name, archive, contents, lengths, partial)
        for path in partial.iterdir():
            with path.open("rb+") as written:
                os.fsync(written.fileno())
        partial.replace(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)


def check_part(part: Part, archive: Archive, where: str) -> None:
    """Raises UserError for a label that is not a class."""
    assert part.images.shape[1:] == archive.shape and part.images.dtype == np.uint8
    for feature, labels in part.labels.items():
        for label in (labels.min(), labels.max()):
            check_label(int(label), archive.classes[feature], where)


def write_split(
    part: Part, name: str, split: str, id_digits: int, folder: Path, advance: Callable[[int], None]
) -> list[int]:
    """Writes the shards of a split, in TFDS's order; returns how many examples each has."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count = len(part.images)
    order = sorted(range(count), key=lambda i: hashlib.md5(f"{split}{i}".encode(), usedforsecurity=False).digest())
    shards = [order[start : start + SHARD] for start in range(0, count, SHARD)]
    for number, indices in enumerate(shards):
        file = folder / f"{name}-{split}.{FORMAT}-{number:05d}-of-{len(shards):05d}"
        try:
            file.touch()  # a folder that cannot be written says so here
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for done, i in enumerate(indices, start=1):
                writer.write(serialize(part, i, f"{split}_{i:0{id_digits}d}" if id_digits else ""))
                if done % 256 == 0:
                    advance(256)
            writer.close()
        except RuntimeError as error:  # of array_record
            raise StorageError(f"{file} cannot be written: {error}") from None
        advance(len(indices) % 256)
    return [len(indices) for indices in shards]


def serialize(part: Part, index: int, name: str) -> bytes:
    """Returns an example as a serialized tf.train.Example: its image as PNG, its labels and, unless "", its name."""
    from tensorflow_datasets.proto import tf_example_pb2

    proto: Any = tf_example_pb2
    example = proto.Example()
    features = example.features.feature
    image, png = part.images[index], io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image)).save(png, "PNG")
    features["image"].bytes_list.value.append(png.getvalue())
    for feature, labels in part.labels.items():
        features[feature].int64_list.value.append(int(labels[index]))
    if name:
        features["id"].bytes_list.value.append(name.encode())
    return example.SerializeToString(deterministic=True)


def write_metadata(
    name: str, archive: Archive, contents: Contents, lengths: Mapping[str, list[int]], folder: Path
) -> None:
    """Writes dataset_info.json, features.json and the names of the classes. lengths: examples in each shard."""
    import tensorflow_datasets as tfds

    features: dict[str, Any] = {"image": tfds.features.Image(shape=archive.shape)}
    features |= {feature: tfds.features.ClassLabel(num_classes=count) for feature, count in archive.classes.items()}
    for feature, names in {**archive.class_names, **contents.class_names}.items():
        features[feature].names = names
    if archive.id_digits:
        features["id"] = tfds.features.Text()
    sizes = {split: sum(path.stat().st_size for path in folder.glob(f"{name}-{split}.{FORMAT}-*")) for split in lengths}
    splits = [tfds.core.SplitInfo(split, shards, sizes[split]) for split, shards in lengths.items()]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        version=archive.version,
        check_data=False,
        description=f"{name}, prepared from the published archives by cnn_jax.",
        homepage=archive.homepage,
        supervised_keys=("image", "label"),
    )
