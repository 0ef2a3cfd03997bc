"""Archives that are damaged or hostile, with the published size and checksum: one message, nothing written."""

import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from cnn_jax.core.errors import UserError
from cnn_jax.data import archive_formats
from published_archives import TEN, cifar10_members, examples, files_of, mnist_files, publish, svhn_file, tar


def rejected(name, files, call, monkeypatch, tmp_path):
    """Returns the message of preparing from archives whose size and checksum are right."""
    publish(monkeypatch, name, files, tmp_path / "archives")
    words = ("prepare_data", name, f"--dir={tmp_path / 'data'}", f"--from={tmp_path / 'archives'}")
    error = call(*words, code=2).err
    assert error.startswith("error: ")
    assert not list((tmp_path / "data").glob(f"{name}/*/dataset_info.json"))
    assert [path.name for path in (tmp_path / "data" / name).iterdir()] == [".lock"]
    return error


LABELS = "t10k-labels-idx1-ubyte.gz"
BAD_IDX = {
    "magic": (lambda raw: gzip.compress(b"\x00\x00\x0d\x01" + raw[4:]), "begins with the bytes 00000d01"),
    "count": (lambda raw: gzip.compress(raw[:4] + (7).to_bytes(4, "big") + raw[8:] + b"\1"), "0000080100000007"),
    "short": (lambda raw: gzip.compress(raw[:-1]), "it holds fewer than the 14 bytes of 6 values"),
    "long": (lambda raw: gzip.compress(raw + b"\1"), "it holds more than the 14 bytes of 6 values"),
    "label": (lambda raw: gzip.compress(raw[:-1] + b"\x0a"), "its label is 10, but must be in 0..9"),
    "no gzip": (lambda raw: raw, "Not a gzipped file"),
    "cut": (lambda raw: gzip.compress(raw)[:-9], "ended before the end-of-stream marker"),
    "bits": (lambda raw: gzip.compress(raw)[:-8] + b"12345678", "CRC check failed"),
    "empty": (lambda raw: b"", "begins with the bytes , but"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_IDX.values(), ids=list(BAD_IDX))
def test_idx_file_of_another_form_is_refused(call, monkeypatch, tmp_path, damage, message):
    files = mnist_files(*examples("mnist"))
    files[LABELS] = damage(gzip.decompress(files[LABELS]))
    error = rejected("mnist", files, call, monkeypatch, tmp_path)
    assert message in error and (LABELS in error or "label" in error)


def tar_header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def linked(members, name):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for own, content in members.items():
            info = tarfile.TarInfo(own)
            info.size = len(content)
            if own.endswith(name):
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TEST = "cifar-10-batches-bin/test_batch.bin"
NAMED = "cifar-10-batches-bin/batches.meta.txt"


def renamed(members, new):
    return {new if name == TEST else name: content for name, content in members.items()}


BAD_TAR = {
    "parent": (lambda m: tar(renamed(m, f"../{TEST}")), f"it has no {TEST}"),
    "absolute": (lambda m: tar(renamed(m, f"/{TEST}")), f"it has no {TEST}"),
    "link": (lambda m: linked(m, "test_batch.bin"), f"'{TEST}' is not a regular file"),
    "size": (lambda m: tar(m | {TEST: m[TEST] + b"\0"}), f"'{TEST}' has 18,439 bytes, but must have 18,438"),
    "claimed": (lambda m: gzip.compress(tar_header(TEST, 8**11 - 1)), "has 8,589,934,591 bytes, but must have 18,438"),
    "skipped": (lambda m: gzip.compress(tar_header("big", 2**33 - 1) + bytes(2**23)), "more than the published"),
    "long name": (
        lambda m: gzip.compress(tar_header("././@LongLink", 2**33 - 1, b"L") + bytes(2**23)),
        "more than the published",
    ),
    "pax": (lambda m: gzip.compress(tar_header("x", 2**33 - 1, b"x") + bytes(2**23)), "more than the published"),
    "cut": (lambda m: tar(m)[:-900], "is damaged or another file"),
    "names": (lambda m: tar(m | {NAMED: b"one\ntwo\n"}), "has 2 lines, but must have 10 different names"),
    "same names": (lambda m: tar(m | {NAMED: b"one\n" * 10}), "must have 10 different names"),
    "control": (lambda m: tar(m | {NAMED: "\n".join([*TEN[1:], "\x1b[2J"]).encode()}), "must have 10 different"),
    "long text": (lambda m: tar(m | {NAMED: b"a" * 2**15}), "has 32,768 bytes, but must have at most 16,383"),
    "label": (lambda m: tar(m | {TEST: b"\x0a" + m[TEST][1:]}), "its label is 10, but must be in 0..9"),
    "no tar": (lambda m: gzip.compress(b"text"), "is damaged or another file"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_TAR.values(), ids=list(BAD_TAR))
def test_tar_of_another_form_is_refused(call, monkeypatch, tmp_path, damage, message):
    files = {"cifar-10-binary.tar.gz": damage(cifar10_members(*examples("cifar10")))}
    before = {path for path in tmp_path.parent.rglob("*test_batch*")}
    assert message in rejected("cifar10", files, call, monkeypatch, tmp_path)
    assert {path for path in tmp_path.parent.rglob("*test_batch*")} == before  # nothing is unpacked


def test_duplicate_member_is_refused(call, monkeypatch, tmp_path):
    members = cifar10_members(*examples("cifar10"))
    once = gzip.decompress(tar(members))
    end = once.index(bytes(1024), len(once) - 10240 * 2) if once.endswith(bytes(1024)) else len(once)
    again = gzip.decompress(tar({TEST: members[TEST]}))
    files = {"cifar-10-binary.tar.gz": gzip.compress(once[: -(-end // 512) * 512] + again)}
    assert f"'{TEST}' is there twice" in rejected("cifar10", files, call, monkeypatch, tmp_path)


def svhn_bomb() -> bytes:
    """Returns a MAT-file with a compressed variable of 64 MB of zeros."""
    content = zlib.compress(struct.pack("<II", 14, 2**26) + bytes(2**26))
    return (
        svhn_file(*(one["test"] for one in examples("svhn_cropped")))[:128]
        + struct.pack("<II", 15, len(content))
        + content
    )


def svhn_with(**changes):
    def make(images, labels):
        buffer = io.BytesIO()
        digits = np.where(labels == 0, 10, labels)[:, None]
        values = {"X": images.transpose(1, 2, 3, 0), "y": digits} | changes
        scipy.io.savemat(
            buffer, {key: value for key, value in values.items() if value is not None}, do_compression=True
        )
        return buffer.getvalue()

    return make


BAD_MAT = {
    "no version": (lambda i, x: svhn_file(i, x)[:124] + b"\x00\x02IM", "not a MAT-file of version 5"),
    "text": (lambda i, x: b"text", "not a MAT-file of version 5"),
    "cut": (lambda i, x: svhn_file(i, x)[:-30], "it is truncated"),
    "bomb": (lambda i, x: svhn_bomb(), "it holds more than the published data set"),
    "more": (
        lambda i, x: svhn_file(np.concatenate([i, i]), np.concatenate([x, x])),
        "but must have X, uint8 of (32, 32, 3, 6)",
    ),
    "floats": (svhn_with(X=np.zeros((32, 32, 3, 6))), "X, float64 of (32, 32, 3, 6), and"),
    "no labels": (svhn_with(y=None), "and y of (0,), but must have"),
    "cells": (svhn_with(y=np.array([["1"]] * 6, object)), "and y of (0,), but must have"),
    "eleven": (svhn_with(y=np.full((6, 1), 11)), "labels that are not from 1 to 10"),
    "half": (svhn_with(y=np.full((6, 1), 1.5)), "labels that are not from 1 to 10"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_MAT.values(), ids=list(BAD_MAT))
def test_mat_file_of_another_form_is_refused(call, monkeypatch, tmp_path, damage, message):
    images, labels = examples("svhn_cropped")
    files = files_of("svhn_cropped", images, labels)
    files["test_32x32.mat"] = damage(images["test"], labels["test"])
    error = rejected("svhn_cropped", files, call, monkeypatch, tmp_path)
    assert message in error and "test_32x32.mat is damaged or another file" in error


def test_labels_of_svhn_may_be_stored_as_doubles(tmp_path):
    images, labels = (one["test"] for one in examples("svhn_cropped"))
    digits = np.where(labels == 0, 10, labels)[:, None].astype(float)
    for compressed in (True, False):
        scipy.io.savemat(
            tmp_path / "x.mat", {"X": images.transpose(1, 2, 3, 0), "y": digits}, do_compression=compressed
        )
        part = archive_formats.read_svhn(tmp_path / "x.mat", 6)
        assert (part.images == images).all() and (part.labels["label"] == labels).all()


def test_decompression_takes_no_more_memory_than_the_data_set(tmp_path):
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as file:
        file.write(tar_header("x", 2**33 - 1, b"x"))
        for _ in range(64):
            file.write(bytes(2**20))
    (tmp_path / "bomb.mat").write_bytes(svhn_bomb())
    reads = (
        lambda: archive_formats.read_idx(tmp_path / "bomb.gz", (100,)),
        lambda: archive_formats.read_members(tmp_path / "bomb.gz", {"a": range(100)}),
        lambda: archive_formats.read_svhn(tmp_path / "bomb.mat", 6),
    )
    tracemalloc.start()
    try:
        for one in reads:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            with pytest.raises(UserError):
                one()
            assert tracemalloc.get_traced_memory()[1] - before < 2**24
    finally:
        tracemalloc.stop()
