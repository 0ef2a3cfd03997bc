"""What happens inside networks, against closed forms, NumPy and gradients with respect to parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import models
from cnn_jax.analysis import introspection
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.analysis.receptive_field import ReceptiveField, Seen
from cnn_jax.core.errors import UserError
from cnn_jax.models import resnet
from cnn_jax.nn import hooks
from cnn_jax.nn.pooling import Pool
from small_models import EVAL, filled, noise

RESNET = dict(depth=8, width=0.25, input_shape=(16, 16, 3), num_classes=5)
LENET = dict(activation="relu", pool="max", input_shape=(14, 14, 1), padding=2, num_classes=3)


def network(name, **fields):
    return nnx.view(filled(name, **fields), **EVAL)


def images(shape, count=2):
    return np.asarray(noise(count, *shape))


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet5", dict()),
        ("cifar_resnet", RESNET),
        ("nin_cifar", dict(width=0.05)),
        ("squeezenet1_1", dict(width=0.1, input_shape=(64, 64, 3))),
        ("googlenet", dict(width=0.1, input_shape=(64, 64, 3))),
    ],
)
def test_layers_have_the_names_and_shapes_of_the_layer_table(name, fields):
    shape = fields.get("input_shape") or models.fields(name)["input_shape"]
    rows = layer_table(lambda: models.create(name, **fields), shape)
    found = introspection.output_shapes(network(name, **fields), shape)
    table = {row.name: row.output_shape for row in rows}
    assert [key for key in found if key in table] == list(table)
    assert {key: found[key] for key in table} == table
    assert set(found) - set(table) <= {name for name, _ in introspection.members(network(name, **fields))}


def test_blocks_that_are_one_array_have_names(monkeypatch):
    monkeypatch.setattr(resnet, "UNROLLED", 2)
    fields = RESNET | dict(depth=20)
    rows = layer_table(lambda: models.create("cifar_resnet", **fields), (16, 16, 3))
    found = introspection.output_shapes(network("cifar_resnet", **fields), (16, 16, 3))
    assert set(found) >= {row.name for row in rows} >= {"conv2_x/1/0/conv1", "conv2_x/1/1/conv1"}


def test_a_block_is_the_layer_with_its_activation():
    model = network("cifar_resnet", **RESNET)
    x = images((16, 16, 3))
    found = introspection.applied(model, introspection.outputs)(x)
    np.testing.assert_array_equal(found["activation1"], np.maximum(found["norm1"], 0))
    block = model.conv3_x[0]
    inner = np.asarray(found["conv3_x/0/norm2"])
    np.testing.assert_allclose(found["conv3_x/0"], np.maximum(inner + block.shortcut(found["conv2_x/0"]), 0), atol=1e-5)
    np.testing.assert_allclose(found["conv4_x/0"], model.features(x), atol=1e-5)
    np.testing.assert_allclose(found["head/classifier"], model(x), atol=1e-5)


def test_a_change_affects_later_layers_and_ends_with_its_block():
    model = network("lenet5", **LENET)
    x = images((14, 14, 1))
    kernel, bias = (np.asarray(v[...]) for v in (model.head.classifier.kernel, model.head.classifier.bias))

    def change(name, y):
        return jnp.ones_like(y) if name == "head/hidden/1" else y

    np.testing.assert_allclose(introspection.run(model, x, change), [kernel.sum(0) + bias] * 2, rtol=1e-5)
    assert not hooks.active()
    with hooks.intercept(lambda layer, x, y: -y), hooks.capture() as calls:
        changed = Pool("max", 2, 2)(x)
    np.testing.assert_array_equal(changed, -Pool("max", 2, 2)(x))
    np.testing.assert_array_equal(calls[0][2], changed)  # what `capture` collects


def test_a_missing_layer_or_one_without_maps_is_an_error():
    shapes = introspection.output_shapes(network("lenet5", **LENET), (14, 14, 1))
    introspection.check_maps("conv2", shapes)
    with pytest.raises(
        UserError, match=r"no layer 'conv3'; did you mean 'conv.*conv1, pool1, conv2/conv, conv2, pool2"
    ):
        introspection.check_maps("conv3", shapes)
    with pytest.raises(UserError, match=r"'head/classifier' has no maps, but 3 numbers for an image. Layers with maps"):
        introspection.check_maps("head/classifier", shapes)


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("lenet5", dict(), "conv2"),
        ("lenet5", dict(c5="conv", input_shape=(28, 28, 1)), "conv2"),  # there is one position after it
        ("cifar_resnet", RESNET, "conv4_x/0"),
        ("zfnet", dict(width=0.05, input_shape=(65, 65, 3)), "conv5"),
    ],
)
def test_grad_cam_takes_the_last_convolution_that_has_positions(name, fields, expected):
    model = network(name, **fields)
    shape = fields.get("input_shape") or models.fields(name)["input_shape"]
    assert introspection.last_maps(model, introspection.output_shapes(model, shape)) == expected


def test_a_network_of_linear_layers_has_no_maps():
    model = network("mlp", input_shape=(4, 4, 1), hidden_sizes=(5,))
    with pytest.raises(UserError, match="no maps"):
        introspection.last_maps(model, introspection.output_shapes(model, (4, 4, 1)))


# ---------------------------------------------------------------- class activation maps


@pytest.mark.parametrize("head", ["gap", "conv"])
def test_the_mean_of_a_class_activation_map_is_the_score_without_its_bias(head):
    model = network("cifar_resnet", **RESNET, head=head)
    x = images((16, 16, 3))
    maps = introspection.class_activation_maps(model, x)
    assert maps.shape == (2, 4, 4, 5) and maps.dtype == jnp.float32
    bias = np.asarray(model.head.classifier.bias[...]) if head == "gap" else 0
    np.testing.assert_allclose(maps.mean((1, 2)) + bias, model(x), atol=2e-5)
    if head == "gap":  # the definition
        weights = np.asarray(model.head.classifier.kernel[...])
        expected = np.asarray(model.features(x))[1, 2, 3] @ weights[:, 4]
        np.testing.assert_allclose(maps[1, 2, 3, 4], expected, rtol=1e-4)


def test_grad_cam_at_the_last_maps_is_the_class_activation_map():
    model = network("cifar_resnet", **RESNET)
    x = images((16, 16, 3))
    classes = jnp.array([[0, 3], [4, 1]])
    found = introspection.grad_cam(model, x, "conv4_x/0", classes)
    exact = np.asarray(introspection.class_activation_maps(model, x))
    expected = np.take_along_axis(exact, np.asarray(classes)[:, None, None], axis=-1)
    assert (expected < 0).any() and (expected > 0).any()
    np.testing.assert_allclose(found, np.maximum(expected, 0) / 16, rtol=1e-4, atol=1e-6)


def test_grad_cam_before_a_linear_layer_on_all_features():
    model = network("cifar_resnet", **RESNET, head="flatten")
    x = images((16, 16, 3))
    maps = np.asarray(model.features(x))
    kernel = np.asarray(model.head.classifier.kernel[...]).reshape(*maps.shape[1:], 5)
    found = introspection.grad_cam(model, x, "conv4_x/0", jnp.array([[2], [2]]))
    expected = np.maximum(maps @ kernel.mean((0, 1))[:, 2], 0)
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_at_a_convolution_takes_the_gradient_of_its_bias():
    model = network("lenet5", **LENET)
    x = images((14, 14, 1), 1)
    gradient = nnx.grad(lambda model: model(x)[0, 1])(model)
    weights = np.asarray(gradient.conv1.conv.bias[...]) / 14**2  # a bias is at all positions
    maps = np.asarray(model.conv1.conv(x))
    found = introspection.grad_cam(model, x, "conv1/conv", jnp.array([[1]]))
    assert found.max() > 0
    np.testing.assert_allclose(found[..., 0], np.maximum(maps @ weights, 0), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- deconvolution


def convolve(x, kernel, bias, pad):
    """Returns a convolution [H, W, C] -> [H', W', N], by its definition."""
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    size = kernel.shape[0]
    rows, columns = x.shape[0] - size + 1, x.shape[1] - size + 1
    y = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            y[i, j] = np.einsum("abc,abcn->n", x[i : i + size, j : j + size], kernel) + bias
    return y


def filter_transposed(signal, kernel, pad):
    """Returns the sum of each position's signal times the filter, placed where the filter saw the input."""
    size = kernel.shape[0]
    rows, columns, _ = signal.shape
    y = np.zeros((rows + size - 1, columns + size - 1, kernel.shape[2]))
    for i in range(rows):
        for j in range(columns):
            y[i : i + size, j : j + size] += kernel @ signal[i, j]
    return y[pad : y.shape[0] - pad, pad : y.shape[1] - pad]


