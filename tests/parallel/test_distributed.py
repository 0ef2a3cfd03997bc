import pickle
from dataclasses import replace

import jax
import numpy as np
import pytest

import several_training
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training.throughput import MEASURED
from several_processes import finish, free_port, program, started
from several_training import LAYOUTS, PLACEMENTS

pytestmark = pytest.mark.slow

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
def test_results_do_not_depend_on_devices_and_processes(trained, placement):
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
def test_every_layout_restores_what_any_other_saved(trained, process):
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
        *("--config.duration=4steps", "--config.log.every=2steps", "--config.log.trackers="),
        *(
            "--config.eval.every=4steps",
            "--config.optim.schedule.warmup=0steps",
            "--config.mesh.rules=(('.*','data'),)",
        ),
    )
    states, records = [], []
    for count in (1, 2):
        folder = tmp_path / str(count)
        with started(count, *line, f"--workdir={folder}", module="finetune", base=()) as running:
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
