"""Published archives of few examples, prepared as a user does."""

import functools
import gzip
import hashlib
import http.server
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.config.fields import get_config
from cnn_jax.data import archives, sources
from cnn_jax.data.decode import decode
from cnn_jax.data.prepared import open_shard, parse
from published_archives import COARSE, FINE, SPLITS, TEN, examples, files_of, mnist_files, publish

LABELS = "t10k-labels-idx1-ubyte.gz"


def read(name, data_dir, **changes):
    """Returns the parts of a prepared data set, as training reads them."""
    config = get_config(name).data
    whole = dict(dir=str(data_dir), train="train[:50%]", validation="train[50%:]", test="test")
    config.update(whole | changes)
    return sources.open_dataset(config)


NAMES = tuple(archives.ARCHIVES)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_labels_come_back(call, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, "importlib_resources", None)  # TFDS's own way needs it, and TensorFlow
    images, labels = examples(name)
    publish(monkeypatch, name, files_of(name, images, labels), tmp_path / "archives")
    data = tmp_path / "data"
    word = "svhn" if name == "svhn_cropped" else name
    printed = call("prepare_data", "prepare", word, f"--dir={data}", f"--from={tmp_path / 'archives'}")
    assert "tensorflow" not in sys.modules
    version = archives.ARCHIVES[name].version
    assert f"{name}/{version}: 20 train, 6 test" in printed.out and printed.err == ""
    dataset = read(name, data)
    found = {
        split: [one for part in parts for one in dataset.parts[part].read(range(len(dataset.parts[part])))]
        for split, parts in {"train": ("train", "validation"), "test": ("test",)}.items()
    }
    for split in SPLITS:  # TFDS's own functions determine the order
        from tensorflow_datasets.core import hashing

        order = sorted(range(SPLITS[split]), key=hashing.Hasher(split).hash_key)
        np.testing.assert_array_equal([np.asarray(one["image"]) for one in found[split]], images[split][order])
        np.testing.assert_array_equal([one["label"] for one in found[split]], labels[split][order])
    names = {"fashion_mnist": archives.CLOTHES, "cifar10": TEN, "cifar100": FINE}
    assert list(dataset.class_names) == names.get(name, [str(i) for i in range(10)])
    assert [path.name for path in (data / name).iterdir() if path.name != ".lock"] == [version]
    assert "can be read and decoded" in call("prepare_data", "check", word, f"--dir={data}").out


def test_tfds_reads_all_features(call, monkeypatch, tmp_path):
    import tensorflow_datasets as tfds

    for name in ("cifar100", "svhn_cropped"):
        images, labels = examples(name)
        publish(monkeypatch, name, files_of(name, images, labels), tmp_path / "archives")
        call("prepare_data", name, f"--dir={tmp_path}", f"--from={tmp_path / 'archives'}")
        builder = tfds.builder_from_directory(tmp_path / name / archives.ARCHIVES[name].version)
        for split in images:
            read = list(builder.as_data_source(split))
            assert len(read) == len(images[split])
            for one in read:
                word, _, number = one["id"].decode().partition("_")
                i = int(number)
                assert (word, len(number)) == (split, 5 if name == "cifar100" else 6)
                assert (one["image"] == images[split][i]).all() and one["label"] == labels[split][i]
                assert name != "cifar100" or one["coarse_label"] == labels[split][i] // 5
        own = tfds.builder_cls(name)
        assert builder.info.version == own.VERSION and builder.info.supervised_keys == ("image", "label")
    assert tfds.builder_from_directory(tmp_path / "cifar100/3.0.2").info.features["coarse_label"].names == COARSE


@pytest.mark.parametrize("name", NAMES)
def test_published_files_are_those_of_tfds(name):
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name)
    known = {url: (info.size, info.checksum) for url, info in builder.url_infos.items()}
    assert {file.url: (file.size, file.sha256) for file in archives.ARCHIVES[name].files}.items() <= known.items()
    assert archives.ARCHIVES[name].version == str(builder.VERSION)


# ---------------------------------------------------------------- the real data sets


