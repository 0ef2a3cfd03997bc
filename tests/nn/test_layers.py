import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.core.errors import UserError
from cnn_jax.nn import hooks, init, layers, network, pooling
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import BatchNorm, Conv, ConvBlock, Linear, LocalResponseNorm
from cnn_jax.nn.network import Head
from cnn_jax.nn.pooling import GlobalAveragePool, Pool
from cnn_jax.nn.windows import DoesNotFitError


def keys(seed: int = 0) -> InitKeys:
    return InitKeys(jax.random.key(seed))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------- convolution


def conv_by_loops(x, kernel, bias, stride, padding, dilation, groups):
    """The definition: every output is a sum over one window of the padded input, for two or any number of axes."""
    dims = x.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), *[(p, p) for p in padding], (0, 0)])
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[:dims], strict=True)]
    sizes = [(n - e) // s + 1 for n, e, s in zip(x.shape[1:-1], extent, stride, strict=True)]
    per_group_in, per_group_out = kernel.shape[-2], kernel.shape[-1] // groups
    y = np.zeros((x.shape[0], *sizes, kernel.shape[-1]))
    for position in itertools.product(*map(range, sizes)):
        for o in range(kernel.shape[-1]):
            first = o // per_group_out * per_group_in  # the input channels of the output channel's group
            for tap in itertools.product(*map(range, kernel.shape[:dims])):
                source = [p * s + t * d for p, s, t, d in zip(position, stride, tap, dilation, strict=True)]
                window = x[(slice(None), *source, slice(first, first + per_group_in))]
                y[(slice(None), *position, o)] += window @ kernel[(*tap, slice(None), o)]
    return y + bias


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    small = st.integers(1, 3 if dims < 3 else 2)

    def axes(values):
        return tuple(draw(values) for _ in range(dims))

    kernel, stride, dilation = axes(small), axes(st.integers(1, 3)), axes(st.integers(1, 2))
    padding = axes(st.integers(0, 2))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = tuple(max(1, e - 2 * p) + draw(st.integers(0, 3)) for e, p in zip(extent, padding, strict=True))
    groups = draw(st.integers(1, 3))
    channels_in, channels_out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    return sizes, channels_in, channels_out, kernel, stride, padding, dilation, groups, draw(st.booleans())


@given(convolutions())
def test_a_convolution_is_the_sum_over_windows(case):
    sizes, channels_in, channels_out, kernel, stride, padding, dilation, groups, bias = case
    fields = dict(dilation=dilation, groups=groups, bias=bias, init="he_fan_in")
    model = nnx.eval_shape(lambda: Conv(channels_in, channels_out, kernel, stride, padding, **fields, rngs=keys()))
    assert model.kernel.shape == (*kernel, channels_in // groups, channels_out)
    weights = noise(*model.kernel.shape, seed=1)
    offsets = noise(channels_out, seed=2) if bias else np.zeros(channels_out)
    model.kernel.set_value(jnp.asarray(weights))
    if bias:
        model.bias.set_value(jnp.asarray(offsets))
    else:
        assert model.bias is None
    x = noise(2, *sizes, channels_in)
    expected = conv_by_loops(x, weights, offsets, stride, padding, dilation, groups)
    y = model(jnp.asarray(x))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_one_number_is_used_for_two_axes():
    one = nnx.eval_shape(lambda: Conv(4, 6, 3, 2, 1, dilation=2, groups=2, init="he_fan_in", rngs=keys()))
    pair = dict(dilation=(2, 2), groups=2, init="he_fan_in")
    two = nnx.eval_shape(lambda: Conv(4, 6, (3, 3), (2, 2), (1, 1), **pair, rngs=keys()))
    assert one.kernel.shape == two.kernel.shape == (3, 3, 2, 6)
    for conv in (one, two):
        conv.kernel.set_value(jnp.ones((3, 3, 2, 6)))
        conv.bias.set_value(jnp.zeros(6))
        y = conv(jnp.ones((1, 9, 8, 4)))
        assert y.shape == (1, 4, 3, 6)  # (9 + 2 - 5) // 2 + 1, (8 + 2 - 5) // 2 + 1
        assert y[0, 1, 1, 0] == 9 * 2 and y[0, 0, 0, 0] == 4 * 2  # a corner loses a row and a column to the padding


def test_groups_that_do_not_divide_the_channels_are_an_error():
    for channels_in, channels_out in ((4, 6), (6, 4)):
        with pytest.raises(UserError, match="groups is 3, but must divide both"):
            Conv(channels_in, channels_out, 3, groups=3, init="he_fan_in", rngs=keys())


def test_a_kernel_larger_than_its_padded_input_is_an_error():
    conv = nnx.eval_shape(lambda: Conv(1, 1, 3, padding=1, dilation=3, init="he_fan_in", rngs=keys()))
    with pytest.raises(DoesNotFitError, match="kernel of 3 with padding 1 does not fit its 6x4") as error:
        conv(jnp.zeros((1, 6, 4, 1)))  # 4 + 2 < 3 * 2 + 1
    assert error.value.layer is conv
    with pytest.raises(DoesNotFitError, match="kernel of 2 with padding 0"):
        Pool("max", 2, 2)(jnp.zeros((1, 1, 4, 1)))


# ---------------------------------------------------------------- pooling


def pool_by_loops(x, function, kernel, stride):
    sizes = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], kernel, stride, strict=True)]
    y = np.zeros((x.shape[0], *sizes, x.shape[-1]))
    for i, j in itertools.product(*map(range, sizes)):
        rows, columns = slice(i * stride[0], i * stride[0] + kernel[0]), slice(j * stride[1], j * stride[1] + kernel[1])
        y[:, i, j] = function(x[:, rows, columns], axis=(1, 2))
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2), 0), (3, 3, 0)]
)
def test_pooling_takes_the_maximum_or_mean_of_each_window(kernel, stride, padding):
    x = -1 - np.abs(noise(2, 7, 8, 3))  # all below zero: a zero in the padding would be the maximum
    pair = [(value, value) if isinstance(value, int) else value for value in (kernel, stride)]
    pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    largest = pool_by_loops(np.pad(x, pads, constant_values=-np.inf), np.max, *pair)
    mean = pool_by_loops(np.pad(x, pads), np.mean, *pair)  # padding counts as zeros
    np.testing.assert_array_equal(Pool("max", kernel, stride, padding)(jnp.asarray(x)), largest)
    np.testing.assert_allclose(Pool("average", kernel, stride, padding)(jnp.asarray(x)), mean, atol=1e-5)


