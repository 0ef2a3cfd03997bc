"""Which processes run alone, and the messages for impossible flags."""

import os
import socket

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.core.errors import UserError
from cnn_jax.parallel import processes
from several_processes import slurm

KNOWN = ("SLURM_", "OMPI_", "PMI", "KUBERNETES_", "JAX_COORDINATOR", "TPU_", "JOB_COMPLETION")


@pytest.fixture
def bare(monkeypatch):
    """An environment without a cluster."""
    for name in [name for name in os.environ if name.startswith(KNOWN)]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # any container there
        ({"JOB_COMPLETION_INDEX": "1"}, True),
        (slurm(1, 0, 4321), False),
        (slurm(2, 1, 4321), True),
        (slurm(2, 0, 4321) | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # the batch script itself, outside of srun
        ({"OMPI_COMM_WORLD_SIZE": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_environment_names_several_processes(bare, environment, several):
    for name, value in environment.items():
        bare.setenv(name, value)
    assert processes.is_one_of_several(None, None) is several
    assert processes.is_one_of_several("host:1", 2) and not processes.is_one_of_several("host:1", 1)


def test_taken_address_is_refused(bare):
    with socket.create_server(("", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        message = f"process 0 cannot start at {where}: Address already in use"
        with pytest.raises(UserError, match=message), processes.session(where, 2, 0):
            pass


def test_one_process_of_flags_is_alone(bare):
    with processes.session("host:1", 1, 0):
        assert jax.process_count() == 1


@given(st.tuples(*[st.booleans()] * 3).filter(lambda given: 0 < sum(given) < 3))
def test_some_of_the_flags_are_an_error_that_names_the_others(given):
    values = {"--coordinator": "host:1", "--processes": 2, "--process": 0}
    with pytest.raises(UserError, match="go together") as error:
        processes.check_flags(*(value if here else None for value, here in zip(values.values(), given, strict=True)))
    missing = str(error.value).split("but ")[1].split(" missing")[0].rpartition(" ")[0].split(" and ")
    assert missing == [name for name, here in zip(values, given, strict=True) if not here]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        *(((word, 2, 0), "must be HOST:PORT") for word in ("host", "host:", ":1", "host:x", "host:0", "host:65536")),
        (("host:1", 0, 0), "--processes is 0, but must be at least 1"),
        *((("host:1", 2, i), f"--process is {i}, but must be from 0 to 1") for i in (2, -1)),
    ],
)
def test_impossible_flags_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        processes.check_flags(*flags)
