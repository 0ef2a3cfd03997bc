"""Runs of a sweep, with small Python programs instead of training."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.sweeping import launch
from cnn_jax.sweeping.launch import Slot, check_not_submitted, run_here, slots, submit
from cnn_jax.sweeping.plan import Task
from cnn_jax.sweeping.question import Arm
from run_folders import make

ROOT = Path(__file__).parents[2]
FINISH = "import shutil, sys; shutil.copytree({template!r}, {folder!r})"


@dataclass
class Program(Task):
    """A task that runs Python code; {folder} and {template} (a finished run) are filled in."""

    code: str = FINISH

    def misfits(self) -> list[str]:
        return []  # the template is of no arm

    @property
    def command(self) -> list[str]:
        template = str(self.folder.parent / "template")
        return [sys.executable, "-c", self.code.format(folder=str(self.folder), template=template)]


def programs(tmp_path, *codes) -> list[Program]:
    if not (tmp_path / "template").exists():
        make(tmp_path / "template")
    return [Program(Arm(f"arm{i}", "", {}), 0, tmp_path / f"run{i}", None, code=code) for i, code in enumerate(codes)]


def run(tmp_path, *codes, places=1) -> list[str]:
    told = []
    run_here(programs(tmp_path, *codes), [Slot((), {})] * places, told.append)
    return told


def failures(tmp_path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in tmp_path.glob("*.failed")}


def test_every_task_runs_and_each_that_ends_says_how_much_is_left(tmp_path):
    told = run(tmp_path, FINISH, FINISH, FINISH)
    assert [line.split("  ")[0] for line in told] == ["1/3", "2/3", "3/3"]
    assert "arm0, seed 0: 75.00% in " in told[0] and told[0].endswith(" left")
    assert failures(tmp_path) == {}


def test_as_many_tasks_run_at_once_as_there_are_slots(tmp_path):
    meet = "import pathlib, time\npathlib.Path({folder!r} + '.here').touch()\n"
    meet += "while len(list(pathlib.Path({folder!r}).parent.glob('*.here'))) < 2: time.sleep(0.05)\n"
    assert len(run(tmp_path, meet + FINISH, meet + FINISH, places=2)) == 2


FLAKY = "import pathlib, sys\nmark = pathlib.Path({folder!r} + '.tried')\nif not mark.exists(): mark.touch(); {end}\n"


@pytest.mark.parametrize(
    ("end", "said"),
    [("sys.exit('it broke')", "exit code 1"), ("import os; os.kill(os.getpid(), 9)", "memory is short")],
)
def test_crashed_or_killed_tasks_are_retried_last(tmp_path, end, said):
    told = run(tmp_path, FLAKY.replace("{end}", end) + FINISH, FINISH)
    assert said in told[0] and "it is tried again" in told[0]
    assert [line.split(",")[0].split("  ")[-1] for line in told[1:]] == ["arm1", "arm0"]
    assert failures(tmp_path) == {}


@pytest.mark.parametrize(
    ("code", "why", "attempts"),
    [
        ("import sys; print('error: no such field', file=sys.stderr); sys.exit(2)", "refused: error: no such field", 1),
        ("import sys; print('error: the loss is nan'); sys.exit(3)", "not finite: error: the loss is nan", 1),
        ("raise MemoryError('RESOURCE_EXHAUSTED: 5 GB')", "exit code 1: MemoryError: RESOURCE_EXHAUSTED: 5 GB", 2),
        ("pass", "no result: it printed nothing", 2),
    ],
)
def test_final_failures_are_recorded_and_other_tasks_run(tmp_path, code, why, attempts):
    told = run(tmp_path, code, FINISH)
    assert failures(tmp_path) == {"run0": why}
    assert sum("arm0" in line for line in told) == attempts and any("arm1, seed 0: 75.00%" in line for line in told)
    (failed,) = (line for line in told if "failed" in line)
    assert str(tmp_path / "run0.log") in failed
    run(tmp_path, FINISH)  # the next call
    assert failures(tmp_path) == {}


def test_storage_that_fails_stops_the_sweep(tmp_path):
    with pytest.raises(StorageError, match=r"arm0, seed 0: error: the disk is full"):
        run(tmp_path, "import sys; print('error: the disk is full'); sys.exit(74)", FINISH)
    assert not (tmp_path / "run1").exists()


def test_a_signal_reaches_the_runs_which_save_and_the_sweep_ends_with_75(tmp_path):
    wait = (
        "import pathlib, signal, sys, time\n"
        "def save(*_): pathlib.Path({folder!r} + '.saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); pathlib.Path({folder!r} + '.began').touch(); time.sleep(60)"
    )
    script = (
        "import sys; sys.path[:0] = ['tests/sweeping', 'tests/helpers', '.']\n"
        "from test_launch import *; from cnn_jax.core.errors import Stopped\n"
        f"try: run(Path({str(tmp_path)!r}), {wait!r}, FINISH)\n"
        "except Stopped as error: print(error); sys.exit(error.exit_code)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run0.began").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75 and "To resume, run the same command" in printed
    assert (tmp_path / "run0.saved").exists() and not (tmp_path / "run1").exists()
    assert failures(tmp_path) == {}


# ---------------------------------------------------------------- shares of the machine


def test_cores_are_shared_out_evenly_and_a_run_needs_one(monkeypatch):
    monkeypatch.setattr(launch, "visible_gpus", list)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 5, 6, 7, 8, 9, 10})
    assert [slot.cores for slot in slots(2)] == [(0, 2, 4, 5), (6, 7, 8, 9, 10)]
    assert len(slots(None)) == 2
    with pytest.raises(UserError, match="--jobs is 10, but this process may use 9 cores"):
        slots(10)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert [slot.cores for slot in slots(None)] == [(3,)]


def test_each_gpu_has_one_run_or_runs_that_share_its_memory(monkeypatch):
    monkeypatch.setattr(launch, "visible_gpus", lambda: ["0", "3"])
    assert [slot.environment for slot in slots(None)] == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3"}]
    four = [slot.environment for slot in slots(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in four] == ["0", "3", "0", "3"]
    assert {one["XLA_PYTHON_CLIENT_MEM_FRACTION"] for one in four} == {"0.45"}


def test_gpus_count_only_where_jax_would_use_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: object())
    assert launch.visible_gpus() == []
    monkeypatch.delenv("JAX_PLATFORMS")
    assert launch.visible_gpus() == ["1", "2"]
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    assert launch.visible_gpus() == []


# ---------------------------------------------------------------- a cluster


def test_a_job_array_runs_the_tasks_and_keeps_why_one_failed(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'helpers'}")  # where the jobs find Program
    found = programs(tmp_path, FINISH, "import sys; print('error: no'); sys.exit(2)")
    jobs = submit(found, tmp_path, cluster="local", options={"timeout_min": 2})
    assert jobs[0].result() == 0 and found[0].finished() is not None
    with pytest.raises(Exception, match="arm1, seed 0: refused: error: no"):
        jobs[1].result()
    for job in jobs:
        job._process.wait()  # submitit leaves it to the garbage collector
    assert failures(tmp_path) == {"run1": "refused: error: no"}
    with pytest.raises(UserError, match=r"1 runs are not finished, and jobs were submitted .*submitted.json"):
        check_not_submitted(tmp_path, found[1:])
    check_not_submitted(tmp_path, [])
    check_not_submitted(tmp_path, found[1:])  # the list is gone


def test_a_job_at_its_time_limit_saves_and_is_queued_again(tmp_path):
    pytest.importorskip("submitit")
    wait = (
        "import pathlib, signal, sys, time\n"
        "def save(*_): pathlib.Path({folder!r} + '.saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); pathlib.Path({folder!r} + '.began').touch(); time.sleep(60)"
    )
    (task,) = programs(tmp_path, wait)
    job = launch.ClusterRun()
    job.process = launch.start(task, Slot((), {}))
    while not (tmp_path / "run0.began").exists():
        time.sleep(0.05)
    again = job.checkpoint(task)
    assert (tmp_path / "run0.saved").exists() and again.args == (task,)


def test_a_missing_cluster_or_unknown_option_is_one_message(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    time_limit = {"timeout_min": 5}
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="no sbatch here"):
        submit(programs(tmp_path, FINISH), tmp_path, cluster="slurm", options=time_limit)
    with pytest.raises(UserError, match="how long a run may take"):
        submit(programs(tmp_path, FINISH), tmp_path, cluster="local", options={})
    with pytest.raises(UserError, match=r"--submit: .*color"):
        submit(programs(tmp_path, FINISH), tmp_path, cluster="local", options=time_limit | {"color": "red"})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'cnn-jax\[slurm\]'"):
        submit(programs(tmp_path, FINISH), tmp_path, cluster="local", options=time_limit)


def test_a_run_of_another_process_is_not_a_failure(tmp_path):
    told = run(tmp_path, "import sys; print('error: x is in use by process 5 on y: wait'); sys.exit(2)")
    assert failures(tmp_path) == {} and "runs elsewhere" in told[0]