def test_averages_count_the_padding():
    y = Pool("average", 3, 2, 1)(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_allclose(y[0, :, :, 0], [[4 / 9, 6 / 9], [6 / 9, 1]], rtol=1e-6)


def test_ceil_averages_count_only_existing_values():
    x = np.arange(1.0, 7).reshape(1, 1, 6, 1) * np.ones((1, 6, 1, 1))
    y = Pool("average", 3, 2, ceil=True)(jnp.asarray(x))
    np.testing.assert_allclose(y[0, :, :, 0], [[2, 4, 5.5]] * 3, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 2, 0), ((2, 3), (3, 2), 1)])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_ceil_pooling_is_that_of_pytorch(kind, kernel, stride, padding):
    torch = pytest.importorskip("torch")
    pool = {"max": torch.nn.functional.max_pool2d, "average": torch.nn.functional.avg_pool2d}[kind]
    for height, width in ((6, 7), (8, 9), (11, 10)):
        x = noise(1, height, width, 2)
        theirs = pool(torch.tensor(x).permute(0, 3, 1, 2), kernel, stride, padding, ceil_mode=True)
        ours = Pool(kind, kernel, stride, padding, ceil=True)(jnp.asarray(x))
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-6)


def test_adaptive_pooling_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    for height, width in ((14, 9), (4, 6), (3, 1)):
        x = noise(1, height, width, 2)
        theirs = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x).permute(0, 3, 1, 2), 4)
        ours = pooling.AdaptiveAveragePool(4)(jnp.asarray(x))
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-6)


