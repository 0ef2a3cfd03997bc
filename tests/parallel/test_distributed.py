import os
import pickle
import socket
from dataclasses import replace

import jax
import numpy as np
import pytest
from cnn_jax.parallel.cluster import Place, find
from hypothesis import given, settings
from hypothesis import strategies as st

import several_training
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core.errors import UserError
from cnn_jax.parallel import processes
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training.throughput import MEASURED
from several_processes import finish, free_port, program, slurm, started
from several_training import LAYOUTS, PLACEMENTS

# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns (folder, what each process found): of 1 device, of 4, and of 2 processes with 2 devices each."""
    folder, where = tmp_path_factory.mktemp("layouts"), f"127.0.0.1:{free_port()}"
    running = [program("several_training.py", folder, "four", devices=4)]
    for process in range(2):
        running.append(program("several_training.py", folder, "two_by_two", where, 2, process, devices=2))
    try:
        assert jax.device_count() == 1
        found = {"one": several_training.run(folder, "one")}
        for process in running:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    finally:
        for process in running:
            process.kill()
    for name in ("four", "two_by_two0", "two_by_two1"):
        found[name] = pickle.loads((folder / f"{name}.pickle").read_bytes())
    return folder, found


def assert_close(tree, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), tree, other)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_five_steps_give_the_same_numbers_on_any_number_of_devices_and_processes(trained, placement):
    folder, found = trained
    records = {layout: read_jsonl(folder / placement / layout / "metrics.jsonl") for layout in LAYOUTS}
    losses = [record["loss"] for record in records["one"] if record["kind"] == "train"]
    assert len(losses) == 5 and losses[0] > losses[4]
    assert len(records["one"]) == {"device": 7, "stream": 10}[placement]  # with validations, and the final tests
    numbers = [
        [{name: v for name, v in record.items() if name not in ("kind", "protocol", *MEASURED)} for record in own]
        for own in records.values()
    ]
    assert_close([numbers[0]] * 2, numbers[1:])
    restored = found["one"][1]
    one, four, two_by_two = (replace(restored[layout][0], sums={}) for layout in LAYOUTS)
    assert int(one.step) == 5
    assert_close((one, one), (four, two_by_two))


@pytest.mark.parametrize("process", ["one", "four", "two_by_two0", "two_by_two1"])
def test_what_one_layout_saved_every_other_restores_to_the_bit_and_evaluates(trained, process):
    _, found = trained
    for layout in LAYOUTS:
        state, metrics = found[process][1][layout]
        jax.tree.map(np.testing.assert_array_equal, state, found["one"][1][layout][0])
        final = found[f"{layout}0" if layout == "two_by_two" else layout][0]["device"]["test"]
        assert metrics["examples"] == 359
        names = ("loss", "error", "top5_error", "class_accuracy")
        assert_close([metrics[name] for name in names], [final[name] for name in names])


def test_the_first_process_alone_records(trained):
    folder, _ = trained
    own = {path.name for path in (folder / "device" / "one").iterdir()}
    assert own == {path.name for path in (folder / "device" / "two_by_two").iterdir()}
    assert {"metrics.jsonl", "run.json", "curves.png", "checkpoints"} <= own
    evaluated = [read_jsonl(folder / "device" / layout / "evaluations.jsonl") for layout in ("two_by_two", "one")]
    assert [record["kind"] for record in evaluated[0]] == ["validation", "test"]
    assert_close(*([(record["loss"], record["error"], record["examples"]) for record in own] for own in evaluated))


def test_two_processes_fine_tune_as_one_does(tmp_path):
    line = (
        "--config=configs/finetune.py:lenet5,digits,partial:1",
        "--checkpoint=bundled:lenet5-mnist",
        *("--config.duration=4steps", "--config.log.every=2steps", "--config.log.tensorboard=False"),
        *("--config.eval.every=4steps", "--config.optim.schedule.warmup=0steps", "--config.mesh.preset=fsdp"),
    )
    states, records = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        with started(processes, *line, f"--workdir={folder}", module="finetune", base=()) as running:
            for code, _, err in finish(running):
                assert code == 0, err
        with Checkpoints(folder) as checkpoints:
            states.append(checkpoints.read_weights(4))
        kept = [{name: r[name] for name in ("kind", "step", "loss")} for r in read_jsonl(folder / "metrics.jsonl")]
        records.append([(record.pop("kind"), record) for record in kept])
        assert (folder / "input.json").exists() and (folder / "config.json").exists()
    assert (
        [kind for kind, _ in records[0]] == [kind for kind, _ in records[1]] == ["train"] * 2 + ["validation", "test"]
    )
    assert_close(*([record for _, record in own] for own in records))
    assert_close(*states)


