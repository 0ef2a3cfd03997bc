"""Runs that are stopped, killed, damaged or moved, from the command line: what they leave, and where they resume."""

import fcntl
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from cnn_jax.training.throughput import MEASURED
from commands import ROOT, environment

pytestmark = pytest.mark.slow

SMALL = (
    "--config=configs/lenet5.py",
    "--config.model.width=0.25",
    "--config.duration=600steps",
    "--config.optim.schedule.warmup=2steps",
    "--config.eval.every=75steps",
    "--config.checkpoint.every=10steps",
    "--config.log.every=4steps",
    "--config.log.trackers=",
    "--config.data.augment=('pad_crop:2',)",
    "--config.model.dropout=0.1",
)


def start(folder, *arguments, devices=1):
    line = [sys.executable, "-u", "-m", "cnn_jax.main", *SMALL, f"--workdir={folder}", *arguments]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(line, cwd=ROOT, env=environment(devices), **pipes)


def finish(process):
    """Returns (exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_first_step(process):
    """Returns what was printed up to the first step, or all of it if the process ended before."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("first step"):
            break
    return "".join(lines)


def records(folder):
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in read_jsonl(folder / "metrics.jsonl")]


def final_state(folder):
    run = build(recipes.get_config("replay", str(folder / "config.json")))
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.select("latest", pytest.fail)
        return step, jax.device_get(States(run).restore(checkpoints, step))


def assert_same_run(folder, reference):
    assert records(folder) == records(reference)
    (step, state), (reference_step, reference_state) = final_state(folder), final_state(reference)
    assert step == reference_step
    jax.tree.map(np.testing.assert_array_equal, state, reference_state)
    with Checkpoints(folder) as mine, Checkpoints(reference) as theirs:
        assert mine.steps() == theirs.steps()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = finish(start(folder))
    assert (code, err) == (0, "")
    return folder


def saved_steps(folder):
    return {path.name for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()}


