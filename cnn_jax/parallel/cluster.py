"""Which of how many processes this one is, by flags or by the environment."""

import os
import warnings
from dataclasses import dataclass

from jax._src import clusters  # what jax.distributed.initialize asks

from cnn_jax.core.errors import UserError, check


@dataclass(frozen=True)
class Place:
    """Where this process stands among the others."""

    coordinator: str  # HOST:PORT
    processes: int
    process: int
    device: int | None = None  # the GPU of its machine that it takes, where the cluster starts a process for each

    @property
    def host(self) -> str:
        """The coordinator's host, without the brackets of an IPv6 address."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])

    def __str__(self) -> str:
        return f"process {self.process} of {self.processes}"


def find(coordinator: str | None, processes: int | None, process: int | None) -> Place | None:
    """Returns the place that flags or the environment name, or None where this process is alone.

    The environment is what jax knows: SLURM's srun, Open MPI's mpirun, TPU pods, and indexed jobs of Kubernetes (with
    the package `kubernetes`).

    Raises:
      UserError: only some of the flags are given, or they are impossible, or the environment does not say all.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return _detected()
    verb = "is" if len(missing) == 1 else "are"
    check(not missing, f"{', '.join(flags)} go together, but {' and '.join(missing)} {verb} missing: give all, or none")
    assert coordinator is not None and processes is not None and process is not None
    _check_address(coordinator, "--coordinator")
    check(processes >= 1, f"--processes is {processes}, but must be at least 1")
    check(
        0 <= process < processes,
        f"--process is {process}, but must be from 0 to {processes - 1}: --processes is {processes}",
    )
    return Place(coordinator, processes, process) if processes > 1 else None


def _detected() -> Place | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in any container of Kubernetes, that its package is not there
        kinds = [kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method]
        if "JOB_COMPLETION_INDEX" not in os.environ:  # no indexed job, whose rights its package would ask for
            kinds = [kind for kind in kinds if kind.__name__ != "K8sCluster"]
        kind = next((kind for kind in kinds if kind.is_env_present()), None)
    if kind is None:
        return None
    try:
        processes = kind.get_process_count()
        if processes == 1:
            return None
        address = kind.get_coordinator_address(300, os.environ.get("JAX_COORDINATOR_PORT"))
        # JAX_LOCAL_DEVICE_IDS, which jax reads, says otherwise.
        device = None if os.environ.get("JAX_LOCAL_DEVICE_IDS") else kind.get_local_process_id()
        place = Place(os.environ.get("JAX_COORDINATOR_ADDRESS", address), processes, kind.get_process_id(), device)
    except Exception as error:  # of any library that asks the cluster
        raise UserError(
            f"this process looks like one of {kind.__name__}, which does not say which one: "
            f"{error or type(error).__name__}. Give --coordinator, --processes and --process"
        ) from None
    _check_address(place.coordinator, "JAX_COORDINATOR_ADDRESS")
    return place


def _check_address(address: str, name: str) -> None:
    host, _, port = address.rpartition(":")
    check(
        bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
        f"{name} is {address!r}, but must be HOST:PORT, an address of process 0 that all processes reach",
    )
