"""Stochastic depth: equal in expectation, random by key and block, off in evaluation, the same in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax.core import trees
from cnn_jax.models import resnet
from cnn_jax.nn import graph, hooks
from cnn_jax.nn.stochastic_depth import StochasticDepth, linear_rates
from cnn_jax.training import step
from small_models import EVAL, SMALL, TRAIN, filled, noise

DEEP = SMALL | dict(depth=20, shortcut="B", stochastic_depth=0.5)


def test_the_linear_rule_is_that_of_the_paper():
    # Huang et al. 2016, section 3: of the 54 blocks of ResNet-110 (3 x 54 - 1) / 4 are expected to stay.
    rates = linear_rates(0.5, 54)
    assert sum(1 - rate for rate in rates) == pytest.approx((3 * 54 - 1) / 4)
    assert rates[-1] == 0.5 and rates[0] == pytest.approx(0.5 / 54)


def test_images_are_dropped_one_by_one_and_the_expectation_stays():
    layer, x = StochasticDepth((0.1, 0.25)), jnp.ones((4000, 2, 3, 1))
    for number, rate in ((0, 0.1), (1, 0.25)):
        y = np.asarray(layer(x, rngs=jax.random.key(0), number=number))
        assert all(len(np.unique(image)) == 1 for image in y)
        kept = y[:, 0, 0, 0] > 0
        np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
        # The standard deviation of the mean of 4000 is below 0.01.
        assert abs(y.mean() - 1) < 0.04 and abs(kept.mean() - (1 - rate)) < 0.03
    evaluated = nnx.view(layer, deterministic=True)
    np.testing.assert_array_equal(evaluated(x), x)
    with pytest.raises(ValueError, match="needs a key in training"):
        layer(x)


def test_what_is_dropped_may_be_infinite():
    layer = StochasticDepth((0.5,))
    x = jnp.full((64, 1), jnp.inf)
    y = np.asarray(layer(x, rngs=jax.random.key(0)))
    assert set(np.unique(y)) == {0, np.inf}
    gradient = jax.grad(lambda x: jnp.sum(layer(x, rngs=jax.random.key(0))))(jnp.ones((64, 1)))
    assert set(np.unique(gradient)) == {0, 2}


def rates_of(model):
    blocks = [block for name in model.order if name.endswith("_x") for block in getattr(model, name)]
    return [getattr(block, "block", block).skips.rates for block in blocks]


def test_every_block_has_its_rate(monkeypatch):
    expected = linear_rates(0.5, 9)
    model = filled("cifar_resnet", **DEEP)
    assert rates_of(model) == [(rate,) for rate in expected]
    monkeypatch.setattr(resnet, "UNROLLED", 2)
    in_loops = rates_of(filled("cifar_resnet", **DEEP))
    assert in_loops == [part for i in (0, 3, 6) for part in (expected[i : i + 1], expected[i + 1 : i + 3])]


def test_evaluation_is_that_of_a_network_without_it():
    skipping, plain = filled("cifar_resnet", **DEEP), filled("cifar_resnet", **DEEP | dict(stochastic_depth=0.0))
    x = noise(2, 8, 8, 3)
    np.testing.assert_array_equal(nnx.view(skipping, **EVAL)(x), nnx.view(plain, **EVAL)(x))


def gradients(network, params, stats, batch, keys, *, remat):
    loss = step.make_loss(graph.Graph(network.train, network.eval, remat=remat), mean=0.5, std=0.25)
    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params, stats, {}, batch, keys).compile()
    return program(params, stats, {}, batch, keys)


@pytest.mark.slow
@pytest.mark.parametrize("unrolled", [2, 40])
def test_the_same_images_are_dropped_when_blocks_are_computed_again(monkeypatch, unrolled):
    monkeypatch.setattr(resnet, "UNROLLED", unrolled)
    network, params, stats = graph.split(filled("cifar_resnet", **DEEP | dict(stochastic_depth=0.8)))
    random = np.random.default_rng(1)
    batch = {
        "image": random.integers(0, 256, (8, 8, 8, 3), np.uint8),
        "label": random.integers(0, 10, 8, np.int32),
        "position": np.arange(8, dtype=np.uint32),
    }
    keys, other = (step.make_keys(jnp.uint32(0), jnp.int32(i)) for i in (0, 1))
    kept, again, next_step = (
        gradients(network, params, stats, batch, which, remat=remat)
        for which, remat in ((keys, False), (keys, True), (other, False))
    )
    for (name, one), (_, two) in zip(*map(trees.named_leaves, (kept[1], again[1])), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5, err_msg=name)
    assert not np.isclose(kept[0][0], next_step[0][0], rtol=1e-3)


def test_a_loop_over_blocks_drops_what_the_blocks_one_by_one_drop(monkeypatch):
    monkeypatch.setattr(resnet, "UNROLLED", 2)
    stage = nnx.view(filled("cifar_resnet", **DEEP | dict(stochastic_depth=0.9)), **TRAIN).conv2_x
    stage = nnx.view(stage, use_running_average=True)
    x, key = noise(16, 8, 8, 4), jax.random.key(3)
    looped = stage[1](x, rngs=key)
    with hooks.capture():
        one_by_one = stage[1](x, rngs=key)
    np.testing.assert_allclose(looped, one_by_one, rtol=1e-4, atol=1e-5)
    same = [np.array_equal(image, jax.nn.relu(before)) for image, before in zip(looped, x, strict=True)]
    assert any(same) and not all(same)
