"""TFRecord files, made by the tests' own writer, are read and converted; every fault in one is named."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.config.fields import get_config
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.data import prepared, sources
from cnn_jax.data.tfrecord import convert, masked_crc, read_records
from tfds_files import as_tfrecord, crc32c, flip_a_byte, prepare, read_shard, tfrecord


def test_the_checksum_of_the_tests_is_that_of_the_standard():
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(records=st.lists(st.binary(max_size=60), max_size=6))
def test_records_come_back_as_they_were_written(tmp_path_factory, records):
    file = tmp_path_factory.getbasetemp() / "records"
    file.write_bytes(tfrecord(records))
    assert list(read_records(file)) == records
    assert all(tfrecord([record])[-4:] == masked_crc(record).to_bytes(4, "little") for record in records)


@given(st.data())
def test_a_flipped_bit_or_a_cut_is_always_seen(tmp_path_factory, data):
    records = data.draw(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
    content = bytearray(tfrecord(records))
    ends = {len(tfrecord(records[:i])) for i in range(len(records) + 1)}
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        cut = data.draw(st.integers(0, len(content) - 1).filter(lambda n: n not in ends))
        content = content[:cut]
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}, record \d+ at byte [\d,]+: .*(damaged|cut off)"):
        list(read_records(file))


# ---------------------------------------------------------------- data sets


def picture(_split: str, i: int) -> np.ndarray:
    return np.full((28, 28, 1), 5 * i, np.uint8)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small "mnist" as array_record: the folder of data sets."""
    sizes = dict(splits=dict(train=21, test=7), shape=(28, 28, 1), num_classes=10)
    return prepare(tmp_path_factory.mktemp("original"), "mnist", "3.0.1", picture, **sizes)


@pytest.fixture
def folder(original, tmp_path):
    """The same as TFRecord, two files for each split: DIR/mnist/3.0.1."""
    data_dir = shutil.copytree(original, tmp_path / "tfrecord")
    as_tfrecord(data_dir / "mnist/3.0.1")
    return data_dir / "mnist/3.0.1"


def config(data_dir: Path):
    found = get_config("mnist").data
    found.update(dict(dir=str(data_dir), train="train[:80%]", validation="train[80%:]"))
    return found


def everything(data_dir: Path) -> dict[str, list]:
    parts = sources.open_dataset(config(data_dir)).parts
    return {
        part: [(np.asarray(e["image"]).tolist(), e["label"]) for e in s.read(range(len(s)))]
        for part, s in parts.items()
    }


def run(folder: Path, to: Path) -> list[int]:
    told: list[int] = []
    convert(prepared.read_info(folder), folder, to, told.append)
    return told


@pytest.mark.parametrize("in_place", [True, False])
def test_a_converted_data_set_is_the_one_that_was_prepared(original, folder, tmp_path, in_place):
    to = folder if in_place else tmp_path / "to/mnist/3.0.1"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sum(run(folder, to)) == 28
    assert everything(to.parents[1]) == everything(original)
    ours = [record for file in sorted(to.glob("mnist-train.array_record*")) for record in read_shard(file)]
    assert ours == read_shard(original / "mnist/3.0.1/mnist-train.array_record-00000-of-00001")
    # The old files are still there; only dataset_info.json has grown, if the new files are next to the old ones.
    after = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in before}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == ({"dataset_info.json"} if in_place else set())
    assert not list(to.glob("*.incomplete"))
    if not in_place:
        assert not list(to.glob("*tfrecord*"))
        assert json.loads((to / "dataset_info.json").read_text())["fileFormat"] == "array_record"


def test_in_place_tfds_reads_both_formats(folder):
    import tensorflow_datasets as tfds

    run(folder, folder)
    info = tfds.builder_from_directory(folder).info
    assert {one.value for one in info.available_file_formats()} == {"tfrecord", "array_record"}
    assert info.file_format.value == "tfrecord"
    assert all(Path(file).is_file() for split in info.splits.values() for file in split.filepaths)


FILE = "mnist-train.tfrecord-00001-of-00002"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(file.read_bytes()[:-5]), r"record 10 at byte [\d,]+: the file is cut off"),
        (lambda file: file.write_bytes(tfrecord(list(read_records(file))[:-1])), "has 10 records, but .* says 11"),
        (lambda file: file.write_bytes(b""), "has 0 records, but .* says 11"),
        (lambda file: file.write_bytes(b"hello world\n" * 100), r"record 0 at byte 0: .* damaged or no TFRecord"),
        (lambda file: flip_a_byte(file, list(read_records(file))[3]), "record 3 at byte .* it is damaged"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_missing_or_damaged_file_is_named_and_leaves_nothing(folder, tmp_path, damage, message, in_place):
    whole = (folder / FILE).read_bytes()
    damage(folder / FILE)
    to = folder if in_place else tmp_path / "to/mnist/3.0.1"
    with pytest.raises(UserError, match=rf"{folder / FILE}.*{message}"):
        run(folder, to)
    assert not list(to.glob("*.incomplete"))
    with pytest.raises(UserError, match="prepared as 'tfrecord'" if in_place else "is not prepared"):
        sources.open_dataset(config(to.parents[1]))
    (folder / FILE).write_bytes(whole)  # copied again
    run(folder, to)
    assert len(everything(to.parents[1])["test"]) == 7


def test_a_second_start_resumes_where_the_first_was_killed(original, folder, tmp_path):
    to = tmp_path / "to/mnist/3.0.1"
    script = f"""
import os
from pathlib import Path
from cnn_jax.data import prepared, tfrecord
folder, done = Path({str(folder)!r}), 0
def killed(records):
    global done
    done += records
    if done > 10:
        (Path({str(to)!r}) / "mnist-test.array_record-00000-of-00002.incomplete").write_bytes(b"half a file")
        os.kill(os.getpid(), 9)
tfrecord.convert(prepared.read_info(folder), folder, Path({str(to)!r}), killed)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == -9, result.stderr
    finished = {file: file.stat().st_mtime_ns for file in to.glob("*.array_record-0000?-of-00002")}
    assert 0 < len(finished) < 4 and not (to / "dataset_info.json").exists()
    time.sleep(0.01)
    run(folder, to)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # not written again
    assert everything(to.parents[1]) == everything(original)
    assert not list(to.glob("*.incomplete"))


def test_too_little_space_is_noticed_before_writing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r" has 1e-06 GB free, but 0\.000\d+ GB are needed: make room"):
        run(folder, tmp_path / "to/mnist/3.0.1")
    assert not (tmp_path / "to").exists()


def test_only_tfrecord_is_converted(original, tmp_path):
    with pytest.raises(UserError, match="was prepared as 'array_record', but only 'tfrecord'"):
        run(original / "mnist/3.0.1", tmp_path / "to")


def test_file_names_in_the_description_cannot_be_paths(folder, tmp_path):
    text = (folder / "dataset_info.json").read_text().replace('"name": "test"', '"name": "../../test"')
    (folder / "dataset_info.json").write_text(text)
    with pytest.raises(UserError):
        run(folder, tmp_path / "a/b/c/to")
    assert not list(tmp_path.glob("a/**/*array_record*"))
