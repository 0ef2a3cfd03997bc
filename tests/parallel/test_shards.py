"""Any number of processes can resume what processes that read shares of a stream left when they were killed."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnn_jax.config.fields import get_config
from cnn_jax.data import splits

pytestmark = pytest.mark.slow
BATCH_SIZE = 8
# Writes a line for each row of its batches: the step, the position in the run, the label, a digest of the image.
SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_shards
process, processes, start, stop = map(int, sys.argv[2:])
with open(sys.argv[1], "w", buffering=1) as file:
    for lines in test_shards.described(process, processes, start, stop):
        file.write(lines)
        time.sleep(0.02)
"""


def described(process: int, processes: int, start: int, stop: int):
    config = get_config("synthetic").data
    config.update(dict(placement="stream", workers=2, image_size=(8, 8), train_crop="random_resized"))
    config.num_images = (100, 10, 10)  # an epoch has 12.5 batches
    part = splits.Splits(config, seed=3, shard=(process, processes)).parts["train"]
    for step, batch in enumerate(part.train_batches(start, stop, BATCH_SIZE), start):
        rows = zip(batch["position"], batch["label"], batch["image"], strict=True)
        yield "".join(f"{step} {p} {label} {hashlib.sha256(image).hexdigest()}\n" for p, label, image in rows)


def start_processes(folder: Path, processes: int, start: int, stop: int) -> list[tuple[subprocess.Popen, Path]]:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    found = []
    for process in range(processes):
        file = folder / f"{processes}-{process}-{start}"
        words = [sys.executable, "-c", script, str(file), *map(str, (process, processes, start, stop))]
        found.append((subprocess.Popen(words, cwd=Path(__file__).parents[2]), file))
    return found


def lines_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")] if file.exists() else []


@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.nightly)])
def test_the_rows_are_those_of_one_process_whatever_was_killed(tmp_path, before, after):
    running = start_processes(tmp_path, before, 0, 10_000)
    while min(len(lines_of(file)) for _, file in running) < 15 * BATCH_SIZE // before:
        assert all(process.poll() is None for process, _ in running)
        time.sleep(0.05)
    for process, _ in running:
        process.kill()
        process.wait()
    rows = BATCH_SIZE // before
    done = min(len(lines_of(file)) // rows for _, file in running)  # the last step that all have finished
    found = [line for _, file in running for line in lines_of(file) if int(line.split()[0]) < done]
    for process, file in start_processes(tmp_path, after, done, done + 20):
        assert process.wait() == 0
        found += lines_of(file)
    expected = "".join(described(0, 1, 0, done + 20)).splitlines(keepends=True)
    assert sorted(found) == sorted(expected)
    assert len({line.split()[3] for line in expected}) > 0.9 * len(expected)  # crops differ from epoch to epoch