def real_test_set(name):
    """Returns the test split that TFDS or its archive gives, in TFDS's order: (images, labels, names or [])."""
    folder = Path(os.environ.get("TFDS_DATA_DIR", "")) / name / archives.ARCHIVES[name].version
    if not folder.is_dir():
        pytest.skip(f"TFDS_DATA_DIR has no {name}")
    (file,) = folder.glob("*-test.array_record-00000-of-00001")
    records = open_shard(file, 10_000).read(range(10_000))
    pairs = [parse(record, "") for record in records]
    images = np.stack([decode("", archives.ARCHIVES[name].shape[-1], png) for png, _ in pairs])
    found = [re.search(rb"test_(\d{5})", record) for record in records]
    return images, np.array([label for _, label in pairs], np.uint8), [int(one[1]) for one in found if one]


@pytest.mark.slow
def test_real_mnist_comes_back_from_its_archive(call, monkeypatch, tmp_path):
    images, labels, _ = real_test_set("mnist")
    order = sorted(range(10_000), key=lambda i: hashlib.md5(f"test{i}".encode()).digest())
    original = np.empty_like(images), np.empty_like(labels)
    original[0][order], original[1][order] = images, labels
    # The first digits of t10k-labels-idx1-ubyte, which every introduction shows: the order is the original one.
    assert original[1][:20].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]
    compare_with_real("mnist", original, (images, labels), call, monkeypatch, tmp_path)


@pytest.mark.slow
def test_real_cifar10_comes_back_from_its_archive(call, monkeypatch, tmp_path):
    images, labels, numbers = real_test_set("cifar10")
    assert sorted(numbers) == list(range(10_000))  # its records hold the place in the archive
    original = np.empty_like(images), np.empty_like(labels)
    original[0][numbers], original[1][numbers] = images, labels
    compare_with_real("cifar10", original, (images, labels), call, monkeypatch, tmp_path)


def compare_with_real(name, original, prepared, call, monkeypatch, tmp_path):
    images = {"train": original[0][:20], "test": original[0]}
    labels = {"train": original[1][:20], "test": original[1]}
    monkeypatch.setattr(gzip, "compress", functools.partial(gzip.compress, compresslevel=1))
    publish(
        monkeypatch, name, files_of(name, images, labels), tmp_path / "archives", splits={"train": 20, "test": 10_000}
    )
    call("prepare_data", name, f"--dir={tmp_path}", f"--from={tmp_path / 'archives'}")
    found = read(name, tmp_path).parts["test"].read(range(10_000))
    np.testing.assert_array_equal([one["label"] for one in found], prepared[1])
    np.testing.assert_array_equal([np.asarray(one["image"]) for one in found], prepared[0])


# ---------------------------------------------------------------- where the archives are


def refused_late(call, name, tmp_path):
    printed = call("prepare_data", name, f"--dir={tmp_path / 'data'}", f"--from={tmp_path / 'archives'}", code=2)
    assert printed.err.startswith("error: ") and "Traceback" not in printed.err
    return printed.err


def test_a_file_that_differs_from_the_published_one_is_refused(call, refused, monkeypatch, tmp_path):
    files = mnist_files(*examples("mnist"))
    publish(monkeypatch, "mnist", files, tmp_path / "archives")
    path = tmp_path / "archives" / LABELS
    path.write_bytes(files[LABELS][:-1] + b"!")
    assert f"{path} has the SHA-256 " in refused_late(call, "mnist", tmp_path)
    path.write_bytes(files[LABELS][:-1])
    error = refused_late(call, "mnist", tmp_path)
    assert f"{path} has {len(files[LABELS]) - 1} bytes, but {LABELS} has {len(files[LABELS])}: it is truncated" in error
    path.unlink()
    assert f"has no {LABELS}. The data set has\n  train-images" in refused_late(call, "mnist", tmp_path)
    one = refused("prepare_data", "mnist", f"--dir={tmp_path}", f"--from={tmp_path / 'archives' / 'x.gz'}")
    assert "but must be the folder that holds" in one and "from http://127.0.0.1:1/t10k-labels" in one