def test_the_convolutional_head_averages_activated_class_maps():
    head = network.Head((3, 2, 4), 5, kind="conv", init="he_fan_in", classifier_init="he_fan_in", rngs=keys())
    x = noise(2, 3, 2, 4)
    maps = np.maximum(x @ np.asarray(head.classifier.kernel[...])[0, 0], 0)
    np.testing.assert_allclose(head(jnp.asarray(x)), maps.mean((1, 2)), atol=1e-5)


def test_pooling_works_on_any_number_of_axes():
    x = noise(1, 4, 4, 4, 2)
    windows = x.reshape(1, 2, 2, 2, 2, 2, 2, 2)
    np.testing.assert_array_equal(Pool("max", (2, 2, 2), 2)(jnp.asarray(x)), windows.max((2, 4, 6)))
    np.testing.assert_array_equal(Pool("max", (2,), 2)(jnp.asarray(x[0, 0])), x[0, 0].reshape(4, 2, 2, 2).max(2))


def test_pooling_has_two_kinds():
    with pytest.raises(UserError, match="pool is 'mean'"):
        Pool("mean", 2, 2)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2), st.booleans())
def test_ceil_adds_the_windows_that_torch_adds(size, kernel, stride, padding, ceil):
    torch = pytest.importorskip("torch")
    padding = min(padding, kernel // 2)  # torch's limit
    size = max(size, kernel - 2 * padding)
    x = -1 - np.abs(noise(1, 1, size))
    expected = torch.nn.functional.max_pool1d(torch.from_numpy(x), kernel, stride, padding, ceil_mode=ceil)
    # The windows by NumPy: what is compared is the padding, and 300 shapes would take a minute to compile.
    pool = Pool("max", (kernel,), stride, padding, ceil=ceil)
    pads = pooling.ceil_padding([size], pool)[0] if ceil else (padding, padding)
    padded = np.pad(x[0, 0], pads, constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel)[::stride]
    np.testing.assert_array_equal(windows.max(1), expected[0, 0])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(6, 3, 2, 0), (7, 2, 2, 0), (8, 3, 2, 1), (5, 2, 3, 1)]
)
def test_pooling_with_ceil_gives_the_values_of_torch(size, kernel, stride, padding):
    torch = pytest.importorskip("torch")
    x = -1 - np.abs(noise(2, size, size + 1, 3))
    images = torch.from_numpy(x).permute(0, 3, 1, 2)
    expected = torch.nn.functional.max_pool2d(images, kernel, stride, padding, ceil_mode=True)
    y = Pool("max", kernel, stride, padding, ceil=True)(jnp.asarray(x))
    np.testing.assert_array_equal(y, expected.permute(0, 2, 3, 1))


def test_ceil_makes_a_window_of_the_remainder():
    x = jnp.arange(6.0).reshape(1, 1, 6, 1)
    assert Pool("max", (1, 3), (1, 2))(x).ravel().tolist() == [2, 4]
    assert Pool("max", (1, 3), (1, 2), ceil=True)(x).ravel().tolist() == [2, 4, 5]
    assert Pool("average", (1, 3), (1, 2), ceil=True)(x).ravel().tolist() == [1, 3, 4.5]  # of what is there


