import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("mlp", **fields))


@pytest.mark.parametrize(
    ("image", "weights"),
    [((28, 28, 1), 78_400), ((256, 256, 1), 6_553_600), ((256, 256, 3), 19_660_800)],
)
def test_the_first_layer_has_the_weights_of_the_lectures(image, weights):
    assert np.prod(abstract(input_shape=image).head.hidden[0].kernel.shape) == weights


def test_the_layers_are_in_the_order_of_the_sizes():
    shape = (4, 5, 2)
    create = lambda: models.create("mlp", input_shape=shape, hidden_sizes=(8, 6), num_classes=3)  # noqa: E731
    rows = [(row.name, row.output_shape, row.parameters, row.macs) for row in layer_table(create, shape)]
    assert rows == [
        ("head/hidden/0", (8,), 40 * 8 + 8, 320),
        ("head/hidden/1", (6,), 54, 48),
        ("head/classifier", (3,), 21, 18),
    ]
    assert 40 + sum(np.prod(shape) for _, shape, *_ in rows) == 57  # activation elements, the image among them


@pytest.mark.parametrize("activation", ["relu", "tanh", "scaled_tanh"])
def test_it_is_two_matrix_products(activation):
    model = models.create("mlp", input_shape=(3, 3, 2), hidden_sizes=(5,), num_classes=4, activation=activation)
    model = nnx.view(model, deterministic=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    function = {
        "relu": lambda v: np.maximum(v, 0),
        "tanh": np.tanh,
        "scaled_tanh": lambda v: 1.7159 * np.tanh(v * 2 / 3),
    }[activation]
    weights = [np.asarray(layer.kernel[...]) for layer in (model.head.hidden[0], model.head.classifier)]
    expected = function(x.reshape(2, 18) @ weights[0]) @ weights[1]  # biases start at zero
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.features(jnp.asarray(x)), x)


def test_width_multiplies_the_hidden_units_and_dropout_needs_a_key():
    assert abstract(width=0.5).head.hidden[0].kernel.shape == (784, 50)
    model = nnx.view(models.create("mlp", input_shape=(2, 2, 1), dropout=0.5), deterministic=False)
    x = jnp.ones((2, 2, 2, 1))
    outputs = [model(x, rngs=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(hidden_sizes=(100, 0)), r"\(100, 0\).*above 0"),
        (dict(width=-1.0), "width is -1.0"),
        (dict(activation="rely"), "did you mean 'relu'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
