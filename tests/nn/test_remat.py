"""Blocks that are recomputed: the same numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.core import trees
from cnn_jax.eval.steps import Batch
from cnn_jax.nn import graph
from cnn_jax.training import step
from small_models import abstract
from tiers import quick

NETWORKS = {
    "resnet20": dict(input_shape=(16, 16, 3), width=0.5),
    "cifar_resnet": dict(depth=8, input_shape=(8, 8, 3), width=0.25),
    "googlenet": dict(input_shape=(64, 64, 3), width=0.125, num_classes=10),
    "squeezenet1_1": dict(input_shape=(64, 64, 3), width=0.25, num_classes=10),
}


def networks(name, **options):
    """Returns (parameters, statistics, value and gradient with remat and without) of a network."""
    network, params, stats = graph.split(abstract(name, **options))
    random = np.random.default_rng(0)

    def fill(path, leaf):
        scale = 1 / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) if leaf.ndim > 1 else 0.1
        ones = trees.path_name(path).rsplit("/", 1)[-1] in ("scale", "var")
        return jnp.asarray(random.normal(size=leaf.shape) * scale + ones, jnp.float32)

    params, stats = (jax.tree_util.tree_map_with_path(fill, tree) for tree in (params, stats))
    return network, params, stats


def batch_of(shape, size=8) -> Batch:
    random = np.random.default_rng(1)
    return {
        "image": random.integers(0, 256, (size, *shape), np.uint8),
        "label": random.integers(0, 10, size, np.int32),
        "position": np.arange(size, dtype=np.uint32),
    }


def gradients(network, params, stats, batch, enabled):
    loss = step.make_loss(graph.Graph(network.train, network.eval, remat=enabled), mean=0.5, std=0.25)
    program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(
        params, stats, {}, batch, step.make_keys(jnp.uint32(0), jnp.int32(0))
    )
    return program.compile()


@pytest.mark.parametrize("name", quick(NETWORKS, {"cifar_resnet"}))
def test_gradients_and_statistics_are_the_same(name):
    network, params, stats = networks(name, **NETWORKS[name])
    batch = batch_of(NETWORKS[name]["input_shape"])
    keys = step.make_keys(jnp.uint32(0), jnp.int32(0))
    kept, again = (
        gradients(network, params, stats, batch, enabled)(params, stats, {}, batch, keys) for enabled in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), again, kept)
    if jax.tree.leaves(stats):
        assert not np.allclose(jax.tree.leaves(again[0][1][0])[0], jax.tree.leaves(stats)[0])  # they followed


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1"])
def test_backward_pass_keeps_the_inputs_of_blocks_only(name):
    network, params, stats = networks(name, **NETWORKS[name])
    batch, keys = batch_of(NETWORKS[name]["input_shape"]), step.make_keys(jnp.uint32(0), jnp.int32(0))

    def kept(enabled):
        loss = step.make_loss(graph.Graph(network.train, network.eval, remat=enabled), mean=0.5, std=0.25)

        def backward(params):
            return jax.vjp(lambda params: loss(params, stats, {}, batch, keys)[0], params)[1]

        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(backward, params)))

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.slow
def test_loop_over_equal_blocks_takes_less_memory():
    """On a CPU, too; outside of loops, XLA merges the repeated computations there."""
    options = dict(depth=254, input_shape=(16, 16, 3), width=0.25)
    network, params, stats = networks("cifar_resnet", **options)
    batch = batch_of(options["input_shape"], size=32)
    kept, again = (
        gradients(network, params, stats, batch, enabled).memory_analysis().temp_size_in_bytes
        for enabled in (False, True)
    )
    assert again < 0.3 * kept
