"""Every configuration with its bundled data takes two real steps, at a small width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.core import trees
from cnn_jax.models import resnet
from cnn_jax.training import step
from cnn_jax.training.setup import Setup, build
from cnn_jax.training.state import States
from recipes import NETWORKS, get_config

# The widths of these cannot change: other fields of theirs exclude it.
FULL_WIDTH = {"lenet5_1998", "toy"}
WIDTHS = {"mlp": 0.5, "local": 0.5, "lenet5": 0.5, "dilated": 0.25, "flattened": 0.25, "conv1d": 0.25}
# One of each kind: distances, linear layers, blocks, branches and auxiliary losses, one and three dimensions.
EACH_KIND = {"lenet5_1998", "alexnet", "resnet20", "googlenet", "conv1d", "c3d"}


def filled(run: Setup) -> step.TrainState:
    """Returns the first state with NumPy's random numbers: jax would compile an initializer for each shape."""
    random = np.random.default_rng(0)

    def fill(name, leaf):
        if name.endswith(("scale", "var", "coefficient")):
            return jnp.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(random.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), leaf.dtype)

    state = jax.eval_shape(States(run).create)
    params, stats = (
        jax.tree.unflatten(jax.tree.structure(tree), [fill(name, leaf) for name, leaf in trees.named_leaves(tree)])
        for tree in (state.params, state.stats)
    )
    return step.create_state(params, stats, run.optimizer, ema=run.config.ema_decay > 0)


TIERS = {name: pytest.mark.slow if name in EACH_KIND else pytest.mark.nightly for name in NETWORKS}


@pytest.mark.parametrize("name", [pytest.param(name, marks=tier) for name, tier in TIERS.items()])
def test_two_steps_of_every_recipe(name, monkeypatch):
    monkeypatch.setattr(resnet, "UNROLLED", 2)  # deep stages compile one block
    config = get_config(name)
    if name not in FULL_WIDTH:
        config.model.width = WIDTHS.get(name, 1 / 16)
    config.batch_size = 8
    run = build(config)
    state = filled(run)
    before = jax.tree.map(np.asarray, state.params)
    batches = [run.put(batch) for batch in run.data.parts["train"].train_batches(0, 2, config.batch_size)]
    train_step = run.train_step(States(run).shardings)
    for batch in batches:
        state = train_step(state, batch, run.resident("train"))
    assert int(state.step) == 2 and int(state.failed) == 0
    assert np.isfinite(float(state.sums["loss"])) and float(state.sums["examples"]) == 16
    # At such a small width some ReLUs can be dead, but not those of most layers.
    changed = [bool((old != new).any()) for old, new in zip(*map(jax.tree.leaves, (before, state.params)), strict=True)]
    assert np.mean(changed) > 0.5
