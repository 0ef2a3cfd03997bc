import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("conv1d", **fields))


def test_the_layers_are_those_of_the_table():
    rows = layer_table(lambda: models.create("conv1d"), (128, 1))
    assert [(row.name, row.output_shape, row.parameters) for row in rows] == [
        ("conv1/conv", (128, 32), 128),
        ("pool1", (64, 32), 0),
        ("conv2/conv", (64, 64), 6_208),
        ("pool2", (32, 64), 0),
        ("conv3/conv", (32, 128), 24_704),
        ("pool3", (16, 128), 0),
        ("head/pool", (128,), 0),
        ("head/classifier", (10,), 1_290),
    ]
    elements = 128 + sum(row.outputs for row in rows if row.name != "head/pool")
    assert elements == 128 + 4_096 + 2_048 + 4_096 + 2_048 + 4_096 + 2_048 + 10


@pytest.mark.parametrize(("stride", "expected"), [(1, [0, 1, -1, 0]), (2, [0, -1])])
def test_the_filter_of_size_2_is_largest_where_the_lecture_says(stride, expected):
    # y = x1 - x2 with the weights (1, -1): largest at (1, 0). Stride 2 misses the step inside the sequence.
    fields = dict(input_shape=(5, 1), channels=(1,), kernel=2, stride=stride, padding=0, pool_size=1)
    model = models.create("conv1d", **fields, activation="linear")
    model.conv1.conv.kernel[...] = jnp.asarray([1.0, -1.0]).reshape(2, 1, 1)
    x = jnp.asarray([1.0, 1.0, 0.0, 1.0, 1.0]).reshape(1, 5, 1)
    np.testing.assert_array_equal(model.features(x)[0, :, 0], expected)


@pytest.mark.parametrize("pool", ["max", "average", "conv"])
def test_it_gives_the_logits_of_pytorch(pool):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    model = models.create("conv1d", input_shape=(24, 2), channels=(3, 5), kernel=5, padding=1, pool=pool, pool_size=3)
    model = nnx.view(model, deterministic=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 24, 2)).astype(np.float32)
    y = torch.tensor(x).permute(0, 2, 1)

    def convolve(y, layer, **options):
        layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape), jnp.float32)
        kernel, bias = (torch.tensor(np.array(v[...])) for v in (layer.kernel, layer.bias))
        return functional.conv1d(y, kernel.permute(2, 1, 0), bias, **options)

    for conv, pooling in ((model.conv1, model.pool1), (model.conv2, model.pool2)):
        y = torch.relu(convolve(y, conv.conv, padding=1))
        if pool == "conv":
            y = convolve(y, pooling, stride=3)
        else:
            y = functional.max_pool1d(y, 3) if pool == "max" else functional.avg_pool1d(y, 3)
    expected = y.mean(2).numpy() @ np.asarray(model.head.classifier.kernel[...])
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-5)


def test_fields_do_what_they_say():
    assert abstract(width=0.5).conv3.conv.kernel.shape == (3, 32, 64)
    assert abstract(norm="batch").conv1.norm.scale.shape == (32,)
    assert abstract(head="fc", fc_sizes=(64,), width=0.5).head.hidden[0].kernel.shape == (16 * 64, 32)
    assert abstract(head="flatten").head.classifier.kernel.shape == (16 * 128, 10)
    assert abstract(dropout=0.5).head.dropout.rate == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(kernel=0), "kernel is 0"),
        (dict(stride=0), "stride is 0"),
        (dict(pool_size=0), "pool_size is 0"),
        (dict(padding=-1), "padding is -1"),
        (dict(channels=()), "at least one"),
        (dict(input_shape=(8, 8, 1)), "takes sequences"),
        (dict(input_shape=(4, 1)), "'pool3'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
