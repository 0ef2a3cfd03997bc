import jax
import numpy as np
import pytest

from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.models import resnet
from cnn_jax.training import diagnostics
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


def test_every_layer_has_its_deviation_and_every_parameter_its_norms(small_config):
    small_config.data.augment = ()
    small_config.model.dropout = 0.0
    run = build(small_config)
    state, batch = States(run).create(), diagnostics.training_batch(run, 1)
    found = diagnostics.examine(run, state, batch)
    assert [row["name"] for row in found["layers"]] == [row.name for row in run.layers]
    assert all(row["finite"] and 0 < row["deviation"] <= 2 * row["largest_output"] for row in found["layers"])
    keys = diagnostics.step.make_keys(0, 0)
    grads = jax.jit(jax.grad(lambda params: run.loss(params, state.stats, state.frozen, batch, keys)[0]))(state.params)
    for row in found["parameters"]:
        kernel, gradient = (dict(trees.named_leaves(tree))[row["name"]] for tree in (state.params, grads))
        np.testing.assert_allclose(row["norm"], np.linalg.norm(np.asarray(kernel).ravel()), rtol=1e-4)
        np.testing.assert_allclose(
            row["gradient_norm"], np.linalg.norm(np.asarray(gradient).ravel()), rtol=1e-3, atol=1e-6
        )
    # Every channel is positive somewhere; a bias far below zero kills one for the whole batch.
    assert found["layers"][0]["never_positive"] == 0
    state.params["conv1"]["conv"]["bias"] = state.params["conv1"]["conv"]["bias"].at[0].set(-1e3)
    channels = state.params["conv1"]["conv"]["bias"].shape[0]
    killed = diagnostics.examine(run, state, batch)["layers"][0]["never_positive"]
    assert killed == pytest.approx(1 / channels, abs=1e-6)
    # The images are normalized, and LeNet's first convolution is linear: its outputs are those of NumPy's products.
    conv = found["layers"][0]
    assert conv["name"] == "conv1/conv" and 0.1 < conv["deviation"] < 10


def test_repeated_blocks_have_norms_under_their_layer_names(monkeypatch):
    monkeypatch.setattr(resnet, "UNROLLED", 2)
    config = recipes.get_config("cifar_resnet")
    config.model.width, config.data.image_size = 0.25, (8, 8)
    run = build(config)
    norms = jax.eval_shape(diagnostics.norms_of, jax.eval_shape(States(run).create).params)
    kernels = {f"{row.name}/kernel" for row in run.layers if row.kind in ("conv", "linear")}
    assert kernels <= set(norms) and not any("block" in name for name in norms)


def test_the_norms_of_a_stack_are_those_of_its_parts():
    stack = np.array([[3.0, 4.0], [0.0, 2.0]])
    norms = diagnostics.norms_of({"a": {"1": {"block": {"kernel": stack}}, "bias": stack}})
    assert {name: float(norm) for name, norm in norms.items()} == {
        "a/1/0/kernel": 5,
        "a/1/1/kernel": 2,
        "a/bias": np.float32(29**0.5),
    }
