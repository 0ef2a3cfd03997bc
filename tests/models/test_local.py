import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError
from cnn_jax.models.local import LocallyConnected
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("local", **fields))


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def keys():
    return InitKeys(jax.random.key(0))


@pytest.mark.parametrize("sharing", ["none", "full"])
def test_the_layers_are_those_of_the_table(sharing):
    rows = layer_table(lambda: models.create("local", sharing=sharing), (16, 16, 1))
    positions = (64, 16) if sharing == "none" else (1, 1)
    assert [(row.name, row.output_shape, row.parameters, row.macs) for row in rows] == [
        ("layer1", (8, 8, 8), positions[0] * 208, 12_800),
        ("layer2", (4, 4, 16), positions[1] * 3_216, 51_200),
        ("head/classifier", (10,), 2_570, 2_560),
    ]
    assert 256 + sum(row.outputs for row in rows) == 256 + 512 + 256 + 10  # activation elements
    assert [(row.receptive_field, row.jump) for row in rows[:2]] == [((5, 5), (2, 2)), ((13, 13), (4, 4))]
    assert all(type(size) is int for row in rows for size in row.receptive_field or ())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 2, 2), (2, 3, 1)])
def test_with_equal_weights_everywhere_it_is_the_convolution(kernel, stride, padding):
    shape = (7, 6, 3)
    local = LocallyConnected(shape, 4, kernel, stride, padding, init="lecun_uniform_1998", rngs=keys())
    conv = Conv(3, 4, kernel, stride, padding, init="lecun_uniform_1998", rngs=keys())
    conv.bias[...] = noise(4)
    local.kernel[...] = jnp.broadcast_to(conv.kernel[...].reshape(-1, 4), local.kernel.shape)
    local.bias[...] = jnp.broadcast_to(conv.bias[...], local.bias.shape)
    x = noise(2, *shape)
    np.testing.assert_allclose(local(x), conv(x), rtol=1e-4, atol=1e-5)


def test_every_position_has_its_own_weights():
    layer = LocallyConnected((6, 5, 2), 3, 3, 2, 1, init="lecun_uniform_1998", rngs=keys())
    layer.bias[...] = noise(*layer.bias.shape)
    x = np.asarray(noise(2, 6, 5, 2))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel, expected = np.asarray(layer.kernel[...]), np.zeros((2, 3, 3, 3), np.float32)
    for i in range(3):
        for j in range(3):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].reshape(2, -1)
            expected[:, i, j] = window @ kernel[i, j] + np.asarray(layer.bias[i, j])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    assert len(np.unique(kernel)) == kernel.size
    # He's standard deviation, with the fan-in of one window
    assert LocallyConnected((32, 32, 2), 8, 3, 1, 1, init="he_fan_in", rngs=keys()).kernel[...].std() == pytest.approx(
        (2 / 18) ** 0.5, rel=0.02
    )


def test_the_network_is_the_same_except_for_sharing():
    rng = np.random.default_rng(1)

    def filled(sharing):  # numpy's random numbers: compiling initializers takes seconds
        graphdef, state = nnx.split(abstract(sharing=sharing, width=0.5))
        fill = lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32)  # noqa: E731
        return nnx.view(nnx.merge(graphdef, jax.tree.map(fill, state)), deterministic=True)

    local, shared = filled("none"), filled("full")
    for name in ("layer1", "layer2"):
        ours, theirs = getattr(local, name), getattr(shared, name)
        ours.kernel[...] = jnp.broadcast_to(theirs.kernel[...].reshape(ours.kernel.shape[-2:]), ours.kernel.shape)
        ours.bias[...] = jnp.broadcast_to(theirs.bias[...], ours.bias.shape)
    local.head.classifier = shared.head.classifier
    x = noise(2, 16, 16, 1)
    np.testing.assert_allclose(local(x), shared(x), rtol=1e-4, atol=1e-5)


def test_fields_do_what_they_say():
    model = abstract(channels=(6,), kernel=3, stride=1, padding=0, width=0.5)
    assert model.layer1.kernel.shape == (14, 14, 9, 3)
    assert model.head.classifier.kernel.shape == (14 * 14 * 3, 10)
    assert abstract(head="fc", width=0.5).head.hidden[0].kernel.shape == (4 * 4 * 8, 32)


def test_in_bfloat16_parameters_stay_float32():
    model = abstract(dtype=jnp.bfloat16)
    assert model.layer1.kernel.dtype == jnp.float32
    graphdef, state = nnx.split(model)
    run = lambda state, x: nnx.merge(graphdef, state).layer1(x)  # noqa: E731
    assert jax.eval_shape(run, state, noise(1, 16, 16, 1)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(sharing="some"), "sharing is 'some'"),
        (dict(channels=()), "at least one"),
        (dict(stride=0), "stride is 0"),
        (dict(padding=-1), "padding is -1"),
        (dict(input_shape=(6, 4, 1), padding=0), "6x4 is too small.*'layer1'"),
        (dict(input_shape=(9, 9, 1), padding=0), "9x9 is too small.*'layer2'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)


def test_an_image_of_another_size_is_an_error():
    with pytest.raises(UserError, match="sharing='full'"):
        abstract().layer1(jnp.zeros((1, 20, 20, 1)))
