import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError

SIZE = 41


def abstract(**fields):
    return nnx.eval_shape(lambda: models.create("dilated", **fields))


def measured_extents(rates, kernel=3):
    """Returns how many rows and columns of the image the middle of each layer's output depends on."""
    fields = dict(rates=rates, kernel=kernel, channels=1, activation="linear", input_shape=(SIZE, SIZE, 1))
    model = models.create("dilated", **fields)
    for name in model.order:
        layer = getattr(model, name).conv
        layer.kernel[...] = jnp.ones_like(layer.kernel[...])
    extents = []
    for depth in range(1, 1 + len(rates)):
        model.order = tuple(f"conv{i}" for i in range(1, 1 + depth))
        middle = jax.grad(lambda x, model=model: model.features(x)[0, SIZE // 2, SIZE // 2, 0])
        seen = np.argwhere(np.asarray(middle(jnp.zeros((1, SIZE, SIZE, 1))))[0, ..., 0])
        rows, columns = seen.max(axis=0) - seen.min(axis=0) + 1
        assert rows == columns
        extents.append(int(rows))
    return extents


@pytest.mark.parametrize(
    ("rates", "kernel", "extents"),
    [((1, 2, 4, 8), 3, [3, 7, 15, 31]), ((1, 1, 1, 1), 3, [3, 5, 7, 9]), ((2,), 3, [5]), ((1, 3), 5, [5, 17])],
)
def test_the_receptive_field_is_that_of_the_lecture(rates, kernel, extents):
    assert measured_extents(rates, kernel) == extents


def test_no_layer_changes_the_resolution():
    shape = (20, 12, 3)
    rows = {r.name: r for r in layer_table(lambda: models.create("dilated", input_shape=shape), shape)}
    assert [rows[f"conv{i}/conv"].output_shape for i in (1, 2, 3, 4)] == [(20, 12, 32)] * 4
    elements = 20 * 12 * 3 + sum(row.outputs for row in rows.values())
    assert elements == 720 + 4 * 20 * 12 * 32 + 32 + 10


def test_it_gives_the_logits_of_pytorch():
    torch = pytest.importorskip("torch")
    model = models.create("dilated", channels=4, rates=(1, 2, 3), input_shape=(9, 8, 2), num_classes=3)
    model = nnx.view(model, deterministic=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, 2)).astype(np.float32)
    y = torch.tensor(x).permute(0, 3, 1, 2)
    for name, rate in zip(model.order, (1, 2, 3), strict=True):
        layer = getattr(model, name).conv
        layer.bias[...] = jnp.asarray(rng.normal(size=4), jnp.float32)
        kernel, bias = (torch.tensor(np.array(v[...])) for v in (layer.kernel, layer.bias))
        y = torch.relu(torch.nn.functional.conv2d(y, kernel.permute(3, 2, 0, 1), bias, padding=rate, dilation=rate))
    expected = y.mean((2, 3)).numpy() @ np.asarray(model.head.classifier.kernel[...])
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_fields_do_what_they_say():
    assert abstract(width=0.5).conv2.conv.kernel.shape == (3, 3, 16, 16)
    assert abstract(kernel=5).conv1.conv.kernel.shape == (5, 5, 3, 32)
    assert abstract(norm="batch").conv1.norm.scale.shape == (32,)
    assert abstract(head="fc", fc_sizes=(64,), width=0.5).head.hidden[0].kernel.shape == (32 * 32 * 16, 32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(rates=()), r"rates is \(\)"),
        (dict(rates=(1, 0)), r"rates is \(1, 0\).*above 0"),
        (dict(kernel=4), "kernel is 4, but must be odd"),
        (dict(norm="bach"), "did you mean 'batch'"),
    ],
)
def test_impossible_fields_are_errors(fields, message):
    with pytest.raises(UserError, match=message):
        abstract(**fields)
