"""What is rounded in bfloat16 layers: kernels are, sums of gradients of biases and of BatchNorm are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax.core import trees
from cnn_jax.models.lenet import Subsampling, TableConv
from cnn_jax.models.local import LocallyConnected
from cnn_jax.nn import graph
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import BatchNorm, Conv, Linear, rounded_kernels

KEYS = InitKeys(jax.random.key(0))
OPTIONS = dict(init="he_fan_in", dtype=jnp.bfloat16, rngs=KEYS)
LAYERS = {
    "conv": (lambda: Conv(4, 8, 3, padding=1, **OPTIONS), (16, 32, 32, 4)),
    "linear": (lambda: Linear(4, 8, **OPTIONS), (8192, 4)),
    "table": (lambda: TableConv(4, [[0, 1], [2, 3], [0]], **OPTIONS), (16, 32, 32, 4)),
    "sum": (lambda: Subsampling(4, **OPTIONS), (64, 32, 32, 4)),
}


def noise(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(1, 1, shape), jnp.bfloat16)


def gradients(layer, x):
    """Returns (gradients of the parameters for a random gradient of the output, that gradient)."""
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    weights = noise(1, y.shape)
    graphdef, *states = nnx.split(layer, nnx.Param, ...)
    params, rest = map(nnx.as_pure, states)  # variables belong to the trace that makes them

    @jax.jit
    @jax.grad
    def gradient(params, rest):
        return jnp.vdot(nnx.merge(graphdef, params, rest)(x).astype(jnp.float32), weights.astype(jnp.float32))

    return gradient(params, rest), np.asarray(weights, np.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_bias_is_a_sum_in_float32(name):
    make, shape = LAYERS[name]
    found, weights = gradients(make(), noise(0, shape))
    assert found["bias"].dtype == jnp.float32
    np.testing.assert_allclose(found["bias"], weights.reshape(-1, weights.shape[-1]).sum(0), rtol=1e-5)


def test_each_position_of_a_local_layer_has_its_own_sum():
    layer = LocallyConnected((4, 4, 3), 5, 3, 1, 1, **OPTIONS)
    found, weights = gradients(layer, noise(0, (512, 4, 4, 3)))
    np.testing.assert_allclose(found["bias"], weights.sum(0), rtol=1e-5)


def test_batch_norm_has_float32_scales_and_their_gradients():
    layer = nnx.view(BatchNorm(4, dtype=jnp.bfloat16, rngs=KEYS), use_running_average=False)
    layer.bias.set_value(jnp.asarray([100.3, 3.01, -0.7, 0.0]))  # bfloat16 has 100.5, 3.016, -0.699
    x = noise(0, (64, 16, 16, 4))
    wide = np.asarray(x, np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    normal = (wide - mean) / np.sqrt(var + 1e-5)
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    # Each value is off by half a unit of bfloat16; their mean is not where the offset itself was rounded.
    offsets = np.asarray(y, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(offsets, layer.bias[...], rtol=3e-4, atol=1e-3)
    found, weights = gradients(layer, x)
    np.testing.assert_allclose(found["bias"], weights.sum((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["scale"], (weights * normal).sum((0, 1, 2)), rtol=1e-3, atol=0.05)


def kernels(**fields):
    """Returns (names of rounded kernels, names of all kernels) of a small ResNet-18."""
    model = jax.eval_shape(lambda: cnn_jax.create("resnet18", width=0.125, num_classes=10, **fields))
    _, params, _ = graph.split(model)
    names = {name for name, _ in trees.named_leaves(params)}
    return rounded_kernels(model), {name for name in names if name.endswith("/kernel")}


def test_kernels_are_rounded_in_bfloat16_unless_standardized():
    found, every = kernels(dtype=jnp.bfloat16)
    assert found == every and len(every) == 21
    assert kernels()[0] == frozenset()
    assert kernels(dtype=jnp.bfloat16, weight_standardization=True)[0] == {"head/classifier/kernel"}


def test_a_rounded_kernel_gives_the_same_scores():
    model = cnn_jax.create("lenet5", dtype=jnp.bfloat16)
    graphdef, params = nnx.split(model)
    rounded = rounded_kernels(model)

    def one(path, leaf):
        return leaf.astype(jnp.bfloat16).astype(jnp.float32) if trees.path_name(path) in rounded else leaf

    values = nnx.to_pure_dict(params)
    changed = jax.tree_util.tree_map_with_path(one, values)
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (values, changed)), strict=True))
    x = noise(0, (2, 32, 32, 1))
    scores = [nnx.merge(graphdef, tree)(x) for tree in (values, changed)]
    np.testing.assert_array_equal(*scores)
