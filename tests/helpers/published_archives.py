"""Archives of MNIST, Fashion-MNIST, CIFAR and SVHN in their published formats, with few examples."""

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.io

from cnn_jax.data import archives

SPLITS = {"train": 20, "test": 6}
COARSE = [f"group {i}" for i in range(20)]
FINE = [f"class {i}" for i in range(100)]
TEN = [f"thing {i}" for i in range(10)]


def idx(values: np.ndarray) -> bytes:
    """Returns the bytes of an IDX file."""
    return bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def tar(members: dict[str, bytes]) -> bytes:
    """Returns the bytes of a .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cifar(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """Returns records of one byte a label and 3x32x32 bytes, plane by plane."""
    pairs = zip(images, *labels, strict=True)
    return b"".join(bytes(map(int, own)) + image.transpose(2, 0, 1).tobytes() for image, *own in pairs)


def mnist_files(images, labels):
    stems = {"train": "train", "test": "t10k"}
    return {
        **{f"{stems[s]}-images-idx3-ubyte.gz": gzip.compress(idx(images[s][..., 0])) for s in SPLITS},
        **{f"{stems[s]}-labels-idx1-ubyte.gz": gzip.compress(idx(labels[s])) for s in SPLITS},
    }


def cifar10_members(images, labels):
    batches = {f"data_batch_{i + 1}.bin": slice(4 * i, 4 * i + 4) for i in range(5)}
    members = {"batches.meta.txt": ("\n".join(TEN) + "\n\n").encode(), "readme.html": b"<html>"}
    members |= {name: cifar(images["train"][part], labels["train"][part]) for name, part in batches.items()}
    members["test_batch.bin"] = cifar(images["test"], labels["test"])
    return {f"cifar-10-batches-bin/{name}": content for name, content in members.items()}


def cifar100_members(images, labels):
    members = {"coarse_label_names.txt": "\n".join(COARSE).encode(), "fine_label_names.txt": "\n".join(FINE).encode()}
    members |= {f"{split}.bin": cifar(images[split], labels[split] // 5, labels[split]) for split in SPLITS}
    return {f"cifar-100-binary/{name}": content for name, content in members.items()}


def svhn_file(images, labels, **options):
    buffer = io.BytesIO()
    digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    options = dict(do_compression=True) | options
    scipy.io.savemat(buffer, {"X": images.transpose(1, 2, 3, 0), "y": digits}, **options)
    return buffer.getvalue()


def files_of(name, images, labels) -> dict[str, bytes]:
    """Returns the published files of a data set, with these examples."""
    if name in ("mnist", "fashion_mnist"):
        return mnist_files(images, labels)
    if name == "cifar10":
        return {"cifar-10-binary.tar.gz": tar(cifar10_members(images, labels))}
    if name == "cifar100":
        return {"cifar-100-binary.tar.gz": tar(cifar100_members(images, labels))}
    return {f"{split}_32x32.mat": svhn_file(images[split], labels[split]) for split in images}


def examples(name):
    """Returns random ({split: images}, {split: labels})."""
    rng, archive = np.random.default_rng(3), archives.ARCHIVES[name]
    splits = SPLITS | ({"extra": 9} if name == "svhn_cropped" else {})
    images = {split: rng.integers(0, 256, (n, *archive.shape), np.uint8) for split, n in splits.items()}
    labels = {split: rng.integers(0, archive.classes["label"], n).astype(np.uint8) for split, n in splits.items()}
    return images, labels


def publish(monkeypatch, name, files: dict[str, bytes], folder: Path, *, splits=None, url="http://127.0.0.1:1"):
    """Writes files to a folder, and makes them the published ones, with sizes and checksums."""
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    remote = [
        replace(
            one,
            url=f"{url}/{one.name}",
            size=len(files[one.name]),
            sha256=hashlib.sha256(files[one.name]).hexdigest(),
        )
        for one in archives.ARCHIVES[name].files
    ]
    splits = splits or SPLITS | ({"extra": 9} if name == "svhn_cropped" else {})
    monkeypatch.setitem(archives.ARCHIVES, name, replace(archives.ARCHIVES[name], files=tuple(remote), splits=splits))
