"""Runs in a bucket, against an S3 server on this machine."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import s3_server
import several_storage
from cnn_jax.checkpoint import bucket
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.config import recipes
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.core.files import located
from cnn_jax.pretrained import source as pretrained
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop as train
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from cnn_jax.training.throughput import MEASURED
from commands import ROOT, environment
from several_processes import finish, free_port, started, wait_for

pytestmark = pytest.mark.nightly
LONG = (
    "--config.duration=600steps",
    "--config.eval.every=200steps",
    "--config.checkpoint.every=10steps",
    "--config.log.every=5steps",
    "--config.model.dropout=0.1",
)
RARELY = tuple(f"--config.{what}.every=100000steps" for what in ("checkpoint", "eval"))


@pytest.fixture(scope="module")
def server():
    with s3_server.running() as server:
        yield server


@pytest.fixture
def files(server, monkeypatch):
    """The objects of the server, whose only bucket is new."""
    monkeypatch.setenv("CNN_JAX_LEASE", "1")
    files = server.files()
    if files.exists("bucket"):
        files.rm("bucket", recursive=True)
    files.mkdir("bucket")
    return files


URL = "s3://bucket/runs/a"


def there(files):
    return {name.removeprefix("bucket/runs/a/") for name in files.find("bucket/runs/a")}


def records(path):
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in read_jsonl(path)]


def final(where, step=None):
    """Returns the step and the state of a checkpoint, by default of the latest, and the records without their times."""
    with bucket.opened(where) as here, Checkpoints(here, shared=isinstance(where, Path)) as checkpoints:
        run = build(recipes.get_config("replay", str(here / "config.json")))
        at = checkpoints.select(str(step or "latest"), pytest.fail)
        state = jax.device_get(States(run).restore(checkpoints, at))
        return at, state, records(here / "metrics.jsonl")


def assert_same(found, expected):
    assert found[0] == expected[0] and found[2] == expected[2]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def complete(files):
    """Returns the steps that have a manifest in the bucket."""
    steps = [name.split("/")[1] for name in there(files) if name.endswith("manifest.json")]
    return sorted(int(step) for step in steps if step.isdecimal())


def latest(files):
    """Returns the newest of these steps, 0 if there is none."""
    return max(complete(files), default=0)


def wait_until(process, holds):
    until = time.monotonic() + 120
    while not holds():
        assert process.poll() is None and time.monotonic() < until, process.stderr.read()
        time.sleep(0.01)


# ---------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in a folder that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with started(1, *LONG, f"--workdir={folder}") as running:
        ((code, _, err),) = finish(running)
    assert (code, err) == (0, "")
    return folder


def test_a_disturbed_run_in_a_bucket_equals_one_in_a_folder(server, files, whole):
    """It is killed, finds half an upload and a flipped byte, and its server stops for a while."""
    with started(1, *LONG, f"--workdir={URL}") as (process,):
        wait_until(process, lambda: latest(files) >= 40 and len(complete(files)) > 1)
    before, at = complete(files)[-2:]
    assert 40 <= at < 600

    data = max((name for name in files.find(f"bucket/runs/a/checkpoints/{at}/state") if "/d/" in name), key=files.size)
    flipped = bytearray(files.cat_file(data))
    flipped[len(flipped) // 2] ^= 1
    files.pipe_file(data, bytes(flipped))
    files.pipe_file("bucket/runs/a/checkpoints/590/state/d/x", b"uploaded by half")

    with started(1, *LONG, f"--workdir={URL}") as (process,):
        out = wait_for_part(process, f"resuming from the checkpoint of step {before}")
        wait_until(process, lambda: latest(files) >= at + 10)
        with server.stopped():
            time.sleep(3)
        ((code, _, err),) = finish([process])
    assert (code, err) == (0, "")
    assert f"{URL} is held by process " in out and "waiting for a sign of life" in out
    assert f"the checkpoint of step {at} is damaged: " in out
    assert_same(final(URL), final(whole))
    mine, theirs = pretrained.open_source(f"{URL}@best"), pretrained.open_source(f"{whole}@best")
    assert mine.name.startswith(f"{URL}@") and mine.name.split("@")[1] == theirs.name.split("@")[1]
    jax.tree.map(np.testing.assert_array_equal, dict(mine.leaves), dict(theirs.leaves))
    assert f"checkpoints/{at}.damaged/manifest.json" in there(files)
    assert {"run.json", "curves.png", "summary.txt", "data.json", "input.json"} <= there(files)
    starts = json.loads(files.cat_file("bucket/runs/a/run.json"))["starts"]
    assert [start["ended"] for start in starts] == [None, "done"] and starts[1]["first_step"] == before

    evaluated = subprocess.run(
        [sys.executable, "-m", "cnn_jax.main", "--mode=eval", f"--workdir={URL}", "--checkpoint=best"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (evaluated.returncode, evaluated.stderr) == (0, "") and f"of {URL}" in evaluated.stdout
    lines = [json.loads(line) for line in files.cat_file("bucket/runs/a/evaluations.jsonl").splitlines()]
    assert [line["kind"] for line in lines] == ["validation", "test"]


def test_sigterm_saves_in_the_bucket_and_frees_it(files):
    with started(1, *LONG, "--config.duration=100000steps", *RARELY, f"--workdir={URL}") as (process,):
        wait_for(process, "first step")
        process.send_signal(signal.SIGTERM)
        ((code, _, err),) = finish([process])
    last = err.splitlines()[-1]
    assert code == 75 and last.startswith("Stopped by SIGTERM at step ") and last.endswith(f"with --workdir={URL}")
    assert latest(files) == int(last.split("at step ")[1].split("/")[0].replace(",", ""))
    assert json.loads(files.cat_file("bucket/runs/a/run.json"))["starts"][0]["ended"] == "Stopped"
    assert ".lease" not in there(files)


def test_bucket_that_fails_for_good_ends_the_run(server, files, monkeypatch):
    monkeypatch.setenv("CNN_JAX_PATIENCE", "2")
    with started(1, *LONG, "--config.duration=100000steps", f"--workdir={URL}") as (process,):
        wait_until(process, lambda: latest(files) >= 20)
        with server.stopped():
            ((code, _, err),) = finish([process])
    assert code == 74 and "Traceback" not in err and f"error: {URL} cannot be " in err
    with bucket.opened(URL) as here, Checkpoints(here, shared=False) as checkpoints:
        assert checkpoints.latest(pytest.fail) == latest(files)


def wait_for_part(process, part):
    """Waits until a process prints a line with `part`; returns what it has printed."""
    said = ""
    for line in process.stdout:
        said += line
        if part in line:
            return said
    raise AssertionError(said + process.stderr.read())


def test_two_processes_save_in_a_bucket_without_a_shared_disk(files, tmp_path):
    alone = States(build(several_storage.get_config())).create()
    with (
        bucket.opened("s3://bucket/one", hold=True) as here,
        Saver(Checkpoints(here, shared=False), keep=1) as saver,
    ):
        saver.save(7, alone, error=None)
    program, place = str(ROOT / "tests" / "helpers" / "several_storage.py"), f"127.0.0.1:{free_port()}"
    running = []
    for process in range(2):
        own = tmp_path / str(process)
        own.mkdir()
        line = [sys.executable, program, str(tmp_path), "s3://bucket", str(tmp_path / "run"), place, "2", str(process)]
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        running.append(subprocess.Popen(line, env=environment(devices=2) | {"TMPDIR": str(own)}, **pipes))
    try:
        for process in running:
            _, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
    finally:
        for process in running:
            process.kill()
    found = [pickle.loads((tmp_path / f"{process}.pickle").read_bytes()) for process in range(2)]
    one = several_storage.restored("s3://bucket/two")
    assert int(one.step) == 4
    for other in (found[0]["bucket"], found[1]["bucket"], found[0]["folder"], found[1]["folder"]):
        jax.tree.map(np.testing.assert_array_equal, other, one)
    alone = jax.device_get(alone)
    for process in range(2):
        jax.tree.map(np.testing.assert_array_equal, found[process]["one"], alone)
        assert list((tmp_path / str(process)).iterdir()) == []  # nothing stays on the machines
    names = {path.split("/")[2] for path in files.find("bucket/two")}
    assert names == {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}


def test_the_report_of_a_nonfinite_loss_is_in_the_bucket(files, small_config, console):
    small_config.optim.learning_rate, small_config.model.activation = 1e20, "relu"
    with pytest.raises(UserError, match=f"are in {URL}/not_finite") as error:
        train.run(small_config, URL, Options(console=console))
    assert error.value.exit_code == 3
    names = {name for name in there(files) if name.startswith("not_finite/")}
    assert {"not_finite/batch.npz", "not_finite/report.json"} <= names
    step = json.loads(files.cat_file("bucket/runs/a/not_finite/report.json"))["step"]
    assert f"not_finite/checkpoints/{step - 1}/manifest.json" in names


def test_a_bucket_with_another_run_is_refused(files, small_config, console):
    assert train.run(small_config, URL, Options(dry_run=True, console=console)) == {}
    assert there(files) == set()
    save(1)
    files.pipe_file("bucket/runs/a/config.json", small_config.to_json().encode())
    before = there(files)
    small_config.unlock()
    small_config.seed = 1
    with pytest.raises(UserError, match=rf"^{URL} holds a run of another configuration:\n  config.seed: 0 in"):
        train.run(small_config, URL, Options(console=console))
    assert there(files) == before


# ---------------------------------------------------------------- checkpoints


def tree(value):
    return {"x": jax.numpy.full((1000,), value, "float32"), "step": jax.numpy.int32(value)}


@contextlib.contextmanager
def saving(*, keep=2):
    """Yields a saver; its checkpoints are in the bucket afterwards."""
    with bucket.opened(URL, hold=True) as here, Saver(Checkpoints(here, shared=False), keep=keep) as saver:
        yield saver


def save(*steps, keep=2):
    with saving(keep=keep) as saver:
        for step in steps:
            saver.save(step, tree(step), error=None)


def steps(files):
    return {name.split("/")[1] for name in there(files) if name.startswith("checkpoints/")}


def test_latest_and_best_stay_in_the_bucket(files):
    with saving() as saver:
        for step, error in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None), (5, 0.4)):
            saver.save(step, tree(step), error=error)
        here = saver.checkpoints.folder
    assert not here.exists()
    assert steps(files) == {"2", "4", "5"} and ".lease" not in there(files)
    with bucket.opened(URL) as here, Checkpoints(here, shared=False) as checkpoints:
        assert checkpoints.select("best", pytest.fail) == 2
        assert checkpoints.select("latest", pytest.fail) == 5
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree(0))
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(2, like), tree(2))


def test_manifest_is_uploaded_last_and_removed_first(files, monkeypatch):
    log = []
    for name in ("put", "remove"):
        action = getattr(bucket._Bucket, name)

        def logged(self, path, action=action, name=name):
            action(self, path)
            log.append((name, path))

        monkeypatch.setattr(bucket._Bucket, name, logged)
    save(1)
    save(2, keep=1)
    for step, action, last in ((1, "put", True), (2, "put", True), (1, "remove", False)):
        names = [name for done, name in log if done == action and f"checkpoints/{step}/" in name]
        assert len(names) > 3 and names.index(f"checkpoints/{step}/manifest.json") == (len(names) - 1 if last else 0)


def change(files, name):
    data = bytearray(files.cat_file(name))
    data[len(data) // 2] ^= 1
    files.pipe_file(name, bytes(data))


def test_damaged_checkpoint_is_reported_and_set_aside(files):
    save(1, 2)
    change(files, max(files.find("bucket/runs/a/checkpoints/2/state"), key=files.size))
    lines = []
    with bucket.opened(URL) as here, Checkpoints(here, shared=False) as checkpoints:
        assert checkpoints.latest(lines.append) == 1
        assert len(lines) == 1 and "step 2 is damaged: " in lines[0] and "has changed since it was saved" in lines[0]
    assert steps(files) == {"1", "2"}  # reading changes nothing
    with saving() as saver:
        assert saver.checkpoints.latest(lines.append, tidy=True) == 1
    assert steps(files) == {"1", "2.damaged"}


def test_checkpoint_without_a_manifest_is_removed(files):
    save(1)
    files.pipe_file("bucket/runs/a/checkpoints/2/state/d/x", b"half")
    files.pipe_file("bucket/runs/a/checkpoints/notes.txt", b"of the user")
    files.pipe_file("bucket/runs/a/checkpoints/copies/1/x", b"of the user")
    for folder in ("", "checkpoints/"):  # as consoles make them
        files.call_s3("put_object", Bucket="bucket", Key=f"runs/a/{folder}", Body=b"")
    files.pipe_file("bucket/runs/a/b/checkpoints/2/state/x", b"of another run")
    with bucket.opened(URL) as here, Checkpoints(here, shared=False) as checkpoints:
        assert checkpoints.latest(pytest.fail) == 1
    assert steps(files) == {"1", "2", "notes.txt", "copies", ""}
    save(3)
    assert steps(files) == {"1", "3", "notes.txt", "copies", ""}
    assert files.exists("bucket/runs/a/b/checkpoints/2/state/x")


@pytest.mark.parametrize("name", ["checkpoints/1/../../../../x", "checkpoints/1/state//x", "..", "a\\b"])
def test_names_that_lead_elsewhere_are_refused(files, name):
    save(1)
    files.call_s3("put_object", Bucket="bucket", Key=f"runs/a/{name}", Body=b"x")
    with pytest.raises(StorageError, match=r"has an object .* which cannot be a file"), bucket.opened(URL):
        pass


# ---------------------------------------------------------------- who holds it


def lease(path):
    return bucket._lease(bucket._Bucket(URL, path))


def test_bucket_is_locked_by_one_run_and_released(files, tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_LEASE", "4")
    for _ in range(2):
        with lease(tmp_path):
            in_use = rf"^{URL} is in use by process {os.getpid()} on "
            with pytest.raises(UserError, match=in_use), lease(tmp_path):
                pass
        assert there(files) == set()


def test_silent_holder_loses_the_lock_and_stops(files, tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as silent:
        silent.setattr(bucket.threading.Thread, "start", lambda self: None)
        silent.setattr(bucket.threading.Thread, "join", lambda self: None)
        with lease(tmp_path) as first:
            first()
            with lease(tmp_path) as second:
                second()
                with pytest.raises(UserError, match=rf"^{URL} is held by process .* It stops"):
                    first()
            with lease(tmp_path):  # the second one has ended
                pass
    assert there(files) == set()


def test_of_many_simultaneous_starts_one_gets_the_lock(files, tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_LEASE", "8")
    with contextlib.ExitStack() as holding, ThreadPoolExecutor(8) as threads:

        def attempt(_):
            try:
                return holding.enter_context(lease(tmp_path))
            except UserError:
                return None

        found = [one for one in threads.map(attempt, range(8)) if one is not None]
        assert len(found) == 1
        found[0]()


def test_run_that_lost_its_bucket_uploads_nothing_more(files, monkeypatch):
    asked = []
    monkeypatch.setattr(bucket.os, "kill", lambda *call: asked.append(call))
    with pytest.raises(UserError, match="is held by another"), bucket.opened(URL, hold=True) as here:
        files.pipe_file("bucket/runs/a/.lease", b'{"by": "another", "id": "x", "seconds": 1, "beats": 1}')
        with Saver(Checkpoints(here, shared=False), keep=1) as saver:
            saver.save(1, tree(1), error=None)
        until = time.monotonic() + 30
        while not asked and time.monotonic() < until:
            time.sleep(0.05)
    assert asked == [(os.getpid(), signal.SIGTERM)] and steps(files) == set()


def test_url_is_a_folder_in_a_bucket():
    assert located("--workdir", "gs://bucket/run/") == "gs://bucket/run"
    assert located("--workdir", "runs/x") == Path("runs/x")
    with pytest.raises(UserError, match="must name a folder in a bucket, such as s3://bucket/run"):
        located("--workdir", "s3://bucket")
    with pytest.raises(UserError, match="must be a folder: its URL is not read"):
        located("--workdir", "https://host/run")
