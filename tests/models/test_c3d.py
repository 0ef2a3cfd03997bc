import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError

CLIP = (16, 112, 112, 3)


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("c3d", **fields))


def table(**fields):
    return layer_table(lambda: models.create("c3d", **fields), fields.get("input_shape", CLIP))


def test_the_layers_are_those_of_the_paper():
    rows = table()
    assert [(row.name, row.output_shape, row.parameters) for row in rows] == [
        ("conv1a/conv", (16, 112, 112, 64), 5_248),
        ("pool1", (16, 56, 56, 64), 0),
        ("conv2a/conv", (16, 56, 56, 128), 221_312),
        ("pool2", (8, 28, 28, 128), 0),
        ("conv3a/conv", (8, 28, 28, 256), 884_992),
        ("conv3b/conv", (8, 28, 28, 256), 1_769_728),
        ("pool3", (4, 14, 14, 256), 0),
        ("conv4a/conv", (4, 14, 14, 512), 3_539_456),
        ("conv4b/conv", (4, 14, 14, 512), 7_078_400),
        ("pool4", (2, 7, 7, 512), 0),
        ("conv5a/conv", (2, 7, 7, 512), 7_078_400),
        ("conv5b/conv", (2, 7, 7, 512), 7_078_400),
        ("pool5", (1, 4, 4, 512), 0),
        ("head/hidden/0", (4096,), 33_558_528),
        ("head/hidden/1", (4096,), 16_781_312),
        ("head/classifier", (101,), 413_797),
    ]
    assert [row.macs for row in rows if row.kind == "conv"][:3] == [1_040_449_536, 11_098_128_384, 5_549_064_192]
    assert int(np.prod(CLIP)) + sum(row.outputs for row in rows) == 28_265_573  # activation elements


def test_a_small_one_gives_the_logits_of_pytorch():
    torch = pytest.importorskip("torch")
    shape = (16, 20, 20, 2)
    rng = np.random.default_rng(0)
    graphdef, state = nnx.split(abstract(input_shape=shape, width=1 / 32, num_classes=3, head="gap"))
    # numpy's random numbers: compiling an initializer for each shape would take seconds
    fill = lambda leaf: jnp.asarray(rng.normal(0, 0.2, leaf.shape), jnp.float32)  # noqa: E731
    model = nnx.view(nnx.merge(graphdef, jax.tree.map(fill, state)), deterministic=True)
    x = rng.normal(size=(1, *shape)).astype(np.float32)
    y = torch.tensor(x).permute(0, 4, 1, 2, 3)
    for convs, size, padding in (
        (["conv1a"], (1, 2, 2), 0),
        (["conv2a"], 2, 0),
        (["conv3a", "conv3b"], 2, 0),
        (["conv4a", "conv4b"], 2, 0),
        (["conv5a", "conv5b"], 2, (0, 1, 1)),
    ):
        for name in convs:
            layer = getattr(model, name).conv
            kernel, bias = (torch.tensor(np.array(v[...])) for v in (layer.kernel, layer.bias))
            y = torch.relu(torch.nn.functional.conv3d(y, kernel.permute(4, 3, 0, 1, 2), bias, padding=1))
        y = torch.nn.functional.max_pool3d(y, size, size, padding)
    assert y.shape[2:] == (1, 1, 1)  # without its padding, the last pool would not fit 1x1
    classifier = model.head.classifier
    expected = y.mean((2, 3, 4)).numpy() @ np.asarray(classifier.kernel[...]) + np.asarray(classifier.bias[...])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(nnx.jit(model)(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-4)


def test_a_temporal_kernel_of_one_sees_single_frames():
    model = abstract(temporal_kernel=1)
    assert model.conv1a.conv.kernel.shape == (1, 3, 3, 3, 64)
    shapes = [[row.output_shape for row in table(temporal_kernel=depth)] for depth in (1, 3, 7)]
    assert shapes[0] == shapes[1] == shapes[2]  # the padding keeps the frames
    # Three times fewer weights in every convolution: 27,653,184 / 3, and 2,752 biases.
    convolutions = [row.parameters for row in table(temporal_kernel=1) if row.kind == "conv"]
    assert sum(convolutions) == (27_655_936 - 2_752) // 3 + 2_752


def test_fields_do_what_they_say():
    model = abstract(width=0.5, pool="average", fc_sizes=(512,), dropout=0.25)
    assert model.conv5b.conv.kernel.shape == (3, 3, 3, 256, 256)
    assert model.head.hidden[0].kernel.shape == (4096, 256)
    assert model.pool1.kind == "average" and model.head.dropout.rate == 0.25
    assert abstract().head.dropout.rate == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(temporal_kernel=2), "temporal_kernel is 2, but must be odd"),
        (dict(input_shape=(112, 112, 3)), "takes clips"),
        (dict(input_shape=(8, 112, 112, 3)), "8x112x112 is too small.*'pool5'"),
        (dict(fc_sizes=(0,)), "above 0"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
