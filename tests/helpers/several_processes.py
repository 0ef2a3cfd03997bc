"""Starts the command line as several processes of one run, each with its own CPU devices."""

import contextlib
import socket
import subprocess
import sys
import time

from commands import ROOT, environment

SMALL = (
    "--config=configs/lenet5.py",
    "--config.model.width=0.25",
    "--config.batch_size=32",
    "--config.optim.schedule.warmup=2steps",
    "--config.log.trackers=",
)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def slurm(processes, process, port):
    """Returns the variables that srun sets for one process, with all processes on this machine."""
    values = dict(JOB_ID="1", STEP_NODELIST="localhost", NTASKS=processes, PROCID=process, LOCALID=process)
    return {f"SLURM_{name}": str(value) for name, value in values.items()} | {"JAX_COORDINATOR_PORT": str(port)}


def start(processes, *arguments, devices=1, heartbeat=30, by_slurm=False, module="main", base=SMALL, last=()):
    """Returns the processes of one run, which flags or the environment describe; each has that many devices.

    `base`: the first arguments. `last`: of the last one alone.
    """
    port, pipes = free_port(), dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = []
    for process in range(processes):
        line = [sys.executable, "-u", "-m", f"cnn_jax.{module}", f"--heartbeat-timeout={heartbeat}"]
        line += [*base, *arguments]
        place = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"]
        if processes > 1 and not by_slurm:
            line += place
        line += last if process == processes - 1 else ()
        own = slurm(processes, process, port) if by_slurm else {}
        found.append(subprocess.Popen(line, cwd=ROOT, env=environment(devices) | own, **pipes))
    return found


def program(name, *arguments, devices):
    """Returns a process that runs a program of these tests with that many devices."""
    line = [sys.executable, str(ROOT / "tests" / "helpers" / name), *map(str, arguments)]
    return subprocess.Popen(
        line, env=environment(devices), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def started(*arguments, **options):
    """Yields the processes of `start`; none of them outlives the block."""
    running = start(*arguments, **options)
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def finish(running, timeout=240):
    """Returns (exit code, standard output, standard error) of each."""
    until = time.monotonic() + timeout
    ended = [process.communicate(timeout=max(1, until - time.monotonic())) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]


def wait_for(process, beginning):
    """Waits until a process has printed a line that begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"the process ended without {beginning!r}: {process.stderr.read()}")
