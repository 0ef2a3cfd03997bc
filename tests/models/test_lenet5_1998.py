import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError
from cnn_jax.models import lenet
from cnn_jax.nn.init import InitKeys


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("lenet5_1998", **fields))


@pytest.fixture(scope="module")
def model():
    model = models.create("lenet5_1998")
    rng = np.random.default_rng(0)
    for layer in (model.conv1.conv, model.pool1, model.conv2, model.pool2, model.conv3.conv, *model.head.hidden):
        layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape), jnp.float32)
    return nnx.view(model, deterministic=True)


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_the_layers_have_the_parameters_and_connections_of_the_paper():
    rows = layer_table(lambda: models.create("lenet5_1998"), (32, 32, 1))
    assert [(row.output_shape, row.parameters) for row in rows] == [
        ((28, 28, 6), 156),
        ((14, 14, 6), 12),
        ((10, 10, 16), 1_516),
        ((5, 5, 16), 32),
        ((1, 1, 120), 48_120),
        ((84,), 10_164),
        ((10,), 0),
    ]
    assert [row.receptive_field for row in rows[:5]] == [(5, 5), (6, 6), (14, 14), (16, 16), (32, 32)]
    assert [row.jump for row in rows[:5]] == [(1, 1), (2, 2), (2, 2), (4, 4), (4, 4)]
    # Each unit has its inputs and a bias; one of a subsampling layer has 4 inputs.
    connections = [row.outputs * 5 if row.kind == "pool" else row.macs + row.outputs for row in rows[:-1]]
    assert connections == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164]
    assert sum(connections) == 340_068
    assert 1024 + sum(row.outputs for row in rows) == 1024 + 4704 + 1176 + 1600 + 400 + 120 + 84 + 10


def test_the_table_of_connections_has_the_counts_of_the_paper():
    assert [len(maps) for maps in lenet.CONNECTIONS] == 6 * [3] + 9 * [4] + [6]
    assert len(set(lenet.CONNECTIONS)) == 16 and all(list(maps) == sorted(set(maps)) for maps in lenet.CONNECTIONS)
    # Each map of S2 goes to ten maps of C3.
    assert [sum(i in maps for maps in lenet.CONNECTIONS) for i in range(6)] == 6 * [10]
    assert all({(i + j) % 6 for j in range(3)} == set(lenet.CONNECTIONS[i]) for i in range(6))
    assert all({(i + j) % 6 for j in range(4)} == set(lenet.CONNECTIONS[6 + i]) for i in range(6))


def test_c3_sees_the_maps_of_the_table_only(model):
    x = jnp.asarray(noise(1, 5, 5, 6))
    gradient = jax.jacobian(lambda x: model.conv2(x)[0, 0, 0])(x)  # [16, 1, 5, 5, 6]
    seen = [tuple(np.flatnonzero(np.abs(np.asarray(g)).sum(axis=(0, 1, 2))).tolist()) for g in gradient]
    assert tuple(seen) == lenet.CONNECTIONS


