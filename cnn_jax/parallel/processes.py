"""Runs of several processes, by jax's own runtime.

Each process computes on its own devices, and all run the same program. Process 0 is the coordinator: the others reach
it at one address. When a process is lost, jax's runtime ends the others: it notices after `heartbeat_timeout` seconds
without a sign of life, prints which task is missing, and aborts with exit code 134. The same happens when one process
alone ends with an error, which it prints; an error that all processes have ends each of them with its own exit code.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from cnn_jax.core.errors import UserError, check

# Environment variables of launchers that name the number of processes; of each launcher the first that is set.
COUNTS = (("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_SIZE",), ("PMI_SIZE",))
# Those that jax detects without a number of processes: indexed jobs of Kubernetes, and TPU pods (names of all hosts).
DETECTED = ("JOB_COMPLETION_INDEX",)
TPU_HOSTS = "TPU_WORKER_HOSTNAMES"
SHUTDOWN = 20  # seconds that a process waits at its end for the others


@contextlib.contextmanager
def session(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    start_timeout: int = 300,
    heartbeat_timeout: int = 60,
) -> Iterator[None]:
    """Joins the other processes of the run, if there are any; inside the block `jax.devices()` are those of all.

    Without the first three arguments jax detects the cluster (SLURM, Open MPI, TPU pods, Kubernetes) where the
    environment says that there are several processes.

    Args:
      coordinator: HOST:PORT of process 0.
      start_timeout: seconds to wait for the other processes at the start.
      heartbeat_timeout: seconds of silence after which a process counts as lost.

    Raises:
      UserError: only some of the three are given, or they are impossible, or process 0 cannot be reached.
    """
    check_flags(coordinator, processes, process)
    if not is_one_of_several(coordinator, processes):
        yield
        return
    import jax

    if coordinator is not None and process:
        _wait_for(coordinator, process, start_timeout)
    elif coordinator is not None:
        _check_free(coordinator)
        print(f"process 0 waits up to {start_timeout} s for {processes} processes at {coordinator}", flush=True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=start_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        where = f"at {coordinator}" if coordinator else "in the cluster that jax detects"
        raise UserError(
            f"this process cannot join the others {where}: {error}. Give all processes --coordinator with a free port, "
            "--processes and --process"
        ) from None
    if jax.process_index() > 0:
        print(f"process {jax.process_index()} of {jax.process_count()}: process 0 prints and records", flush=True)
    yield
    jax.distributed.shutdown()


def check_flags(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raises UserError for flags that are impossible, or only some of the three."""
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return
    verb = "is" if len(missing) == 1 else "are"
    check(not missing, f"{', '.join(flags)} go together, but {' and '.join(missing)} {verb} missing: give all, or none")
    assert coordinator is not None and processes is not None and process is not None
    host, _, port = coordinator.rpartition(":")
    check(
        bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
        f"--coordinator is {coordinator!r}, but must be HOST:PORT, an address of process 0 that all processes reach",
    )
    check(processes >= 1, f"--processes is {processes}, but must be at least 1")
    check(
        0 <= process < processes,
        f"--process is {process}, but must be from 0 to {processes - 1}: --processes is {processes}",
    )


def is_one_of_several(coordinator: str | None, processes: int | None) -> bool:
    """Returns whether the flags or, without them, the environment name several processes."""
    if coordinator is not None:
        return processes != 1
    counts = [next((os.environ[name] for name in names if name in os.environ), "") for names in COUNTS]
    counted = any(count.isdecimal() and int(count) > 1 for count in counts)
    return counted or any(name in os.environ for name in DETECTED) or "," in os.environ.get(TPU_HOSTS, "")


def _check_free(coordinator: str) -> None:
    """Raises UserError if another program has the coordinator's port: jax's runtime may crash there."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        port = int(coordinator.rpartition(":")[2])
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"process 0 cannot start at {coordinator}: {error.strerror}. Give all processes another free port"
        ) from None


def _wait_for(coordinator: str, process: int, seconds: float) -> None:
    """Waits until process 0 listens; jax's runtime would abort without a word about the address."""
    host, _, port = coordinator.rpartition(":")
    until, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < until:
        try:
            left = max(0.1, until - time.monotonic())
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.2)
    raise UserError(
        f"process {process} cannot reach process 0 at {coordinator} within {seconds:g} s: {reason}. Start all "
        "processes, with an address of process 0 that all of them reach, or give a longer --start-timeout"
    )
