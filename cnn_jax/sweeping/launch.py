"""Runs the tasks of a sweep: several at once on this machine, or as a job array of a cluster."""

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import NotFiniteError, Stopped, StorageError, UserError, check
from cnn_jax.core.files import read_json, write_text
from cnn_jax.display.tables import duration
from cnn_jax.sweeping.plan import NOT_FINITE, Task
from cnn_jax.training import preemption

ATTEMPTS = 2  # tries of a run that crashed or was killed
FINAL = (NotFiniteError.exit_code, UserError.exit_code)  # exit codes of a run that would fail again


@dataclass(frozen=True)
class Slot:
    """A share of the machine that one run has for itself."""

    cores: tuple[int, ...]  # empty: all of them
    environment: dict[str, str]


def slots(jobs: int | None) -> list[Slot]:
    """Returns the shares for `jobs` runs at once; None: one for each GPU, or one for every four CPU cores."""
    gpus = visible_gpus()
    if gpus:
        jobs = jobs or len(gpus)
        on_each = -(-jobs // len(gpus))
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / on_each:.2f}"} if on_each > 1 else {}
        return [Slot((), {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} | memory) for i in range(jobs)]
    if not hasattr(os, "sched_getaffinity"):
        return [Slot((), {})] * (jobs or 1)
    cores = sorted(os.sched_getaffinity(0))
    jobs = jobs or max(1, len(cores) // 4)
    check(
        jobs <= len(cores), f"--jobs is {jobs}, but this process may use {len(cores)} cores: a run needs at least one"
    )
    return [Slot(tuple(cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs]), {}) for i in range(jobs)]


def visible_gpus() -> list[str]:
    """Returns the NVIDIA GPUs that runs would use, as CUDA names them."""
    has_plugin = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if not has_plugin or os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu", ""):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def start(task: Task, slot: Slot) -> subprocess.Popen:
    """Starts a run in the background; its output goes into its log."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    task.attempts += 1
    task.log_start = task.log.stat().st_size if task.log.exists() else 0
    with task.log.open("ab") as log:
        # In a session of its own, so that Ctrl-C reaches this process only, which passes it on.
        process = subprocess.Popen(
            task.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | slot.environment,
            start_new_session=True,
        )
    if slot.cores:
        os.sched_setaffinity(process.pid, slot.cores)
    return process


def run_here(pending: Sequence[Task], places: Sequence[Slot], say: Callable[[str], None]) -> None:
    """Runs tasks until none is left; if one fails, the reason is stored.

    Raises:
      Stopped: a signal came; the runs under way have saved their states.
      StorageError: a run could not write.
    """
    queue, free = deque(pending), list(places)
    running: dict[subprocess.Popen, tuple[Task, Slot, float]] = {}
    done, spent, signalled = 0, 0.0, False
    with preemption.requests(say) as received:
        try:
            while running or (queue and not received):
                while queue and free and not received:
                    task, slot = queue.popleft(), free.pop()
                    running[start(task, slot)] = (task, slot, time.perf_counter())
                if received and not signalled:  # once: a second signal would not wait for them to save
                    for process in running:
                        process.terminate()
                    signalled = True
                for process in [process for process in running if process.poll() is not None]:
                    task, slot, began = running.pop(process)
                    free.append(slot)
                    result = task.finished() if process.returncode == 0 else None
                    if result is not None:
                        seconds = time.perf_counter() - began
                        done, spent = done + 1, spent + seconds
                        rest = len(queue) + len(running)
                        left = duration(rest * spent / done / len(places))
                        task.fail(None)
                        say(
                            f"{done}/{done + rest}  {task.name}: {result.accuracy:.2f}% in {seconds:.0f} s; {left} left"
                        )
                    elif not received and is_tried_again(task, process.returncode, say):
                        queue.append(task)
                time.sleep(0.1)
        finally:  # after an error no run continues by itself
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
        if received:
            raise Stopped(f"stopped by {received[0]}; the runs under way are saved. To resume, run the same command")


def is_tried_again(task: Task, code: int, say: Callable[[str], None]) -> bool:
    """Prints that a run failed and returns whether it is tried again; if not, the reason is stored."""
    words = task.last_words()
    if code == StorageError.exit_code:
        raise StorageError(f"{task.name}: {words}")
    if code not in FINAL and task.attempts < ATTEMPTS:
        say(f"{task.name}: {ending(code)}; it is tried again. {words}")
        return True
    if code == UserError.exit_code and "is in use by" in words:
        say(f"{task.name} runs elsewhere: {words}")
        return False
    task.fail(f"{ending(code)}: {words}")
    say(f"{task.name} failed, {ending(code)}: {words} (all of it: {task.log})")
    return False


def ending(code: int) -> str:
    """Returns what an exit code means."""
    if code == -9:
        return "killed, as the system does when memory is short"
    if code < 0:
        return f"ended by signal {-code}"
    return {NotFiniteError.exit_code: NOT_FINITE, UserError.exit_code: "refused", 0: "no result"}.get(
        code, f"exit code {code}"
    )


# ---------------------------------------------------------------- running on a cluster


def submit(pending: Sequence[Task], folder: Path, *, cluster: str, options: dict[str, Any]) -> list[Any]:
    """Submits tasks as one job array through submitit and returns its jobs, whose numbers are kept in submitted.json.

    Args:
      cluster: "slurm", or "local" for processes on this machine (to test submission).
      options: of submitit: timeout_min, which has no default here, slurm_partition, gpus_per_node, cpus_per_task,
        slurm_array_parallelism, ...

    Raises:
      UserError: submitit is not installed, there is no such cluster here, it refuses, or it does not know an option.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher=slurm needs submitit: pip install 'cnn-jax[slurm]'") from None
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError("--launcher=slurm: there is no sbatch here; start it on a login node of the cluster")
    check("timeout_min" in options, "say how long a run may take, minutes: --submit=timeout_min=120")
    executor = submitit.AutoExecutor(folder=folder / "submitted", cluster=cluster)
    try:
        executor.update_parameters(name=f"sweep-{folder.name}", **options)
        jobs = executor.map_array(ClusterRun(), pending)
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"--submit: {error}") from None
    write_text(folder / "submitted.json", json.dumps([job.job_id for job in jobs]) + "\n")
    return jobs


def check_not_submitted(folder: Path, pending: Sequence[Task]) -> None:
    """Raises UserError if a cluster still has unfinished tasks; a list that is no longer needed is removed."""
    path = folder / "submitted.json"
    if path.exists() and pending:
        jobs = read_json(path)
        check(isinstance(jobs, list), f"{path} is damaged: it has no list of jobs. Where they are over, remove it")
        some = ", ".join(map(str, jobs[:3]))
        raise UserError(
            f"{len(pending)} runs are not finished, and jobs were submitted for them ({some}, ...): "
            f"wait for them. If they are over, remove {path}, and the same command runs what is left"
        )
    path.unlink(missing_ok=True)


class ClusterRun:
    """Runs a task on the machine that a cluster gave it. Before its time is over, the run saves and is queued again."""

    process: subprocess.Popen | None = None

    def __call__(self, task: Task) -> int:
        if task.finished() is not None:
            return 0
        self.process = start(task, Slot((), {}))
        code = self.process.wait()
        task.fail(f"{ending(code)}: {task.last_words()}" if code else None)
        if code:
            raise RuntimeError(f"{task.name}: {task.failure} (all of it: {task.log})")
        return code

    def checkpoint(self, task: Task) -> Any:
        """Called by submitit when the time is nearly over."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        return DelayedSubmission(ClusterRun(), task)
