"""What happens to a run of several processes when one of them is stopped, killed, or fails: with real processes."""

import re
import resource
import signal
import time

import numpy as np
import pytest
from PIL import Image

from cnn_jax.checkpoint.manager import Checkpoints
from several_processes import finish, free_port, started, wait_for

ENDLESS = ("--config.duration=1000000steps", "--config.eval.every=1000000steps", "--config.log.every=10steps")


def last_line(text):
    return text.strip().splitlines()[-1]


def test_a_signal_at_one_process_stops_all_at_the_same_step_which_is_saved(tmp_path):
    with started(2, *ENDLESS, f"--workdir={tmp_path}", by_slurm=True) as running:
        wait_for(running[0], "first step")
        running[1].send_signal(signal.SIGTERM)
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (75, 75), err + other_err
    said, other_said = last_line(err), last_line(other_err)
    assert said.startswith("stopped by a signal at another process after step ")
    assert other_said.startswith("stopped by SIGTERM after step ")
    assert said.split(" after ")[1] == other_said.split(" after ")[1]
    step = int(said.split("after step ")[1].split()[0].replace(",", ""))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(pytest.fail) == step


@pytest.mark.parametrize(("killed", "name"), [(1, "process 1"), (0, "process 0, the coordinator,")])
def test_where_one_process_is_killed_the_others_end_soon_and_name_it(tmp_path, killed, name):
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
            assert code == 76, err
            assert last_line(err) == (
                f"error: {name} of 3 is lost: it was killed, or its machine cannot be reached; process {process} of 3 "
                "stops, too. The same command goes on from the latest checkpoint"
            )


def test_an_error_of_one_process_is_the_message_and_the_exit_code_of_all(tmp_path):
    (tmp_path / "file").write_text("")
    with started(2, *ENDLESS, f"--workdir={tmp_path / 'file' / 'run'}") as running:
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (74, 74)
    assert "file/run cannot be made: Not a directory" in err
    assert last_line(other_err).startswith("error: process 0, the coordinator, of 2 ended: ")
    assert "file/run cannot be made: Not a directory" in other_err


def test_a_loss_that_is_not_finite_ends_all_processes_and_leaves_the_evidence(tmp_path):
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


def test_processes_that_were_told_of_other_numbers_are_refused(tmp_path):
    with started(2, *ENDLESS, f"--workdir={tmp_path / 'run'}", last=("--processes=3",)) as running:
        for code, _, err in finish(running):
            assert code == 2 and "process 1 of 3 was told of 3 processes, but process 0 of 2: --processes must" in err
            assert "goes on" not in err  # it would fail again


def test_a_coordinator_that_is_not_there_is_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=1", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, _, err),) = finish(running)
    assert code == 2 and f"process 1 of 2 cannot reach process 0 at {where} within 2 s: Connection refused" in err


def test_processes_that_do_not_come_are_reported_in_time(tmp_path):
    where = f"127.0.0.1:{free_port()}"
    line = (f"--coordinator={where}", "--processes=2", "--process=0", "--start-timeout=2", f"--workdir={tmp_path}")
    with started(1, *line) as running:
        ((code, _, err),) = finish(running)
    assert code == 2 and last_line(err).startswith(f"error: not all 2 processes came to {where} in time")


def test_a_run_that_stands_still_says_where_and_goes_on(tmp_path):
    steps = ("--config.duration=300steps", *ENDLESS[1:], "--config.log.stall=2.0")
    with started(2, *steps, f"--workdir={tmp_path}", heartbeat=100) as running:
        wait_for(running[0], "first step")
        running[1].send_signal(signal.SIGSTOP)
        time.sleep(6)
        running[1].send_signal(signal.SIGCONT)
        (code, _, err), (other_code, _, other_err) = finish(running)
    assert (code, other_code) == (0, 0), err + other_err
    warning = re.search(r"^warning: training after step [\d,]+, nothing has gone on for 2 s:$", err, re.M)
    assert warning and "together.py" in err[warning.end() :] and "train.py" in err[warning.end() :]


@pytest.mark.parametrize("healed", [True, False])
def test_a_save_that_storage_refuses_is_tried_again_until_it_is_hopeless(tmp_path, healed):
    steps = ("--config.duration=600steps", "--config.checkpoint.every=300steps", "--config.model.width=1.0")
    patience = f"--config.checkpoint.retry={100.0 if healed else 2.0}"
    with started(1, *steps, "--config.eval.every=600steps", patience, f"--workdir={tmp_path}") as (process,):
        wait_for(process, "first step")  # compiled programs are written, too
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        said = "the checkpoint of step 300 cannot be written; the earlier ones are whole: File too large"
        wait_for(process, f"{said}; tried again in 0.5 s, for ")
        if healed:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ((code, _, err),) = finish([process])
    with Checkpoints(tmp_path) as checkpoints:
        if healed:
            assert code == 0, err
            assert checkpoints.steps() == [300, 600] and checkpoints.latest(pytest.fail) == 600
        else:
            assert (code, err) == (74, f"error: {said}\n")
            assert checkpoints.steps() == []


@pytest.mark.parametrize(("refused", "healed"), [(0, True), (1, True), (1, False)])
def test_a_save_that_storage_refuses_one_process_is_tried_again_by_all(tmp_path, refused, healed):
    steps = ("--config.duration=300steps", "--config.checkpoint.every=150steps", "--config.model.width=1.0")
    patience = f"--config.checkpoint.retry={100.0 if healed else 2.0}"
    options = (
        "--config.batch_size=16",
        "--config.eval.every=300steps",
        "--config.mesh.preset=fsdp",
        patience,
        f"--workdir={tmp_path}",
    )
    with started(2, *steps, *options) as running:
        wait_for(running[0], "first step")
        pid = running[refused].pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        said = "the checkpoint of step 150 cannot be written; the earlier ones are whole: File too large"
        said += f" (process {refused} of 2)" if refused else ""
        wait_for(running[0], f"{said}; tried again in 0.5 s, for ")
        if healed:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (code, _, err), (other_code, _, other_err) = finish(running)
    with Checkpoints(tmp_path) as checkpoints:
        if healed:
            assert (code, other_code) == (0, 0), err + other_err
            assert checkpoints.steps() == [150, 300] and checkpoints.latest(pytest.fail) == 300
            assert checkpoints.damage(150) is None
        else:
            assert (code, other_code) == (74, 74), err + other_err
            for text in (err, other_err):  # with the name of the process, or without where it speaks itself
                errors = [line for line in text.splitlines() if line.startswith("error: ")]
                assert any(said.removesuffix(" (process 1 of 2)") in line for line in errors), text
            assert checkpoints.steps() == []
            # What one process wrote after the other had removed all goes at the next start.
            assert checkpoints.latest(pytest.fail, tidy=True) is None and not list(checkpoints.folder.glob("*"))
