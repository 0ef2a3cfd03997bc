"""Runs in a bucket, against an S3 server on this machine."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import s3_server
import several_storage
from cnn_jax.checkpoint import storage
from cnn_jax.checkpoint.lease import Lease
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.pretrained import source as pretrained
from cnn_jax.tracking.metrics import read_jsonl
from cnn_jax.training import loop as train
from cnn_jax.training.build import Run
from cnn_jax.training.clock import MEASURED
from several_processes import ROOT, finish, free_port, started, wait_for

LONG = (
    "--config.duration=120steps",
    "--config.eval.every=40steps",
    "--config.checkpoint.every=10steps",
    "--config.log.every=5steps",
    "--config.checkpoint.lease=1.0",
    "--config.checkpoint.retry=100.0",
    "--config.model.dropout=0.1",
)
RARELY = tuple(f"--config.{what}.every=100000steps" for what in ("checkpoint", "eval"))


@pytest.fixture(scope="module")
def server():
    with s3_server.running() as server:
        yield server


@pytest.fixture
def files(server):
    """The objects of the server, whose only bucket is new."""
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
    with storage.opened(where) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        run = Run(recipes.get_config("replay", str(kept.path / "config.json")))
        at = checkpoints.select(str(step or "latest"), pytest.fail)
        state = jax.device_get(run.restore(checkpoints, at))
        return at, state, records(kept.path / "metrics.jsonl")


def assert_same(found, expected):
    assert found[0] == expected[0] and found[2] == expected[2]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def latest(files):
    """Returns the newest step that has a manifest in the bucket, 0 before the first."""
    steps = [name.split("/")[1] for name in there(files) if name.endswith("manifest.json")]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


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


def test_a_run_in_a_bucket_that_goes_through_a_lot_ends_with_the_numbers_of_one_in_a_folder(server, files, whole):
    """It is killed, finds half an upload and a flipped byte, and its server stops for a while."""
    with started(1, *LONG, f"--workdir={URL}") as (process,):
        wait_until(process, lambda: latest(files) >= 40)
    at = latest(files)
    assert 40 <= at < 120

    data = max((name for name in files.find(f"bucket/runs/a/checkpoints/{at}/state") if "/d/" in name), key=files.size)
    flipped = bytearray(files.cat_file(data))
    flipped[len(flipped) // 2] ^= 1
    files.pipe_file(data, bytes(flipped))
    files.pipe_file("bucket/runs/a/checkpoints/110/state/d/x", b"uploaded by half")

    before = at - 10
    with started(1, *LONG, f"--workdir={URL}") as (process,):
        out = wait_for_part(process, f"going on from the checkpoint of step {before}")
        wait_until(process, lambda: latest(files) >= at + 10)
        with server.stopped():
            wait_for_part(process, "; tried again in ")
        ((code, _, err),) = finish([process])
    assert (code, err) == (0, "")
    assert f"{URL} is held by process " in out and "waiting up to 1 s for a sign of life" in out
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
    assert code == 75 and err.startswith("stopped by SIGTERM after step ") and f"--workdir={URL} goes on" in err
    assert latest(files) == int(err.split("after step ")[1].split()[0].replace(",", ""))
    assert json.loads(files.cat_file("bucket/runs/a/run.json"))["starts"][0]["ended"] == "Stopped"
    assert json.loads(files.cat_file("bucket/runs/a/.lock/00000001"))["released"]


def test_a_bucket_that_fails_for_good_ends_the_run(server, files):
    with started(1, *LONG, "--config.checkpoint.retry=1.0", f"--workdir={URL}") as (process,):
        wait_until(process, lambda: latest(files) >= 20)
        with server.stopped():
            ((code, out, err),) = finish([process])
    assert code == 74 and "; tried again in " in out and "Traceback" not in err
    assert err.startswith("error: the checkpoint of step ") and "the earlier ones are whole: " in err
    with storage.opened(URL) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        assert checkpoints.latest(pytest.fail) == latest(files)


def wait_for_part(process, part):
    """Returns what a process has printed when it has printed a line with `part`."""
    said = ""
    for line in process.stdout:
        said += line
        if part in line:
            return said
    raise AssertionError(said + process.stderr.read())


def test_two_processes_without_a_common_disk_save_in_a_bucket_and_each_layout_restores_it_exactly(files, tmp_path):
    alone = Run(several_storage.get_config("replicated")).create_state()
    with storage.opened("s3://bucket/one") as kept, held(kept), Checkpoints(kept.path, storage=kept) as checkpoints:
        checkpoints.save(7, alone, error=None)
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}",
    }
    program, place = str(ROOT / "tests" / "helpers" / "several_storage.py"), f"127.0.0.1:{free_port()}"
    running = []
    for process in range(2):
        own = tmp_path / str(process)
        own.mkdir()
        line = [sys.executable, program, str(tmp_path), "s3://bucket", str(tmp_path / "run"), place, "2", str(process)]
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        running.append(subprocess.Popen(line, env=environment | {"TMPDIR": str(own)}, **pipes))
    try:
        for process in running:
            _, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
    finally:
        for process in running:
            process.kill()
    found = [pickle.loads((tmp_path / f"{process}.pickle").read_bytes()) for process in range(2)]
    here = several_storage.restored("s3://bucket/two", "replicated")
    assert int(here.step) == 4
    for other in (found[0]["bucket"], found[1]["bucket"], found[0]["folder"], found[1]["folder"]):
        jax.tree.map(np.testing.assert_array_equal, other, here)
    alone = jax.device_get(alone)
    for process in range(2):
        jax.tree.map(np.testing.assert_array_equal, found[process]["one"], alone)
        assert list((tmp_path / str(process)).iterdir()) == []  # nothing stays on the machines
    names = {path.split("/")[2] for path in files.find("bucket/two")}
    assert names == {path.name for path in (tmp_path / "run").iterdir()}


def test_a_loss_that_is_not_finite_leaves_its_evidence_in_the_bucket(files, small_config, console):
    small_config.optim.learning_rate, small_config.model.activation = 1e20, "relu"
    with pytest.raises(UserError, match=f"are in {URL}/not_finite") as error:
        train.run(small_config, URL, console=console)
    assert error.value.exit_code == 3
    names = {name for name in there(files) if name.startswith("not_finite/")}
    assert {"not_finite/batch.npz", "not_finite/report.json"} <= names
    step = json.loads(files.cat_file("bucket/runs/a/not_finite/report.json"))["step"]
    assert f"not_finite/checkpoints/{step - 1}/manifest.json" in names


def test_a_bucket_with_another_run_is_refused_and_a_dry_run_leaves_nothing_there(files, small_config, console):
    assert train.run(small_config, URL, dry_run=True, console=console) == {}
    assert there(files) == set()
    save(1)
    files.pipe_file("bucket/runs/a/config.json", small_config.to_json().encode())
    before = there(files)
    small_config.unlock()
    small_config.seed = 1
    with pytest.raises(UserError, match=rf"^{URL} holds a run of another configuration:\n  config.seed: 0 in"):
        train.run(small_config, URL, console=console)
    assert there(files) == before


# ---------------------------------------------------------------- checkpoints


def tree(value):
    return {"x": np.full((1000,), value, np.float32), "step": np.int32(value)}


def held(kept, lease=30.0, said=pytest.fail):
    return kept.held(kept.path, seconds=lease, patiently=lambda action: action(), report=said)


def save(*steps, keep=2, errors=()):
    """Saves checkpoints in the bucket."""
    with storage.opened(URL) as kept, held(kept), Checkpoints(kept.path, keep=keep, storage=kept) as checkpoints:
        for step in steps:
            checkpoints.save(step, jax.tree.map(jax.numpy.asarray, tree(step)), error=dict(errors).get(step))


def steps(files):
    return {name.split("/")[1] for name in there(files) if name.startswith("checkpoints/")}


def test_the_latest_and_the_best_stay_in_the_bucket_and_only_manifests_here(files):
    with storage.opened(URL) as kept, held(kept), Checkpoints(kept.path, keep=2, storage=kept) as checkpoints:
        for step, error in ((1, 0.3), (2, 0.1), (3, 0.2), (4, None), (5, 0.4)):
            checkpoints.save(step, jax.tree.map(jax.numpy.asarray, tree(step)), error=error)
        checkpoints.wait()
        assert {path.name for path in kept.path.glob("checkpoints/*/*")} == {"manifest.json"}
        here = kept.path
    assert not here.exists()
    assert steps(files) == {"2", "4", "5"}
    with storage.opened(URL) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        assert checkpoints.select("best", pytest.fail) == 2
        assert checkpoints.select("latest", pytest.fail) == 5
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree(0))
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(2, like), tree(2))


def test_a_checkpoint_is_there_from_its_manifest_to_its_manifest(files, monkeypatch):
    """What is uploaded last is removed first."""
    log = []
    real = storage._connect

    def watched(url):
        store, root = real(url)
        for name in ("put_file", "rm_file"):
            action = getattr(store, name)

            def logged(*paths, action=action, name=name):
                action(*paths)
                log.append((name, paths[-1]))

            monkeypatch.setattr(store, name, logged)
        return store, root

    monkeypatch.setattr(storage, "_connect", watched)
    save(1, 2, keep=1)
    for step, action, last in ((1, "put_file", True), (2, "put_file", True), (1, "rm_file", False)):
        names = [name for done, name in log if done == action and f"/checkpoints/{step}/" in name]
        assert len(names) > 3 and names.index(f"bucket/runs/a/checkpoints/{step}/manifest.json") == (
            len(names) - 1 if last else 0
        )
    uploaded = log.index(("put_file", "bucket/runs/a/checkpoints/2/manifest.json"))
    assert uploaded < log.index(("rm_file", "bucket/runs/a/checkpoints/1/manifest.json"))


def change(files, name):
    data = bytearray(files.cat_file(name))
    data[len(data) // 2] ^= 1
    files.pipe_file(name, bytes(data))


DAMAGES = {
    "has changed since it was saved": change,
    "bytes, but had": lambda files, name: files.pipe_file(name, files.cat_file(name)[:-1]),
    "is missing": lambda files, name: files.rm_file(name),
    "does not belong to it": lambda files, name: files.pipe_file(f"{name}x", b"x"),
    "cannot be read": lambda files, name: files.pipe_file(
        f"{name[: name.index('/state')]}/manifest.json", b'{"files": {"a": 1}}'
    ),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_checkpoint_in_the_bucket_is_reported_and_the_one_before_is_used(files, words):
    save(1, 2)
    DAMAGES[words](files, max(files.find("bucket/runs/a/checkpoints/2/state"), key=files.size))
    said = []
    with storage.opened(URL) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        assert checkpoints.latest(said.append) == 1
        assert len(said) == 1 and said[0].startswith("the checkpoint of step 2 is damaged: ") and words in said[0]
        with pytest.raises(StorageError, match="step 2 is damaged"):
            checkpoints.restore(2, tree(0))
    assert steps(files) == {"1", "2"}  # reading changes nothing
    with storage.opened(URL) as kept, held(kept), Checkpoints(kept.path, storage=kept) as checkpoints:
        assert checkpoints.latest(said.append, tidy=True) == 1
        kept.push()
    assert steps(files) == {"1", "2.damaged"}


def test_a_checkpoint_without_a_manifest_is_none_and_goes(files):
    save(1)
    files.pipe_file("bucket/runs/a/checkpoints/2/state/d/x", b"half")
    files.pipe_file("bucket/runs/a/checkpoints/notes.txt", b"of the user")
    files.pipe_file("bucket/runs/a/checkpoints/copies/1/x", b"of the user")
    for folder in ("", "checkpoints/"):  # as consoles make them
        files.call_s3("put_object", Bucket="bucket", Key=f"runs/a/{folder}", Body=b"")
    files.pipe_file("bucket/runs/a/b/checkpoints/2/state/x", b"of another run")
    with storage.opened(URL) as kept, Checkpoints(kept.path, storage=kept) as checkpoints:
        assert checkpoints.steps() == [1]
    assert steps(files) == {"1", "2", "notes.txt", "copies", ""}
    save(3)
    assert steps(files) == {"1", "3", "notes.txt", "copies", ""}
    assert files.exists("bucket/runs/a/b/checkpoints/2/state/x")


def test_where_no_checkpoint_is_whole_nothing_starts_from_scratch(files):
    save(1)
    change(files, max(files.find("bucket/runs/a/checkpoints/1/state"), key=files.size))
    for _ in range(2):
        with (
            pytest.raises(StorageError, match=rf"^no checkpoint in {URL}/checkpoints is whole"),
            storage.opened(URL) as kept,
            held(kept),
            Checkpoints(kept.path, storage=kept) as checkpoints,
        ):
            checkpoints.latest(str, tidy=True)


@pytest.mark.parametrize("name", ["checkpoints/1/../../../../x", "checkpoints/1/state//x", "..", "a\\b"])
def test_objects_whose_names_lead_elsewhere_are_refused(files, name):
    save(1)
    files.call_s3("put_object", Bucket="bucket", Key=f"runs/a/{name}", Body=b"x")
    with pytest.raises(StorageError, match=r"has an object .* which cannot be a file"), storage.opened(URL):
        pass


# ---------------------------------------------------------------- who holds it


def lease(files, seconds=1.0, said=pytest.fail):
    return Lease(files, "bucket/runs/a/.lock", seconds=seconds, name=URL, report=said)


def test_a_bucket_is_held_by_one_that_lives_and_free_afterwards(files):
    said = []
    for number in (1, 2):
        with lease(files, 4.0):
            with (
                pytest.raises(UserError, match=rf"^{URL} is in use by process {os.getpid()} on "),
                lease(files, 4.0, said.append),
            ):
                pass
            assert there(files) == {f".lock/{number:08d}"}
    assert len(said) == 2 and said[0].endswith("waiting up to 4 s for a sign of life")


def test_who_was_silent_too_long_is_followed_and_stops(files, monkeypatch):
    monkeypatch.setattr(Lease, "_renew", lambda self: None)
    with lease(files) as first:
        first.check()
        said = []
        with lease(files, said=said.append) as second:
            second.check()
            with pytest.raises(UserError, match=rf"^{URL} is now held by process .* It stops"):
                first.check()
        assert len(said) == 1
        with lease(files):  # the second one has ended
            pass
    assert there(files) == {".lock/00000001", ".lock/00000003"}  # the first has said its last word, which nobody minds
    with lease(files) as last:
        assert last.number == 4


def test_of_many_that_come_at_once_one_holds_it(files):
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import ExitStack

    with ExitStack() as holding, ThreadPoolExecutor(8) as threads:

        def attempt(_):
            try:
                return holding.enter_context(lease(files, 4.0, str))
            except UserError:
                return None

        found = [one for one in threads.map(attempt, range(8)) if one is not None]
        assert len(found) == 1
        found[0].check()


def test_a_run_that_lost_its_bucket_uploads_nothing_more(files, monkeypatch):
    with pytest.raises(UserError, match="is now held by another"), storage.opened(URL) as kept, held(kept):
        files.pipe_file("bucket/runs/a/.lock/00000009", b'{"by": "another"}')
        with Checkpoints(kept.path, storage=kept) as checkpoints:
            checkpoints.save(1, tree(1), error=None)
    assert there(files) == {".lock/00000001", ".lock/00000009"}


# ---------------------------------------------------------------- mistakes


def test_a_bucket_that_is_not_there_is_one_message(files):
    with started(1, "--workdir=s3://no-such-bucket/run") as running:
        ((code, out, err),) = finish(running)
    assert (code, out) == (74, "")
    assert err == (
        "error: s3://no-such-bucket/run cannot be read: The specified bucket does not exist (s3://no-such-bucket/run)\n"
    )


def test_a_bucket_that_does_not_answer_is_one_message(files, monkeypatch):
    monkeypatch.setattr(type(files), "cachable", False)  # what is known of the server that answers
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=f"^{URL} cannot be read: Could not connect"), storage.opened(URL):
        pass


def test_missing_credentials_are_one_message(files, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(type(files), "cachable", False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match=f"^{URL} cannot be read: .*credentials"), storage.opened(URL):
        pass


@pytest.mark.parametrize(("url", "extra"), [("s3://bucket/run", "s3"), ("gs://bucket/run", "gcs")])
def test_what_is_not_installed_is_named(url, extra):
    program = (
        "import sys; sys.modules['s3fs'] = sys.modules['gcsfs'] = None; from cnn_jax import main; sys.exit(main.main())"
    )
    line = [sys.executable, "-c", program, "--mode=eval", f"--workdir={url}"]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    module = {"s3": "s3fs", "gcs": "gcsfs"}[extra]
    assert result.stderr == f"error: {url} cannot be reached without {module}: pip install -e '.[{extra}]'\n"


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket/", "s3:///run", "gs://"])
def test_a_url_names_a_folder_in_a_bucket(url):
    with pytest.raises(
        UserError, match=f"--workdir is '{url}', but must name a folder in a bucket, such as {url[:2]}:"
    ):
        storage.located("--workdir", url)


def test_urls_and_paths_are_told_apart():
    assert storage.located("--workdir", "s3://bucket/a/b/") == "s3://bucket/a/b"
    assert storage.located("--workdir", "runs/a") == Path("runs/a")
    with pytest.raises(UserError, match="--workdir is 'hdfs://host/run', but must be a folder"):
        storage.located("--workdir", "hdfs://host/run")
