import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.core.errors import NotFiniteError
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop as train
from cnn_jax.training import nan_report, step
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


@pytest.fixture
def diverging(small_config):
    small_config.model.activation = "relu"
    small_config.optim.schedule.name = "constant"
    small_config.optim.schedule.warmup = "0 steps"
    small_config.optim.learning_rate = 1e4
    small_config.data.augment = ("pad_crop:2",)
    return small_config


def test_the_failed_step_is_named_and_its_state_saved(tmp_path, diverging, console):
    diverging.log.every = "1 steps"
    with pytest.raises(NotFiniteError, match="at step") as every:
        train.run(diverging, tmp_path / "every", Options(console=console))
    recorded = read_jsonl(tmp_path / "every" / "metrics.jsonl")
    losses = [float(record["loss"]) for record in recorded if record["kind"] == "train"]
    failed = len(losses)
    assert failed > 1 and np.isfinite(losses[:-1]).all()
    assert not np.isfinite(losses[-1]) or recorded[-1]["gradient_norm"] in ("inf", "nan")

    diverging.log.every = diverging.eval.every = diverging.checkpoint.every = "20 steps"
    with pytest.raises(NotFiniteError, match=f"at step {failed};") as late:
        train.run(diverging, tmp_path / "late", Options(console=console))
    assert str(every.value).replace("every", "late") == str(late.value)

    evidence = tmp_path / "late" / "not_finite"
    report = json.loads((evidence / "report.json").read_text())
    assert report["step"] == failed and report["learning_rate"] == 1e4
    run = build(diverging)
    with Checkpoints(evidence) as checkpoints:
        state = States(run).restore(checkpoints, checkpoints.select("latest", pytest.fail))
    assert int(state.step) == failed - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.opt_state)))

    # The batch in the file, in the state of the checkpoint, fails again, by plain evaluation of the loss.
    with np.load(evidence / "batch.npz") as file:
        batch = dict(file)
    expected = next(run.data.parts["train"].train_batches(failed - 1, failed, diverging.batch_size))
    np.testing.assert_array_equal(batch["position"], expected["position"])
    resident = run.data.parts["train"].resident
    np.testing.assert_array_equal(batch["image"], resident["image"][expected["index"]])
    key = step.make_keys(state.seed, state.step)
    both = jax.jit(jax.value_and_grad(lambda p: run.loss(p, state.stats, state.frozen, batch, key)[0]))
    loss, grads = both(state.params)
    squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))  # float32, as in the step
    assert not (np.isfinite(loss) and np.isfinite(squares))
    np.testing.assert_allclose(float(report["loss"]), loss, rtol=1e-4)
    np.testing.assert_allclose(float(report["gradient_norm"]), np.sqrt(squares), rtol=1e-4)


def test_the_report_has_every_layer_and_the_first_that_fails(tmp_path, small_config):
    run = build(small_config)
    state = States(run).create()
    params = jax.tree.map(lambda x: x, state.params)
    params["conv2"]["conv"]["kernel"] = params["conv2"]["conv"]["kernel"].at[0, 0, 0, 0].set(jnp.inf)
    broken = step.replace(state, params=params, failed=jnp.int32(1))
    message = "not finite are those of layer 'conv2/conv'"
    saver = Saver(Checkpoints(tmp_path), keep=1)
    with saver, pytest.raises(NotFiniteError, match=message):
        nan_report.check_finite(run, broken, tmp_path, tmp_path, saver)
    report = json.loads((tmp_path / "not_finite" / "report.json").read_text())
    assert [layer["name"] for layer in report["layers"]] == [row.name for row in run.layers]
    finite = {layer["name"]: layer["finite"] for layer in report["layers"]}
    assert finite["conv1/conv"] and not finite["conv2/conv"]
    norms = {row["name"]: float(row["norm"]) for row in report["parameters"]}
    kernel = np.asarray(state.params["conv1"]["conv"]["kernel"])
    assert norms["conv1/conv/kernel"] == pytest.approx(np.sqrt((kernel.astype(np.float64) ** 2).sum()), rel=1e-5)
    assert np.isinf(norms["conv2/conv/kernel"])


def test_a_finite_state_passes_and_writes_nothing(tmp_path, small_config):
    run = build(small_config)
    with Saver(Checkpoints(tmp_path), keep=1) as saver:
        nan_report.check_finite(run, States(run).create(), tmp_path, tmp_path, saver)
    assert not list(tmp_path.iterdir())
