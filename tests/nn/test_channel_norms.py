"""Group and layer normalization, and weight standardization, as PyTorch computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax.analysis.layer_table import layer_table, totals
from cnn_jax.core.errors import UserError
from cnn_jax.models import create, resnet
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import Conv, GroupNorm, LayerNorm, groups_of, standardized
from small_models import SMALL, filled, forward

KEYS = InitKeys(jax.random.key(0))
LAYERS = {"group": lambda **options: GroupNorm(6, 3, **options), "layer": lambda **options: LayerNorm(6, **options)}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torchs(name, torch, layer):
    """Returns torch's function [B, ..., 6] -> the same shape with the parameters of a layer."""
    scale, bias = (torch.tensor(np.array(leaf[...])) for leaf in (layer.scale, layer.bias))
    if name == "layer":
        return lambda x: torch.nn.functional.layer_norm(x, (6,), scale, bias, layer.epsilon)
    return lambda x: torch.nn.functional.group_norm(x.movedim(-1, 1), 3, scale, bias, layer.epsilon).movedim(1, -1)


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (3, 4, 5, 6), (2, 3, 4, 2, 6)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_normalization_gives_the_values_and_gradients_of_torch(name, shape):
    torch = pytest.importorskip("torch")
    layer = LAYERS[name](epsilon=1e-3, rngs=KEYS)
    layer.scale[...], layer.bias[...] = jnp.asarray(noise(6, seed=1)), jnp.asarray(noise(6, seed=2))
    x, weights = 2 * noise(*shape) + 1, noise(*shape, seed=3)
    graphdef, state = nnx.split(layer)
    y, back = jax.vjp(lambda x: nnx.merge(graphdef, state)(x), jnp.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    theirs = torchs(name, torch, layer)(given)
    theirs.backward(torch.tensor(weights))
    np.testing.assert_allclose(y, theirs.detach(), atol=1e-5)
    np.testing.assert_allclose(back(jnp.asarray(weights))[0], given.grad, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_large_mean_costs_no_precision(name):
    x = noise(2, 8, 8, 6)
    layer = LAYERS[name](rngs=KEYS)
    np.testing.assert_allclose(layer(jnp.asarray(x + 1024)), layer(jnp.asarray(x)), atol=2e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_is_normalized_in_float32(name):
    layer = LAYERS[name](dtype=jnp.bfloat16, rngs=KEYS)
    layer.bias.set_value(jnp.full(6, 3.01))  # bfloat16 has 3.016
    x = jnp.asarray(noise(4, 16, 16, 6), jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        y = layer(x)
    assert y.dtype == jnp.bfloat16
    wide = LAYERS[name](rngs=KEYS)
    wide.bias.set_value(jnp.full(6, 3.01))
    np.testing.assert_array_equal(y, wide(x.astype(jnp.float32)).astype(jnp.bfloat16))


def test_groups_divide_the_channels_and_have_two_or_more():
    found = {channels: groups_of(channels, 32) for channels in (64, 2048, 48, 16, 24, 6, 7, 2, 1)}
    assert found == {64: 32, 2048: 32, 48: 24, 16: 8, 24: 12, 6: 3, 7: 1, 2: 1, 1: 1}
    assert groups_of(64, 5) == 4
    with pytest.raises(UserError, match="groups is 4, but must divide 6 channels"):
        GroupNorm(6, 4, rngs=KEYS)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (5, 2, 3), (1, 1, 64, 16)])
def test_standardized_kernels_are_those_of_timm(shape):
    torch = pytest.importorskip("torch")
    kernel = 0.05 * noise(*shape) + 0.1
    # timm's StdConv2d: a batch normalization of each output channel's weights.
    rows = torch.tensor(kernel.reshape(-1, shape[-1]).T[None].copy())
    theirs = torch.nn.functional.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)[0]
    ours = np.asarray(standardized(jnp.asarray(kernel))).reshape(-1, shape[-1]).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_convolution_computes_with_the_standardized_kernel():
    fields = dict(groups=2, init="he_fan_in", rngs=KEYS)
    layer, plain = Conv(4, 6, 3, 1, 1, standardize=True, **fields), Conv(4, 6, 3, 1, 1, **fields)
    plain.kernel.set_value(standardized(layer.kernel[...]))
    x = jnp.asarray(noise(2, 5, 5, 4))
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-6)
    assert not np.allclose(layer(x), 0.5 * plain(x), rtol=0.5)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_layer_tables_count_scales_and_offsets_and_no_statistics(norm):
    rows = layer_table(lambda: create("resnet50", norm=norm, weight_standardization=True), (224, 224, 3))
    sums = totals(rows, (224, 224, 3))
    # Those of BatchNorm (tests/models/test_models.py), whose scales and offsets are half of its 53,120 x 2 numbers.
    assert (sums.parameters, sums.norm_parameters, sums.norm_statistics) == (25_557_032, 53_120, 0)
    batch = totals(layer_table(lambda: create("resnet50"), (224, 224, 3)))
    assert (sums.receptive_field, sums.jump) == (batch.receptive_field, (32, 32))
    details = {row.detail for row in rows if row.kind == "norm"}
    assert details == {"32 groups" if norm == "group" else "layer"}


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_image_is_normalized_alone_in_training_too(norm):
    model = filled("cifar_resnet", **SMALL, norm=norm, weight_standardization=True)
    x = jnp.asarray(noise(4, 8, 8, 3))
    for use_running_average in (True, False):
        scores, statistics = forward(
            model, x, deterministic=True, use_running_average=use_running_average, raise_if_not_found=False
        )
        alone, _ = forward(model, x[:1], deterministic=True, raise_if_not_found=False)
        np.testing.assert_allclose(scores[:1], alone, rtol=1e-4, atol=1e-5)
        assert not jax.tree.leaves(statistics)


def test_torchvisions_resnet_with_group_norm_gives_the_same_scores():
    torch = pytest.importorskip("torch")
    from cnn_jax.pretrained import torchvision_weights
    from torchvision_models import import_models

    torch.manual_seed(0)
    source = import_models().resnet18(num_classes=10, norm_layer=lambda channels: torch.nn.GroupNorm(32, channels))
    with torch.no_grad():
        for layer in source.modules():
            if isinstance(layer, torch.nn.GroupNorm):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
    shapes = nnx.eval_shape(lambda: create("resnet18", num_classes=10, norm="group", input_shape=(64, 64, 3)))
    model = torchvision_weights.load(shapes, {name: value.numpy() for name, value in source.state_dict().items()})
    x = noise(2, 64, 64, 3)
    theirs = source.eval()(torch.tensor(x).permute(0, 3, 1, 2)).detach().numpy()
    ours, _ = forward(model, jnp.asarray(x), deterministic=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_standardization_without_a_normalization_is_an_error():
    with pytest.raises(UserError, match="weight_standardization is True, but norm is 'none'"):
        resnet.ResNet(norm="none", weight_standardization=True)