def test_subsampling_is_the_sum_times_a_coefficient_plus_a_bias(model):
    x = noise(2, 4, 5, 6)
    expected = np.zeros((2, 2, 2, 6), np.float32)
    for i in range(2):
        for j in range(2):
            expected[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum(axis=(1, 2))
    expected = expected * np.asarray(model.pool1.coefficient[...]) + np.asarray(model.pool1.bias[...])
    np.testing.assert_allclose(model.pool1(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


def test_the_initial_weights_have_the_limits_of_the_paper():
    model = models.create("lenet5_1998")
    start = 0
    for inputs in lenet.CONNECTIONS:  # 2.4 / fan-in
        values = np.abs(np.asarray(model.conv2.kernel[..., start : start + len(inputs)]))
        assert 0.8 * 2.4 / (25 * len(inputs)) < values.max() <= 2.4 / (25 * len(inputs))
        start += len(inputs)
    assert start == 60
    assert np.abs(np.asarray(model.pool2.coefficient[...])).max() <= 0.6
    assert np.abs(np.asarray(model.pool2.coefficient[...])).max() > 0.4


def test_distances_equal_pytorch(model):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def squash(x):
        return 1.7159 * torch.tanh(2 * x / 3)

    def tensor(variable):
        return torch.tensor(np.array(variable[...]))

    def subsample(x, layer):
        total = functional.avg_pool2d(x, 2) * 4
        return total * tensor(layer.coefficient)[:, None, None] + tensor(layer.bias)[:, None, None]

    x = noise(2, 32, 32, 1)
    y = torch.tensor(x).permute(0, 3, 1, 2)
    y = squash(functional.conv2d(y, tensor(model.conv1.conv.kernel).permute(3, 2, 0, 1), tensor(model.conv1.conv.bias)))
    y = squash(subsample(y, model.pool1))
    maps, start, kernel = [], 0, tensor(model.conv2.kernel)
    for o, inputs in enumerate(lenet.CONNECTIONS):  # one small convolution for each map
        own = kernel[..., start : start + len(inputs)].permute(2, 0, 1)[None]
        maps.append(functional.conv2d(y[:, list(inputs)], own, tensor(model.conv2.bias)[o : o + 1]))
        start += len(inputs)
    y = squash(subsample(squash(torch.cat(maps, 1)), model.pool2))
    y = squash(functional.conv2d(y, tensor(model.conv3.conv.kernel).permute(3, 2, 0, 1), tensor(model.conv3.conv.bias)))
    y = squash(y.flatten(1) @ tensor(model.head.hidden[0].kernel) + tensor(model.head.hidden[0].bias))
    expected = -(torch.cdist(y, torch.tensor(lenet.CODES)) ** 2)
    scores = model(jnp.asarray(x))
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-3)


def test_the_codes_are_ten_different_bitmaps_of_one_and_minus_one():
    assert lenet.CODES.shape == (10, 7 * 12) and set(np.unique(lenet.CODES)) == {-1, 1}
    differing = (lenet.CODES[:, None] != lenet.CODES).sum(axis=-1)
    assert differing[~np.eye(10, dtype=bool)].min() >= 8  # pixels between any two digits
    scores = lenet.RadialBasis(10)(jnp.asarray(lenet.CODES))
    np.testing.assert_array_equal(scores, -4.0 * differing)
    one = lenet.CODES[1].reshape(12, 7)
    assert (one[1:11, 3] == 1).all()  # rows of 7 after one another: the stem of the 1 is a column


def test_codes_are_not_parameters():
    assert jax.tree.leaves(nnx.state(lenet.RadialBasis(10))) == []


def test_fields_do_what_they_say():
    assert abstract(connections="full").conv2.conv.kernel.shape == (5, 5, 6, 16)
    assert abstract(output="linear").head.classifier.kernel.shape == (84, 10)
    assert abstract(output="linear", num_classes=100).head.classifier.kernel.shape == (84, 100)
    assert abstract(pool="average").pool1.kind == "average"
    assert abstract(c5="linear").head.hidden[0].kernel.shape == (400, 120)
    assert abstract(connections="full", output="linear", width=0.5).conv2.conv.kernel.shape == (5, 5, 3, 8)
    assert abstract(input_shape=(28, 28, 1), padding=2).conv3.conv.kernel.shape == (5, 5, 16, 120)
    assert abstract(num_classes=3).head.classifier.num_classes == 3


def test_in_bfloat16_parameters_and_scores_stay_float32():
    model = nnx.view(models.create("lenet5_1998", dtype=jnp.bfloat16), deterministic=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype("float32")}
    x = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.bfloat16)
    assert jax.eval_shape(model.features, x).dtype == jnp.bfloat16
    assert jax.eval_shape(model, x).dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(pool="trained"), "did you mean 'trainable'"),
        (dict(connections="half"), "connections is 'half'"),
        (dict(output="rbg"), "did you mean 'rbf'"),
        (dict(width=0.5), "connections is 'table'.*width is 0.5"),
        (dict(width=0.5, connections="full"), "output is 'rbf'.*width 0.5"),
        (dict(head="gap"), "output is 'rbf'.*'gap'"),
        (dict(num_classes=100), "output is 'rbf'.*num_classes 100"),
        (dict(input_shape=(5, 5, 1)), "5x5 is too small.*'pool1'"),
        (dict(input_shape=(8, 8, 1)), "8x8 is too small.*'conv2'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)


def test_one_step_changes_every_parameter():
    model = nnx.view(models.create("lenet5_1998"), deterministic=True)
    x, labels = jnp.asarray(noise(2, 32, 32, 1)), jnp.asarray([0, 1])
    loss = lambda model: -jnp.mean(jax.nn.log_softmax(model(x))[jnp.arange(2), labels])  # noqa: E731
    gradient = nnx.jit(nnx.grad(loss))(model)
    assert all(np.abs(np.asarray(leaf)).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_each_weight_of_a_table_has_its_place():
    layer = lenet.TableConv(3, ((0, 2), (1,)), init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
    assert layer.kernel.shape == (5, 5, 3) and layer.bias.shape == (2,)
    layer.kernel[...] = jnp.zeros((5, 5, 3)).at[..., 1].set(1.0)  # of the pair (2, 0)
    x = jnp.ones((1, 5, 5, 3)).at[..., 2].set(2.0)
    np.testing.assert_allclose(layer(x)[0, 0, 0], [50.0, 0.0])
