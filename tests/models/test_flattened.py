import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.models.flattened import FlattenedConv
from cnn_jax.nn.init import InitKeys


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("flattened", **fields))


def test_one_set_has_the_cost_of_the_table():
    def create():
        return FlattenedConv(192, 32, 5, sets=1, init="lecun_normal", dtype=None, rngs=InitKeys(jax.random.key(0)))

    rows = layer_table(create, (28, 28, 192))
    assert [(row.name, row.macs) for row in rows] == [
        ("lateral1", 784 * 6_144),
        ("vertical1", 784 * 160),
        ("horizontal1", 784 * 160),
    ]
    assert sum(row.macs for row in rows) == 5_067_776  # 120,422,400 for the dense one
    assert sum(row.parameters for row in rows) == 6_464 + 3 * 32


def test_the_layers_are_those_of_the_table():
    rows = {row.name: row for row in layer_table(lambda: models.create("flattened"), (32, 32, 3))}
    shapes = [rows[name].output_shape for i in (1, 2, 3) for name in (f"conv{i}/horizontal2", f"pool{i}")]
    assert shapes == [(32, 32, 96), (16, 16, 96), (16, 16, 128), (8, 8, 128), (8, 8, 256), (4, 4, 256)]
    convolutions = 6 * (1024 * 96 + 256 * 128 + 64 * 256)  # activation elements: six outputs in each place
    elements = 3072 + sum(row.outputs for name, row in rows.items() if name != "head/pool")
    assert elements == 3072 + convolutions + 256 * 96 + 64 * 128 + 16 * 256 + 10


def test_one_set_is_a_convolution_with_kernels_of_rank_one():
    torch = pytest.importorskip("torch")
    layer = FlattenedConv(3, 4, 5, sets=1, init="lecun_normal", dtype=None, rngs=InitKeys(jax.random.key(0)))
    a, b, c = (np.asarray(v.kernel[...]) for v in (layer.lateral1, layer.vertical1, layer.horizontal1))
    dense = np.einsum("if,yf,xf->fiyx", a[0, 0], b[:, 0, 0], c[0, :, 0])
    bias = np.random.default_rng(1).normal(size=4).astype(np.float32)
    layer.horizontal1.bias[...] = jnp.asarray(bias)
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype(np.float32)
    y = torch.nn.functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(dense), torch.tensor(bias), 1, 2)
    np.testing.assert_allclose(layer(jnp.asarray(x)), y.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)


def test_two_sets_follow_one_another():
    layer = FlattenedConv(3, 4, 3, sets=2, init="lecun_normal", dtype=None, rngs=InitKeys(jax.random.key(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 3)), jnp.float32)
    first = layer.horizontal1(layer.vertical1(layer.lateral1(x)))
    second = layer.horizontal2(layer.vertical2(layer.lateral2(first)))
    np.testing.assert_array_equal(layer(x), second)
    assert not np.allclose(first, second)


def test_the_activation_comes_after_a_set_and_not_within():
    model = nnx.view(models.create("flattened", channels=(4,), input_shape=(6, 6, 3)), deterministic=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 3)), jnp.float32)
    maps = np.maximum(np.asarray(model.conv1(x)), 0)
    np.testing.assert_allclose(model.features(x), maps.reshape(1, 3, 2, 3, 2, 4).max(axis=(2, 4)), rtol=1e-6)


def test_fields_do_what_they_say():
    dense, flat = abstract(separable=False), abstract()
    assert dense.conv2.kernel.shape == (5, 5, 96, 128)
    assert trees.count(nnx.state(dense, nnx.Param)) > 7 * trees.count(nnx.state(flat, nnx.Param))
    assert flat.conv2.vertical1.kernel.shape == (5, 1, 1, 128) and flat.conv2.horizontal2.kernel.shape == (1, 5, 1, 128)
    assert abstract(sets=1).conv1.sets == 1 and not hasattr(abstract(sets=1).conv1, "lateral2")
    assert abstract(width=0.5, kernel=3).conv3.lateral2.kernel.shape == (1, 1, 128, 128)
    assert abstract(pool="conv").pool1.kernel.shape == (2, 2, 96, 96)
    assert abstract(head="fc", width=0.5).head.hidden[0].kernel.shape == (4 * 4 * 128, 128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(sets=0), "sets is 0"),
        (dict(kernel=4), "kernel is 4, but must be odd"),
        (dict(channels=()), "at least one"),
        (dict(input_shape=(4, 4, 3)), "4x4 is too small.*'pool3'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
