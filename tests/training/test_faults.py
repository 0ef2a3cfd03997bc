"""A run of several real processes when one of them is stopped, killed, or fails."""

import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from cnn_jax.checkpoint.manager import Checkpoints
from several_processes import finish, free_port, started, wait_for

pytestmark = pytest.mark.slow

ENDLESS = ("--config.duration=1000000steps", "--config.eval.every=1000000steps", "--config.log.every=10steps")


def last_line(text):
    return text.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.nightly)])
def test_signal_at_one_process_saves_and_stops_all(tmp_path, number):
    with started(2, *ENDLESS, f"--workdir={tmp_path}", by_slurm=True) as running:
        wait_for(running[0], "first step")
        running[1].send_signal(number)
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (75, 75), err + other_err
    line, other_line = last_line(err), last_line(other_err)
    assert line.startswith("Stopped by ") and line.split(" at ")[1] == other_line.split(" at ")[1]
    step = int(line.split("at step ")[1].split("/")[0].replace(",", ""))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(pytest.fail) == step


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.nightly)])
def test_killed_process_ends_the_others_which_name_it(tmp_path, killed):
    arguments = ("--config.batch_size=33", "--config.eval.batch_size=33", *ENDLESS)
    with started(3, *arguments, f"--workdir={tmp_path}", heartbeat=15) as running:
        wait_for(running[0], "first step")
        running[killed].kill()
        began = time.monotonic()
        ended = finish(running)
        assert time.monotonic() - began < 120
    assert ended[killed][0] == -signal.SIGKILL
    for process, (code, _, err) in enumerate(ended):
        if process != killed:
            assert code == -signal.SIGABRT, err
            assert f"task:{killed}" in err or f"Task: {killed}" in err or killed == 0, err


def test_error_of_one_process_ends_all(tmp_path):
    (tmp_path / "file").write_text("")
    with started(2, *ENDLESS, f"--workdir={tmp_path / 'file' / 'run'}") as running:
        (code, _, err), (other_code, _, _) = finish(running)
    assert "file/run cannot be made: Not a directory" in err
    assert (code, other_code) == (-signal.SIGABRT, -signal.SIGABRT), err


def test_a_nonfinite_loss_ends_all_processes_with_a_report(tmp_path):
    arguments = (
        "--config.optim.learning_rate=1e20",
        "--config.optim.schedule.name=plateau",
        "--config.eval.layers=True",
        "--config.checkpoint.every=1steps",  # a save is under way when it fails
    )
    short = ("--config.duration=8steps", "--config.log.every=4steps", "--config.eval.every=2steps")
    with started(2, *arguments, *short, f"--workdir={tmp_path}", devices=2) as running:
        ended = finish(running)
    for code, _, err in ended:
        assert code == 3, err
        assert "error: the loss is nan " in err
    assert {path.name for path in (tmp_path / "not_finite").iterdir()} == {"batch.npz", "report.json", "checkpoints"}
    with np.load(tmp_path / "not_finite" / "batch.npz") as batch:
        assert batch["image"].shape == (32, 28, 28, 1)  # of both processes
    with Checkpoints(tmp_path / "not_finite") as checkpoints:
        assert checkpoints.latest(pytest.fail) is not None


@pytest.mark.parametrize(
    ("last", "differs"),
    [
        (("--config.seed=7",), "the configuration"),
        (("--config.data.dir=other",), "the data"),
    ],
)
def test_processes_that_would_not_train_the_same_are_refused(tmp_path, last, differs):
    for folder in ("one", "other"):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(10):
                Image.new("L", (8, 8), i).save(tmp_path / folder / name / f"{i}.png")
    (tmp_path / "other" / "cat" / "0.png").rename(tmp_path / "other" / "cat" / "00.png")
    shares = ("--config.data.train=60%", "--config.data.validation=20%", "--config.data.test=20%")
    data = ("--config=configs/lenet5.py:folder", f"--config.data.dir={tmp_path / 'one'}", *shares)
    sizes = ("--config.batch_size=4", "--config.eval.batch_size=4", "--config.data.image_size=(28,28)")
    last = [word.replace("=other", f"={tmp_path / 'other'}") for word in last]
    with started(2, *data, *sizes, f"--workdir={tmp_path / 'run'}", base=(), last=last) as running:
        for code, _, err in finish(running):
            assert code == 2 and f"{differs} of process 1 is not that of process 0" in err, err
    assert not (tmp_path / "run").exists()


def test_a_missing_coordinator_is_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=1", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, _, err),) = finish(running)
    assert code == 2 and f"process 1 cannot reach process 0 at {where} within 2 s: Connection refused" in err


def test_missing_processes_are_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=0", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, out, _),) = finish(running)
    assert code == -signal.SIGABRT and f"process 0 waits up to 2 s for 2 processes at {where}" in out


def test_stalled_run_prints_stacks_and_continues(tmp_path):
    steps = ("--config.duration=300steps", *ENDLESS[1:], "--config.log.stall=2.0")
    with started(2, *steps, f"--workdir={tmp_path}", heartbeat=100) as running:
        wait_for(running[0], "first step")
        running[1].send_signal(signal.SIGSTOP)
        time.sleep(6)
        running[1].send_signal(signal.SIGCONT)
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (0, 0), err + other_err
    assert "Timeout (0:00:02)!" in err and "loop.py" in err


@pytest.mark.parametrize("healed", [True, False])
def test_a_failed_save_is_retried_a_few_times(tmp_path, healed):
    steps = ("--config.duration=600steps", "--config.checkpoint.every=300steps", "--config.model.width=1.0")
    with started(1, *steps, "--config.eval.every=600steps", f"--workdir={tmp_path}") as (process,):
        wait_for(process, "first step")  # compiled programs are written, too
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        refusal = "the checkpoint of step 300 cannot be written; the earlier ones are whole: File too large"
        wait_for(process, f"{refusal}; trying again in 0.5 s")
        if healed:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ((code, _, err),) = finish([process])
    with Checkpoints(tmp_path) as checkpoints:
        if healed:
            assert code == 0, err
            assert checkpoints.steps() == [300, 600] and checkpoints.latest(pytest.fail) == 600
        else:
            assert code == 74 and f"error: {refusal}\n" in err
            assert "never retrieved" not in err
            assert checkpoints.steps() == []