def pool(x):
    """Returns the maxima of 2x2 windows and the switches, their positions."""
    rows, columns, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    y, switches = np.zeros((rows, columns, channels)), np.zeros((rows, columns, channels), int)
    for i in range(rows):
        for j in range(columns):
            window = x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(4, channels)
            y[i, j], switches[i, j] = window.max(0), window.argmax(0)
    return y, switches


def unpool(signal, switches, shape):
    y = np.zeros(shape)
    for i, j, c in np.ndindex(*signal.shape):
        a, b = divmod(switches[i, j, c], 2)
        y[2 * i + a, 2 * j + b, c] = signal[i, j, c]
    return y


@pytest.mark.parametrize("layer", ["conv1", "conv2", "pool2", "conv2/conv"])
def test_the_deconvolution_is_that_of_zeiler_and_fergus(layer):
    model = network("lenet5", **LENET)
    blocks = model.conv1, model.conv2
    (k1, b1), (k2, b2) = ((np.asarray(c.conv.kernel[...]), np.asarray(c.conv.bias[...])) for c in blocks)
    x = images((14, 14, 1), 1)
    first = np.maximum(convolve(np.asarray(x[0], np.float64), k1, b1, 2), 0)
    pooled, switches1 = pool(first)
    second = np.maximum(convolve(pooled, k2, b2, 0), 0)
    last, switches2 = pool(second)
    maps = {"conv1": first, "conv2": second, "conv2/conv": second, "pool2": last}[layer]
    value, place = introspection.strongest(model, x, layer)
    channel = int(np.argmax(value[0]))
    row, column = (int(i) for i in place[0, channel])
    np.testing.assert_allclose(value[0, channel], maps[..., channel].max(), rtol=1e-5)
    assert np.unravel_index(maps[..., channel].argmax(), maps.shape[:2]) == (row, column)

    signal = np.zeros_like(maps)
    signal[row, column, channel] = maps[row, column, channel]
    if layer == "pool2":
        signal = unpool(signal, switches2, second.shape)
    if layer != "conv1":
        signal = filter_transposed(np.maximum(signal, 0), k2, 0)
        assert signal.min() < 0
        signal = unpool(signal, switches1, first.shape)
    expected = filter_transposed(np.maximum(signal, 0), k1, 2)
    deconvolve = introspection.applied(model, lambda model, x, k, at: introspection.deconvolve(model, x, layer, k, at))
    found = deconvolve(x, jnp.array([channel]), place[:, channel])
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)

    if layer != "conv1":  # the gradient stops where the forward pass was not positive
        gradient = jax.grad(lambda x: introspection.outputs(model, x)[layer][0, row, column, channel])(x)
        assert not np.allclose(gradient[0] * maps[row, column, channel], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "fields", "layer"),
    [
        pytest.param(*("zfnet", dict(width=0.05, input_shape=(65, 65, 3)), "conv3"), marks=pytest.mark.slow),
        ("alexnet", dict(width=0.0625, input_shape=(67, 67, 3)), "conv3"),
        ("vgg11", dict(width=0.05, input_shape=(32, 32, 3)), "conv3_1"),
        ("nin_cifar", dict(width=0.05), "conv2_3"),
        ("cifar_resnet", RESNET, "conv3_x/0"),
        pytest.param(*("googlenet", dict(width=0.1, input_shape=(64, 64, 3)), "conv2"), marks=pytest.mark.slow),
    ],
)
def test_the_signal_lies_in_the_receptive_field_and_each_image_has_its_own(name, fields, layer):
    shape = fields.get("input_shape") or models.fields(name)["input_shape"]
    model = network(name, **fields)
    x = images(shape)
    field = introspection.seen_by(model, shape, layer)
    rows = {row.name: row for row in layer_table(lambda: models.create(name, **fields), shape)}
    if f"{layer}/conv" in rows:
        assert (field.size, field.jump) == (rows[f"{layer}/conv"].receptive_field, rows[f"{layer}/conv"].jump)
    deconvolve = introspection.applied(model, lambda model, x, k, at: introspection.deconvolve(model, x, layer, k, at))
    values, places = introspection.applied(model, lambda model, x: introspection.strongest(model, x, layer))(x)
    channels = np.asarray(values).argmax(1)
    assert np.asarray(values).max(1).min() > 0
    at = np.asarray(places)[np.arange(2), channels]
    found = np.asarray(deconvolve(x, channels, at))
    for i in range(2):
        alone = np.asarray(deconvolve(x[[i, i]], channels[[i, i]], at[[i, i]]))
        np.testing.assert_allclose(found[i], alone[1], rtol=1e-3, atol=1e-4 * np.abs(alone).max())
        outside = found[i].copy()
        assert np.abs(outside).max() > 0
        outside[introspection.patch(field, at[i], shape[:-1])] = 0
        assert not outside.any()