def test_a_single_archive_may_be_named(call, monkeypatch, tmp_path):
    files = files_of("cifar10", *examples("cifar10"))
    publish(monkeypatch, "cifar10", files, tmp_path / "archives")
    file = (tmp_path / "archives/cifar-10-binary.tar.gz").rename(tmp_path / "copy.tgz")
    call("prepare_data", "cifar10", f"--dir={tmp_path}", f"--from={file}")
    assert len(read("cifar10", tmp_path).parts["test"]) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("imagenet2012",), "--from goes with mnist, fashion_mnist, cifar10, cifar100, svhn_cropped; 'imagenet2012'"),
        (("check", "mnist"), "--from goes with `cnn_jax data prepare NAME`"),
        (("mnist", "--from-tfrecord"), "--from goes with `cnn_jax data prepare NAME`"),
    ],
)
def test_from_goes_with_these_data_sets(refused, tmp_path, words, message):
    assert message in refused("prepare_data", *words, f"--dir={tmp_path / 'data'}", f"--from={tmp_path}")


def test_downloaded_archives_are_used_and_missing_ones_named(call, monkeypatch, tmp_path):
    files = mnist_files(*examples("mnist"))
    publish(monkeypatch, "mnist", files, tmp_path / "archives")
    downloads = tmp_path / "data/downloads/mnist"
    downloads.mkdir(parents=True)
    for name in set(files) - {LABELS}:
        (downloads / name).write_bytes(files[name])
    error = call("prepare_data", "mnist", f"--dir={tmp_path / 'data'}", code=2).err
    assert error.startswith(f"error: http://127.0.0.1:1/{LABELS} cannot be downloaded: ")
    assert "The same command resumes" in error and "cnn_jax data prepare mnist --from=FOLDER" in error
    (downloads / LABELS).write_bytes(files[LABELS])
    call("prepare_data", "mnist", f"--dir={tmp_path / 'data'}")
    assert len(read("mnist", tmp_path / "data").parts["test"]) == 6


def test_archives_are_downloaded_once_and_used(call, monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            served.append(self.path)

    handler = functools.partial(Handler, directory=tmp_path / "archives")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        publish(monkeypatch, "mnist", mnist_files(*examples("mnist")), tmp_path / "archives", url=url)
        for _ in range(2):
            call("prepare_data", "mnist", f"--dir={tmp_path / 'data'}")
            assert len(read("mnist", tmp_path / "data").parts["test"]) == 6
            shutil.rmtree(tmp_path / "data/mnist")
        server.shutdown()
        thread.join()
    assert sorted(served) == sorted(f"/{file.name}" for file in archives.ARCHIVES["mnist"].files)


def test_leftovers_of_a_killed_process_do_not_count(call, monkeypatch, tmp_path):
    publish(monkeypatch, "mnist", mnist_files(*examples("mnist")), tmp_path / "archives")
    words = ("prepare_data", "mnist", f"--dir={tmp_path}", f"--from={tmp_path / 'archives'}")
    left = tmp_path / "mnist/incomplete/3.0.1"
    left.mkdir(parents=True)
    (left / "mnist-train.array_record-00000-of-00001").write_bytes(b"half")
    (left / "dataset_info.json").write_text("{}")
    call(*words)
    assert len(read("mnist", tmp_path).parts["test"]) == 6 and not left.parent.exists()
    (tmp_path / "mnist/3.0.1/dataset_info.json").unlink()
    assert "mnist/3.0.1 is there, but has no dataset_info.json: remove it" in call(*words, code=2).err


def test_large_splits_have_several_shards_in_one_order(call, monkeypatch, tmp_path):
    images, labels = examples("mnist")
    publish(monkeypatch, "mnist", files_of("mnist", images, labels), tmp_path / "archives")
    found = []
    for size in (300, 7):
        monkeypatch.setattr(archives, "SHARD", size)
        data = tmp_path / str(size)
        call("prepare_data", "mnist", f"--dir={data}", f"--from={tmp_path / 'archives'}")
        parts = read("mnist", data).parts
        found.append([one["label"] for part in ("train", "validation") for one in parts[part].read(range(10))])
    assert len(list((data / "mnist/3.0.1").glob("mnist-train.array_record-*-of-00003"))) == 3
    assert found[0] == found[1]