def wait_until(process, holds, seconds=20):
    """Waits until `holds()`, the end of the process, or for some seconds."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until and not holds():
        time.sleep(0.0005)


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.nightly)])
def test_killed_run_ends_with_the_numbers_of_one_never_stopped(tmp_path, whole, kills):
    moments, first_steps, inside_a_save = random.Random(0), [], 0
    for kill in range(kills):
        process = start(tmp_path)
        printed = wait_for_first_step(process)
        first_steps.append(int(printed.split("checkpoint of step ")[1].split()[0]) if "resuming" in printed else 0)
        if kill % 2:  # inside a save
            wait_until(process, lambda: any((tmp_path / "checkpoints").glob("*.partial")))
        else:
            if kill % 4 == 0:  # after a new checkpoint, however slow the machine is
                known = saved_steps(tmp_path)
                wait_until(process, lambda known=known: saved_steps(tmp_path) != known)
            time.sleep(moments.uniform(0, 0.6))
        assert process.poll() is None, f"the run ended before kill {kill}: make it longer"
        process.kill()
        process.communicate()
        inside_a_save += any((tmp_path / "checkpoints").glob("*.partial"))
    code, printed, err = finish(start(tmp_path))
    assert (code, err) == (0, "") and "damaged" not in printed
    assert inside_a_save >= (3 if kills == 20 else 1)
    assert first_steps == sorted(first_steps) and len(set(first_steps)) >= max(2, kills // 4), first_steps
    assert_same_run(tmp_path, whole)
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


STREAMED = (
    "--config.data.placement=stream",
    "--config.data.train_crop=random_resized",
    "--config.data.mean=(0.3,)",
    "--config.data.std=(0.4,)",
    "--config.duration=120steps",
)


@pytest.mark.parametrize(("first", "second"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.nightly)])
def test_a_killed_stream_resumes_with_another_number_of_workers(tmp_path, first, second):
    assert finish(start(tmp_path / "whole", *STREAMED, "--config.data.workers=3"))[0] == 0
    folder = tmp_path / "killed"
    process = start(folder, *STREAMED, f"--config.data.workers={first}")
    until = time.monotonic() + 120
    while not any((folder / "checkpoints").glob("[1-9]0")) and time.monotonic() < until:
        time.sleep(0.001)
    assert process.poll() is None, "the run ended before it was killed: make it longer"
    process.kill()
    process.communicate()
    code, printed, err = finish(start(folder, *STREAMED, f"--config.data.workers={second}"))
    assert (code, err) == (0, "") and "resuming from the checkpoint of step " in printed
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_resumes(tmp_path, whole, number):
    process = start(tmp_path)
    wait_for_first_step(process)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 75 and f"{number.name} received: finishing this step and saving" in err
    last = err.splitlines()[-1]
    assert last.startswith(f"Stopped by {number.name} at step ") and last.endswith(f"with --workdir={tmp_path}")
    step = int(last.split("at step ")[1].split("/")[0])
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(pytest.fail) == step < 600
    if number == signal.SIGINT:
        return
    assert finish(start(tmp_path))[0] == 0
    assert records(tmp_path) == records(whole)
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path)[1], final_state(whole)[1])


def test_a_second_run_in_a_locked_folder_is_refused(tmp_path):
    first = start(tmp_path)
    wait_for_first_step(first)
    code, _, err = finish(start(tmp_path))
    assert code == 2 and f"{tmp_path} is in use by process {first.pid} on " in err
    assert first.poll() is None
    first.kill()
    first.communicate()
    with (tmp_path / ".lock").open() as file:  # it died with the process
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_stops_the_run_and_keeps_earlier_checkpoints(tmp_path):
    short = ("--config.duration=10steps", "--config.model.width=1.0")
    assert finish(start(tmp_path, *short))[0] == 0
    before = (tmp_path / "checkpoints" / "10" / "manifest.json").read_text()

    process = start(tmp_path, *short[1:], "--config.duration=30steps", "--extend")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (150_000, 150_000))
    code, _, err = finish(process)
    assert code == 74
    assert "the checkpoint of step 20 cannot be written; the earlier ones are whole: File too large" in err
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.select("latest", pytest.fail) == 10
    assert (tmp_path / "checkpoints" / "10" / "manifest.json").read_text() == before
    # Orbax's writer threads may outlive its error: their files do not count, and the next start removes them.
    left = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name != "10"]
    assert all(re.fullmatch(r"20\.\d\.partial", name) for name in left), left
    assert finish(start(tmp_path, *short[1:], "--config.duration=30steps", "--extend"))[0] == 0
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"20", "30"}


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    code, printed, err = finish(start(tmp_path / "file" / "run"))
    assert code == 74 and "file/run cannot be made: Not a directory" in err and "first step" not in printed


def test_a_nonfinite_loss_has_its_own_exit_code(tmp_path):
    code, _, err = finish(start(tmp_path, "--config.optim.learning_rate=1e20", "--config.model.activation=relu"))
    assert code == 3
    assert err.startswith("error: the loss is nan ") and str(tmp_path / "not_finite") in err


def test_extend_gives_the_parameters_of_a_longer_run(tmp_path):
    constant = ("--config.optim.schedule.name=constant", "--config.model.dropout=0.0")
    longer = (*constant, "--config.duration=24steps")
    assert finish(start(tmp_path / "long", *longer))[0] == 0
    assert finish(start(tmp_path / "short", *constant, "--config.duration=10steps"))[0] == 0
    code, _, err = finish(start(tmp_path / "short", *longer))
    assert code == 2
    assert "config.duration: '10steps' in the folder, '24steps' now" in err and "add --extend" in err
    code, _, err = finish(start(tmp_path / "short", *longer, "--extend", "--config.seed=1"))
    assert code == 2 and "config.seed: 0 in the folder, 1 now" in err
    assert finish(start(tmp_path / "short", *longer, "--extend"))[0] == 0
    assert json.loads((tmp_path / "short" / "config.json").read_text())["duration"] == "24steps"
    extended, straight = final_state(tmp_path / "short"), final_state(tmp_path / "long")
    assert extended[0] == straight[0] == 24
    jax.tree.map(np.testing.assert_array_equal, extended[1].params, straight[1].params)
    code, _, err = finish(start(tmp_path / "short", *constant, "--config.duration=9steps", "--extend"))
    assert code == 2 and "must not be shorter than the '24steps'" in err
    code, _, err = finish(start(tmp_path / "new", *longer, "--extend"))
    assert code == 2 and "has no checkpoint: leave --extend out" in err


@pytest.mark.parametrize(("first", "second"), [(8, 1), pytest.param(1, 8, marks=pytest.mark.nightly)])
def test_a_checkpoint_resumes_on_another_number_of_devices(tmp_path, whole, first, second):
    short = ("--config.duration=12steps", "--config.log.every=1steps", "--config.data.augment=()")
    reference = ("--config.model.dropout=0.0", "--config.optim.schedule.name=constant")
    assert finish(start(tmp_path / "one", *short, *reference))[0] == 0
    ten = (*short[1:], *reference, "--config.duration=10steps")
    code, printed, err = finish(start(tmp_path / "moved", *ten, devices=first))
    assert (code, err) == (0, "") and f"{first} x cpu" in printed
    code, printed, err = finish(start(tmp_path / "moved", *short, *reference, "--extend", devices=second))
    assert (code, err) == (0, "") and f"{second} x cpu" in printed and "checkpoint of step 10" in printed
    straight, moved = final_state(tmp_path / "one")[1], final_state(tmp_path / "moved")[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), straight.params, moved.params)


@pytest.mark.nightly
def test_the_second_start_of_a_configuration_compiles_nothing(tmp_path):
    cache = tmp_path / "cache"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    variables |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
    programs = []
    for seed in (0, 1):
        line = [sys.executable, "-m", "cnn_jax.main", *SMALL, "--config.duration=10steps", f"--config.seed={seed}"]
        subprocess.run([*line, f"--workdir={tmp_path / str(seed)}"], cwd=ROOT, env=variables, check=True, timeout=300)
        programs.append({path.name for path in cache.glob("cnn_jax/*/*-cache")})
    assert any("train_step" in name for name in programs[0]) and programs[1] == programs[0]