def test_the_deconvolution_with_overlapping_windows_equals_torch():
    torch = pytest.importorskip("torch")

    class Rectify(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, signal):
            return signal.clamp(min=0)

    model = network("zfnet", width=0.05, input_shape=(65, 65, 3), norm="none")
    x = images((65, 65, 3))
    pixels = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    y = pixels
    for name in ("conv1", "pool1", "conv2", "pool2", "conv3"):
        layer = getattr(model, name)
        if name.startswith("pool"):
            y = torch.nn.functional.max_pool2d(y, layer.kernel_size, layer.strides, layer.pads)
            continue
        kernel = torch.tensor(np.asarray(layer.conv.kernel[...]).transpose(3, 2, 0, 1).copy())
        bias = torch.tensor(np.array(layer.conv.bias[...]))
        y = Rectify.apply(torch.nn.functional.conv2d(y, kernel, bias, layer.conv.strides, layer.conv.pads))
    flat = y.detach().flatten(1)
    channels, rows, columns = (np.array(i) for i in np.unravel_index(flat.argmax(1).numpy(), y.shape[1:]))
    one_hot = torch.zeros_like(flat).scatter_(1, flat.argmax(1, keepdim=True), flat.max(1, keepdim=True).values)
    y.backward(one_hot.reshape(y.shape))
    deconvolve = introspection.applied(
        model, lambda model, x, k, at: introspection.deconvolve(model, x, "conv3", k, at)
    )
    found = deconvolve(x, channels, np.stack([rows, columns], axis=1))
    expected = pixels.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_local_response_normalization_lets_the_signal_pass():
    fields = dict(width=0.05, input_shape=(65, 65, 3))
    model, without = network("zfnet", **fields), network("zfnet", **fields, norm="none")
    x = images((65, 65, 3), 1)

    def deconvolved(model, layer):
        at = (jnp.array([1]), jnp.array([[3, 4]]))
        return introspection.applied(model, lambda model, x: introspection.deconvolve(model, x, layer, *at))(x)

    # norm1 follows pool1: the signal below it is the value's times that without it.
    kept = introspection.applied(model, introspection.outputs)(x)
    ratio = kept["norm1"][0, 3, 4, 1] / kept["pool1"][0, 3, 4, 1]
    expected = deconvolved(without, "pool1") * ratio
    assert 0 < float(ratio) < 1 and np.abs(expected).max() > 0
    np.testing.assert_allclose(deconvolved(model, "norm1"), expected, rtol=1e-4, atol=1e-7)


def test_other_activations_are_refused():
    model = network("lenet5", **LENET | dict(activation="tanh"))
    with pytest.raises(UserError, match="this network's activation is tanh: train one with"):
        introspection.deconvolve(model, images((14, 14, 1), 1), "conv2", jnp.array([0]), jnp.array([[0, 0]]))


# ---------------------------------------------------------------- parts of images


@given(st.integers(-30, 0), st.integers(1, 40), st.integers(0, 5), st.integers(0, 9), st.integers(1, 50))
def test_a_part_is_what_a_position_sees_moved_inside(low, length, jump, position, size):
    field = ReceptiveField((Seen(low, low + length - 1, jump),), (None,))
    (part,) = introspection.patch(field, (position,), (size,))
    assert 0 <= part.start < part.stop <= size and part.stop - part.start == min(length, size)
    first = low + position * jump
    if first >= 0 and first + length <= size:
        assert part.start == first
    else:  # the nearest position inside
        assert part.start == 0 or part.stop == size