# ---------------------------------------------------------------- who is there

KNOWN = ("SLURM_", "OMPI_", "PMIX_", "KUBERNETES_", "JAX_COORDINATOR", "TPU_", "JOB_COMPLETION")


@pytest.fixture
def bare(monkeypatch):
    """An environment without a cluster."""
    for name in [name for name in os.environ if name.startswith(KNOWN)]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_where_nothing_says_otherwise_a_process_is_alone(bare):
    assert find(None, None, None) is None
    bare.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # any container there
    assert find(None, None, None) is None


def test_a_slurm_job_of_one_process_is_alone_and_one_of_several_is_not(bare):
    given = dict(JOB_ID="4242", STEP_NODELIST="node[003-004]", NTASKS="1", PROCID="0", LOCALID="0")
    for name, value in given.items():
        bare.setenv(f"SLURM_{name}", value)
    assert find(None, None, None) is None
    bare.setenv("SLURM_NTASKS", "2")
    bare.setenv("SLURM_PROCID", "1")
    assert find(None, None, None) == Place(
        "node003:61586", 2, 1, device=0
    )  # jax's port: 65535 - 4096 + 1 + 4242 % 4096
    assert find("host:1", 4, 3) == Place("host:1", 4, 3)  # flags come first


def test_the_devices_of_a_process_can_be_named(bare):
    for name, value in slurm(2, 1, 4321).items():
        bare.setenv(name, value)
    place = find(None, None, None)
    assert place is not None and (place.host, place.port, place.device) == ("localhost", 4321, 1)
    bare.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    place = find(None, None, None)
    assert place is not None and place.device is None  # jax reads it


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SLURM_PROCID", "", r"looks like one of SlurmCluster, which does not say which one: .* Give --coordinator"),
        ("JAX_COORDINATOR_ADDRESS", "host", "JAX_COORDINATOR_ADDRESS is 'host', but must be HOST:PORT"),
    ],
)
def test_a_cluster_that_does_not_say_all_is_an_error(bare, name, value, message):
    for variable, said in slurm(2, 1, 4321).items():
        bare.setenv(variable, said)
    bare.setenv(name, value)
    with pytest.raises(UserError, match=message):
        find(None, None, None)


def test_an_mpi_job_of_several_processes_is_found(bare):
    bare.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    bare.setenv("OMPI_COMM_WORLD_SIZE", "8")
    bare.setenv("OMPI_COMM_WORLD_RANK", "5")
    bare.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    place = find(None, None, None)
    assert place is not None and (place.processes, place.process, place.device) == (8, 5, 1)
    assert place.coordinator.startswith("10.96.0.1:") and str(place) == "process 5 of 8"


def test_an_address_that_is_taken_is_refused(bare):
    with socket.create_server(("", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"process 0 of 2 cannot start at {where}: Address already in use"):
            processes.session(where, 2, 0).__enter__()


def test_one_process_of_flags_is_alone(bare):
    assert find("host:1", 1, 0) is None
    with processes.session("host:1", 1, 0):
        assert jax.process_count() == 1


@given(st.tuples(*[st.booleans()] * 3).filter(lambda given: 0 < sum(given) < 3))
@settings(deadline=None, derandomize=True, database=None)
def test_some_of_the_flags_are_an_error_that_names_the_others(given):
    values = {"--coordinator": "host:1", "--processes": 2, "--process": 0}
    with pytest.raises(UserError, match="go together") as error:
        find(*(value if here else None for value, here in zip(values.values(), given, strict=True)))
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
        find(*flags)