def test_a_pool_can_be_a_convolution():
    options = dict(init="glorot_uniform", rngs=keys())
    for kind in ("max", "average"):
        pool = pooling.make_pool(kind, 4, 3, 2, 1, ceil=True, **options)
        assert isinstance(pool, Pool)
        assert (pool.kind, pool.kernel_size, pool.strides, pool.pads) == (kind, (3, 3), (2, 2), (1, 1))
        assert pool.ceil
    assert not pooling.make_pool("max", 4, 3, 2, **options).ceil
    conv = pooling.make_pool("conv", 4, 3, 2, 1, **options)
    assert isinstance(conv, Conv)
    assert (conv.kernel.shape, conv.strides, conv.pads) == ((3, 3, 4, 4), (2, 2), (1, 1))
    for size, ceil in ((7, False), (8, False), (8, True), (9, True)):  # the sizes are those of the pool
        conv, pool = (pooling.make_pool(kind, 4, 3, 2, ceil=ceil, **options) for kind in ("conv", "max"))
        x = jnp.asarray(noise(1, size, size, 4))
        assert conv(x).shape == pool(x).shape == (1, *(-((3 - size) // 2) + 1 if ceil else (size - 3) // 2 + 1,) * 2, 4)
    with pytest.raises(UserError, match="pool is 'mean', but must be one of max, average, conv"):
        pooling.make_pool("mean", 4, 3, 2, **options)


def test_global_average_pooling_is_the_mean_over_positions():
    x = noise(2, 3, 5, 4)
    np.testing.assert_allclose(GlobalAveragePool()(jnp.asarray(x)), x.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(GlobalAveragePool()(jnp.asarray(x[..., None])), x.mean((1, 2, 3))[..., None], atol=1e-6)


def test_averages_are_summed_in_float32():
    x = jnp.full((1, 5, 5, 1), 257 / 256, jnp.bfloat16).at[0, 0, 0, 0].set(256)
    expected = jnp.bfloat16((256 + 24 * float(x[0, 1, 1, 0])) / 25)
    assert Pool("average", 5, 5)(x).astype(jnp.float32).item() == float(expected)


def test_global_average_pooling_sums_in_float32():
    # In bfloat16 a sum stops growing at 256: 256 + 1 is 256 again.
    y = GlobalAveragePool()(jnp.ones((1, 64, 64, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert y[0, 0] == 1


# ---------------------------------------------------------------- normalization


def test_batch_normalization_has_the_formula_of_the_paper():
    x, (scale, offset) = noise(4, 3, 2, 5) * 2 + 1, noise(2, 5)
    norm = BatchNorm(5, decay=0.75, epsilon=0.01, rngs=keys())
    norm.scale[...], norm.bias[...] = jnp.asarray(scale), jnp.asarray(offset)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = norm(jnp.asarray(x))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 0.01) * scale + offset, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.75 * 0 + 0.25 * mean, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.75 * 1 + 0.25 * variance, atol=1e-5)  # biased: divided by n

    running = nnx.view(norm, use_running_average=True)
    y = running(jnp.asarray(x))
    expected = (x - 0.25 * mean) / np.sqrt(0.75 + 0.25 * variance + 0.01) * scale + offset
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.25 * mean, atol=1e-6)  # unchanged


def test_batch_normalization_starts_as_asked():
    for zero, scale in ((False, 1), (True, 0)):
        norm = BatchNorm(3, zero_scale=zero, rngs=keys())
        for variable, value in ((norm.scale, scale), (norm.bias, 0), (norm.mean, 0), (norm.var, 1)):
            np.testing.assert_array_equal(variable[...], [value] * 3)


def lrn_by_loops(x, size, alpha, beta, k):
    """Krizhevsky et al. 2012, section 3.3: the sum runs over max(0, i - n/2) to min(N - 1, i + n/2)."""
    y = np.empty(x.shape)
    maps = x.shape[-1]
    for position in np.ndindex(x.shape[:-1]):
        for i in range(maps):
            total = 0.0
            for j in range(max(0, i - size // 2), min(maps - 1, i + size // 2) + 1):
                total += float(x[(*position, j)]) ** 2
            y[(*position, i)] = x[(*position, i)] / (k + alpha * total) ** beta
    return y


@pytest.mark.parametrize("constants", [{}, dict(size=3, alpha=0.5, beta=0.6, k=1.0), dict(size=1, alpha=0.1)])
@pytest.mark.parametrize("channels", [1, 2, 9])
def test_local_response_normalization_has_the_formula_of_the_paper(constants, channels):
    x = 30 * noise(2, 3, 2, channels)  # large, so that alpha counts
    expected = lrn_by_loops(x, **(dict(size=5, alpha=1e-4, beta=0.75, k=2.0) | constants))
    np.testing.assert_allclose(LocalResponseNorm(**constants)(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_form_for_tpus_sums_the_same_channels(size, dtype, error):
    x = jnp.square(noise(2, 3, 7))
    expected = layers.sum_of_neighbors(x, size)
    found = layers.sum_of_neighbors_by_product(x, size, dtype)
    assert found.dtype == expected.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=error)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization_is_torchs_with_another_alpha(size):
    torch = pytest.importorskip("torch")
    x = 10 * noise(2, 3, 4, 7)
    theirs = torch.nn.LocalResponseNorm(size, alpha=size * 0.01, beta=0.75, k=2.0)  # divides alpha by the size
    expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(LocalResponseNorm(size, alpha=0.01)(jnp.asarray(x)), expected, rtol=1e-5)


def test_local_response_normalization_computes_in_float32():
    x = jnp.asarray(30 * noise(2, 3, 2, 9), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        y = LocalResponseNorm()(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, LocalResponseNorm()(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_the_size_of_a_local_response_normalization_is_odd():
    for size in (4, 0, -1):
        with pytest.raises(UserError, match=f"normalization is {size}, but must be odd"):
            LocalResponseNorm(size)


def test_normalizations_by_name():
    assert layers.make_norm("none", 3, rngs=keys()) is None
    assert isinstance(layers.make_norm("lrn", 3, rngs=keys()), LocalResponseNorm)
    norm = layers.make_norm("batch", 3, decay=0.75, epsilon=0.01, rngs=keys())
    assert isinstance(norm, BatchNorm)
    assert (norm.scale.shape, norm.momentum, norm.epsilon) == ((3,), 0.75, 0.01)
    groups = layers.make_norm("group", 48, groups=32, zero_scale=True, rngs=keys())
    assert (groups.groups, groups.scale.shape, float(groups.scale[...].max())) == (24, (48,), 0)
    assert isinstance(layers.make_norm("layer", 3, rngs=keys()), layers.LayerNorm)
    with pytest.raises(UserError, match=r"norm is 'bach'.*did you mean 'batch'"):
        layers.make_norm("bach", 3, rngs=keys())


@pytest.mark.parametrize("norm", layers.NORMS)
def test_a_block_normalizes_before_or_after_the_activation(norm):
    block = ConvBlock(2, 4, 3, 2, 1, groups=2, norm=norm, activation="elu", init="he_fan_in", rngs=keys())
    assert (block.conv.strides, block.conv.pads, block.conv.kernel.shape) == ((2, 2), (1, 1), (3, 3, 1, 4))
    block.conv.bias[...] = jnp.asarray([0.5, -0.5, 1, -1])
    if norm == "batch":
        block.norm.mean[...] = jnp.asarray([0.5, -0.5, 0.25, 1.0])
        block.norm.bias[...] = jnp.asarray([-1.0, -0.5, 1.0, 0.5])
    model = nnx.view(block, use_running_average=True, raise_if_not_found=False)
    x = jnp.asarray(10 * noise(2, 5, 5, 2))
    y = model.conv(x)
    if norm in layers.BEFORE_ACTIVATION:
        y = jax.nn.elu(model.norm(y))
    elif norm == "lrn":
        y = LocalResponseNorm()(jax.nn.elu(y))
    else:
        y = jax.nn.elu(y)
    np.testing.assert_allclose(model(x), y, rtol=1e-6)


def test_the_convolution_of_a_block_can_do_without_a_bias():
    block = ConvBlock(2, 4, (3, 1), dilation=(2, 1), bias=False, norm="batch", init="he_fan_in", rngs=keys())
    assert block.conv.bias is None and block.conv.dilation == (2, 1)
    assert block(jnp.zeros((1, 5, 3, 2))).shape == (1, 1, 3, 4)


# ---------------------------------------------------------------- head


def head(in_shape, num_classes, **fields) -> Head:
    fields = dict(init="glorot_uniform", classifier_init="glorot_uniform") | fields
    return Head(in_shape, num_classes, **fields, rngs=keys())


def test_the_heads_have_their_layers():
    x = noise(2, 3, 4, 5)
    gap, flatten = head((3, 4, 5), 7, kind="gap"), head((3, 4, 5), 7, kind="flatten", fc_sizes=(9,))
    fc = head((3, 4, 5), 7, kind="fc", fc_sizes=(6, 8))
    assert gap.classifier.kernel.shape == (5, 7)
    assert flatten.classifier.kernel.shape == (60, 7) and not flatten.hidden
    assert [layer.kernel.shape for layer in fc.hidden] == [(60, 6), (6, 8)] and fc.classifier.kernel.shape == (8, 7)

    def linear(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    flat = x.reshape(2, 60)
    hidden = np.maximum(linear(fc.hidden[1], np.maximum(linear(fc.hidden[0], flat), 0)), 0)
    for model, expected in (
        (gap, linear(gap.classifier, x.mean((1, 2)))),
        (flatten, linear(flatten.classifier, flat)),
        (fc, linear(fc.classifier, hidden)),
    ):
        y = nnx.view(model, deterministic=True)(jnp.asarray(x))
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("in_shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_a_convolutional_head_averages_one_map_for_each_class(in_shape):
    model = head(in_shape, 7, kind="conv", fc_sizes=(9,), dropout=0.5)
    ones = (1,) * (len(in_shape) - 1)
    assert model.classifier.kernel.shape == (*ones, 5, 7) and not model.hidden
    model.classifier.bias[...] = jnp.linspace(-1, 1, 7)
    x = noise(2, *in_shape)
    maps = x @ np.asarray(model.classifier.kernel[...]).reshape(5, 7) + np.linspace(-1, 1, 7)
    expected = np.maximum(maps, 0).mean(tuple(range(1, x.ndim - 1)))  # the activation comes before the average
    y = nnx.view(model, deterministic=True)(jnp.asarray(x))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-5)
    with hooks.capture() as calls:
        model(jnp.asarray(x), rngs=jax.random.key(0))
    seen = np.asarray(calls[0][1])  # what the convolution sees: dropout of single features stands before it
    kept = seen != 0
    assert 0.3 < np.mean(kept) < 0.7
    np.testing.assert_allclose(seen[kept], 2 * x[kept], rtol=1e-5)


def test_the_classifier_has_its_own_initial_values():
    model = head((1000,), 100, kind="fc", fc_sizes=(100,), classifier_init="normal_0.01")
    assert float(jnp.std(model.classifier.kernel[...])) == pytest.approx(0.01, rel=0.05)
    assert float(jnp.std(model.hidden[0].kernel[...])) == pytest.approx(math.sqrt(2 / 1100), rel=0.05)
    for layer in (model.classifier, model.hidden[0]):
        np.testing.assert_array_equal(layer.bias[...], 0)


def test_dropout_zeroes_its_share_and_scales_the_rest():
    rate, size = 0.3, 200
    model = head((size,), size, kind="flatten", dropout=rate)
    model.classifier.kernel[...] = jnp.eye(size)  # shows what comes in
    x = np.abs(noise(200, size)) + 0.1
    np.testing.assert_allclose(nnx.view(model, deterministic=True)(jnp.asarray(x)), x, rtol=1e-6)

    y = np.asarray(model(jnp.asarray(x), rngs=jax.random.key(0)))
    kept = y != 0
    assert np.mean(~kept) == pytest.approx(rate, abs=0.01)  # of 40,000: the standard deviation is 0.0023
    np.testing.assert_allclose(y[kept], (x / (1 - rate))[kept], rtol=1e-5)
    np.testing.assert_array_equal(y, model(jnp.asarray(x), rngs=jax.random.key(0)))
    assert not np.array_equal(y, model(jnp.asarray(x), rngs=jax.random.key(1)))


def test_every_hidden_layer_has_its_own_dropout_after_its_activation():
    model = head((64,), 64, kind="fc", fc_sizes=(64, 64), dropout=0.5, activation="sigmoid")
    with hooks.capture() as calls:
        model(jnp.asarray(noise(32, 64)), rngs=jax.random.key(0))
    assert [layer for layer, _, _ in calls] == [*model.hidden, model.classifier]
    masks = []
    for (_, _, out), (_, after, _) in itertools.pairwise(calls):
        active, after = np.asarray(jax.nn.sigmoid(out)), np.asarray(after)
        masks.append(after != 0)
        assert np.mean(masks[-1]) == pytest.approx(0.5, abs=0.06)
        np.testing.assert_allclose(after[masks[-1]], 2 * active[masks[-1]], rtol=1e-5)
    assert np.mean(masks[0] == masks[1]) == pytest.approx(0.5, abs=0.06)  # independent


def test_dropout_in_training_needs_a_key():
    with pytest.raises(ValueError, match="rngs"):
        head((4,), 2, kind="flatten", dropout=0.5)(jnp.ones((1, 4)))
    head((4,), 2, kind="flatten", dropout=0.0)(jnp.ones((1, 4)))  # and none without dropout


# ---------------------------------------------------------------- keys and initial values


def test_keys_are_distinct_and_the_same_for_the_same_seed():
    def take(seed):
        source = keys(seed)
        return [tuple(np.asarray(jax.random.key_data(source.params()))) for _ in range(50)]

    assert take(0) == take(0)
    assert len(set(take(0) + take(1))) == 100


def test_layers_of_one_shape_get_different_parameters():
    model = head((8,), 8, kind="fc", fc_sizes=(8, 8, 8))
    kernels = [np.asarray(layer.kernel[...]) for layer in [*model.hidden, model.classifier]]
    for one, other in itertools.combinations(kernels, 2):
        assert not np.any(one == other)


SHAPE = (3, 3, 32, 64)  # fan-in 3*3*32 = 288, fan-out 3*3*64 = 576
# name -> (standard deviation, largest value or None)
INITS = {
    "he_fan_in": (math.sqrt(2 / 288), None),
    "he_fan_out": (math.sqrt(2 / 576), None),
    "glorot_normal": (math.sqrt(2 / (288 + 576)), None),
    "glorot_uniform": (math.sqrt(2 / (288 + 576)), math.sqrt(6 / (288 + 576))),
    "lecun_normal": (math.sqrt(1 / 288), None),
    "lecun_uniform_1998": (2.4 / 288 / math.sqrt(3), 2.4 / 288),
    "normal_0.01": (0.01, None),
}


def test_every_initializer_has_a_formula_here():
    assert set(INITS) == set(init.INITS)


@pytest.mark.parametrize("name", INITS)
def test_initial_values_have_the_spread_of_their_formula(name):
    deviation, largest = INITS[name]
    values = np.asarray(init.get_init(name)(jax.random.key(0), SHAPE, jnp.float32))
    assert values.shape == SHAPE
    assert np.std(values) == pytest.approx(deviation, rel=0.03)  # of 18,432: the standard error is 0.5%
    assert np.mean(values) == pytest.approx(0, abs=0.03 * deviation)
    if largest is None:
        assert np.max(np.abs(values)) > 3 * deviation  # a normal distribution, not cut off
    else:
        assert 0.99 * largest < np.max(np.abs(values)) <= largest


@pytest.mark.parametrize("layer", [Conv, Linear])
def test_layers_start_with_the_initializer_that_they_name(layer):
    model = layer(*((32, 64, 3) if layer is Conv else (288, 64)), init="lecun_uniform_1998", rngs=keys())
    assert 0.99 * 2.4 / 288 < float(jnp.max(jnp.abs(model.kernel[...]))) <= 2.4 / 288
    np.testing.assert_array_equal(model.bias[...], 0)


def test_unknown_names_are_errors_with_the_near_match():
    with pytest.raises(UserError, match="did you mean 'glorot_normal'"):
        init.get_init("glorot_norma")
    with pytest.raises(UserError, match="did you mean 'relu'"):
        init.get_activation("rleu")


def test_the_activations_are_their_formulas():
    x = np.linspace(-3, 3, 13, dtype=np.float32)
    for name, expected in (
        ("relu", np.maximum(x, 0)),
        ("sigmoid", 1 / (1 + np.exp(-x))),
        ("tanh", (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1)),
    ):
        np.testing.assert_allclose(init.get_activation(name)(jnp.asarray(x)), expected, atol=1e-6)


def test_a_width_rounds_channels_to_at_least_one():
    assert [init.scaled(64, width) for width in (1, 0.5, 2, 0.13, 0.001)] == [64, 32, 128, 8, 1]
    for width in (0, -1):
        with pytest.raises(UserError, match=f"width is {width}"):
            init.scaled(64, width)
    with pytest.raises(UserError, match="a layer would have 0 channels"):
        init.scaled(0, 1.0)


# ---------------------------------------------------------------- listening, shapes


class Small(nnx.Module):
    """conv1, pool, norm, conv2: enough to listen to."""

    def __init__(self):
        self.conv1 = Conv(2, 3, 3, init="glorot_uniform", rngs=keys())
        self.pool = Pool("max", 2, 2)
        self.norm = BatchNorm(3, rngs=keys())
        self.conv2 = Conv(3, 4, (2, 3), init="glorot_uniform", rngs=keys())

    def features(self, x):
        return self.conv2(self.norm(self.pool(self.conv1(x))))


def test_capture_collects_inputs_and_outputs_in_call_order():
    model, x = Small(), jnp.asarray(noise(2, 10, 12, 2))
    with hooks.capture() as calls:
        y = model.features(x)
    model.features(x)  # not heard
    assert [layer for layer, _, _ in calls] == [model.conv1, model.pool, model.norm, model.conv2]
    assert calls[0][1] is x and calls[-1][2] is y
    for (_, _, out), (_, following, _) in itertools.pairwise(calls):
        assert out is following
    assert [out.shape for _, _, out in calls] == [(2, 8, 10, 3), (2, 4, 5, 3), (2, 4, 5, 3), (2, 3, 3, 4)]


def test_capture_ends_after_an_exception_too():
    pool, x = Pool("max", 2, 2), jnp.zeros((1, 2, 2, 1))
    with pytest.raises(RuntimeError), hooks.capture() as calls:
        raise RuntimeError
    pool(x)
    assert calls == []


def test_the_shape_of_features_is_found_without_computing():
    model = nnx.eval_shape(Small)
    assert network.feature_shape(model, (10, 12, 2)) == (3, 3, 4)
    assert network.feature_shape(model, (7, 9, 2)) == (1, 1, 4)


def test_an_image_that_is_too_small_names_the_layer():
    model = nnx.eval_shape(Small)
    for shape, layer in (((2, 12, 2), "conv1"), ((3, 12, 2), "pool"), ((5, 12, 2), "conv2")):
        with pytest.raises(UserError) as error:
            network.feature_shape(model, shape)
        assert f"an image of {shape[0]}x12 is too small" in str(error.value)
        assert f"in layer '{layer}'" in str(error.value)


def test_a_nested_capture_ends_alone():
    pool, x = Pool("max", 2, 2), jnp.zeros((1, 2, 2, 1))
    with hooks.capture() as outer:
        with hooks.capture() as inner:
            pass
        pool(x)
    assert (len(outer), len(inner)) == (1, 0)
