import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import torchvision_models
from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.nn import network
from cnn_jax.nn.init import INITS

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)
SMALL = dict(input_shape=(67, 67, 3), width=0.0625, num_classes=5)  # 6, 16, 24, 24, 16 maps, 256 units


def abstract(name="alexnet", **fields):
    return nnx.eval_shape(lambda: models.create(name, **fields))


def rows(name="alexnet", **fields):
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    return layer_table(lambda: models.create(name, **fields), shape)


def small(name="alexnet", seed=0, **fields):
    model = torchvision_models.random_weights(abstract(name, **(SMALL | fields)), seed)
    return nnx.view(model, **EVAL)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# ---------------------------------------------------------------- the tables


def shapes(found):
    """Returns the outputs of all layers but normalizations."""
    return [(row.name.removesuffix("/conv"), row.output_shape) for row in found if row.kind != "norm"]


def table(image, conv1, pool1, conv2, pool2, conv3, conv4, conv5, pool3, maps=(96, 256, 384, 384, 256)):
    sizes = dict(conv1=conv1, pool1=pool1, conv2=conv2, pool2=pool2, conv3=conv3, conv4=conv4, conv5=conv5, pool3=pool3)
    channels = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), maps, strict=True))
    channels |= dict(pool1=maps[0], pool2=maps[1], pool3=maps[4])
    head = [("head/hidden/0", (4096,)), ("head/hidden/1", (4096,)), ("head/classifier", (1000,))]
    return image, [(name, (size, size, channels[name])) for name, size in sizes.items()] + head


WIDE = (96, 256, 512, 1024, 512)
# (name, fields, image and shapes, elements of the input and of all outputs)
TABLES = [
    ("alexnet", dict(variant="grouped"), table(227, 55, 27, 27, 13, 13, 13, 13, 6), 936_323),
    ("alexnet", dict(variant="ungrouped"), table(227, 55, 27, 27, 13, 13, 13, 13, 6), 936_323),
    ("alexnet", dict(variant="ungrouped"), table(224, 54, 26, 26, 12, 12, 12, 12, 5), 868_328),  # rounded down
    ("alexnet", dict(variant="unpadded"), table(227, 55, 27, 23, 11, 9, 7, 5, 2), 747_907),
    (
        "alexnet",
        dict(variant="one_tower"),
        table(224, 55, 27, 27, 13, 13, 13, 13, 6, (64, 192, 384, 256, 256)),
        # 224*224*3, 64 maps on 55*55 + 27*27, 192 on 27*27 + 13*13, 384 + 256 + 256 on 13*13, 256 on 6*6, the head
        150_528 + 64 * 3_754 + 192 * 898 + 896 * 169 + 9_216 + 9_192,
    ),
    ("zfnet", {}, table(224, 110, 55, 26, 13, 13, 13, 13, 6), 2_010_312),
    ("zfnet", dict(variant="zfnet_wide"), table(224, 110, 55, 26, 13, 13, 13, 13, 6, WIDE), 2_192_584),
    ("zfnet", dict(variant="zfnet_unpadded"), table(227, 56, 27, 23, 11, 9, 7, 5, 2, WIDE), 807_715),
]


@pytest.mark.parametrize(("name", "fields", "expected", "elements"), TABLES)
def test_every_layer_has_the_size_of_the_papers_or_lectures_table(name, fields, expected, elements):
    image, outputs = expected
    found = rows(name, input_shape=(image, image, 3), **fields)
    assert shapes(found) == outputs
    assert image * image * 3 + sum(row.outputs for row in found if row.kind != "norm") == elements


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_windows_without_overlap_are_of_two_pixels_and_change_no_size(name):
    found = rows(name, overlapping=False)
    assert [row.detail for row in found if row.kind == "pool"] == ["max 2x2/2, pad 0"] * 3
    assert shapes(found) == shapes(rows(name))


def test_the_layers_of_the_ungrouped_net_have_the_lectures_parameters():
    found = {row.name: (row.parameters, row.macs) for row in rows(variant="ungrouped") if row.parameters}
    assert found == {
        "conv1/conv": (34_944, 105_415_200),
        "conv2/conv": (614_656, 447_897_600),
        "conv3/conv": (885_120, 149_520_384),
        "conv4/conv": (1_327_488, 224_280_576),
        "conv5/conv": (884_992, 149_520_384),
        "head/hidden/0": (37_752_832, 37_748_736),
        "head/hidden/1": (16_781_312, 16_777_216),
        "head/classifier": (4_097_000, 4_096_000),
    }


def test_the_groups_halve_conv2_conv4_and_conv5():
    found = {row.name: row.parameters for row in rows() if row.kind == "conv"}
    assert list(found.values()) == [34_944, 307_456, 885_120, 663_936, 442_624]
    ungrouped = [row.parameters for row in rows(groups=1) if row.kind == "conv"]
    assert ungrouped == [row.parameters for row in rows(variant="ungrouped") if row.kind == "conv"]
    four = [row.parameters for row in rows(variant="ungrouped", groups=4) if row.kind == "conv"]
    assert four == [34_944, 614_400 // 4 + 256, 885_120, 1_327_104 // 4 + 384, 884_736 // 4 + 256]


def test_zfnet_differs_from_alexnet_where_the_lectures_say():
    alexnet, zfnet = (
        {row.name: row.parameters for row in rows(variant=variant, input_shape=(227, 227, 3))}
        for variant in ("unpadded", "zfnet_unpadded")
    )
    differing = {name: zfnet[name] - alexnet[name] for name in alexnet if zfnet[name] != alexnet[name]}
    # ((11^2 - 7^2) * 3) * 96 fewer, then 9*256*128, 9*(512*1024 - 384*384), 9*(1024*512 - 384*256) weights, and biases;
    # the first linear layer sees 2x2 positions of 256 more maps.
    assert differing == {
        "conv1/conv": -20_736,
        "conv3/conv": 294_912 + 128,
        "conv4/conv": 3_391_488 + 640,
        "conv5/conv": 3_833_856 + 256,
        "head/hidden/0": 4_194_304,
    }


# ---------------------------------------------------------------- what it computes


def conv(x, layer, stride, padding, groups):
    """A convolution by its definition: [H, W, C], the output maps of a group see its input maps only."""
    kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::stride, ::stride]  # [H', W', C, k, k]
    parts = np.split(windows, groups, axis=2)
    kernels = np.split(kernel, groups, axis=3)
    return np.concatenate([np.einsum("hwcij,ijco->hwo", *pair) for pair in zip(parts, kernels, strict=True)], 2) + bias


def lrn(x):
    """Section 3.3: n = 5 maps, k = 2, alpha = 1e-4, beta = 0.75."""
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        near = x[..., max(0, i - 2) : i + 3]
        y[..., i] = x[..., i] / (2 + 1e-4 * np.sum(near**2, axis=-1)) ** 0.75
    return y


def pool(x, size=3, padding=0):
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))[::2, ::2].max((3, 4))


def linear(x, layer):
    return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])


def head(x, model):
    x = x.reshape(-1)
    for layer in model.head.hidden:
        x = np.maximum(linear(x, layer), 0)
    return linear(x, model.head.classifier)


def test_alexnet_is_the_papers_chain_of_layers():
    model, x = small(), 10 * noise(67, 67, 3)  # large values, so that the normalization shows
    y = pool(lrn(np.maximum(conv(x, model.conv1.conv, 4, 0, 1), 0)))
    y = pool(lrn(np.maximum(conv(y, model.conv2.conv, 1, 2, 2), 0)))
    y = np.maximum(conv(y, model.conv3.conv, 1, 1, 1), 0)
    y = np.maximum(conv(y, model.conv4.conv, 1, 1, 2), 0)
    y = pool(np.maximum(conv(y, model.conv5.conv, 1, 1, 2), 0))
    np.testing.assert_allclose(model.features(jnp.asarray(x[None]))[0], y, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(model(jnp.asarray(x[None]))[0], head(y, model), rtol=1e-3, atol=1e-3)


def test_zfnet_normalizes_after_the_pooling():
    model, x = small("zfnet", input_shape=(64, 64, 3)), 30 * noise(64, 64, 3)
    y = pool(np.maximum(conv(x, model.conv1.conv, 2, 1, 1), 0), padding=1)
    before = pool(lrn(np.maximum(conv(x, model.conv1.conv, 2, 1, 1), 0)), padding=1)
    assert np.max(np.abs(lrn(y) - before)) > 1e-2 * np.max(np.abs(before))  # the order matters here
    y = pool(np.maximum(conv(lrn(y), model.conv2.conv, 2, 0, 1), 0), padding=1)
    y = np.maximum(conv(lrn(y), model.conv3.conv, 1, 1, 1), 0)
    y = np.maximum(conv(y, model.conv4.conv, 1, 1, 1), 0)
    y = pool(np.maximum(conv(y, model.conv5.conv, 1, 1, 1), 0))
    np.testing.assert_allclose(model(jnp.asarray(x[None]))[0], head(y, model), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- fields


def kinds(**fields):
    """Returns the kinds of layers by name, in the order of the calls."""
    return [(row.name, row.detail.split()[0] if row.kind == "pool" else row.kind) for row in rows(**(SMALL | fields))]


def test_the_normalization_is_in_the_right_place():
    convolutions = [(f"conv{i}/conv", "conv") for i in range(1, 6)]

    def order(**fields):
        return [name for name, kind in kinds(**fields) if kind in ("conv", "norm", "max")]

    plain = ["conv1/conv", "pool1", "conv2/conv", "pool2", "conv3/conv", "conv4/conv", "conv5/conv", "pool3"]
    assert [entry for entry in kinds(norm="none") if entry[1] == "conv"] == convolutions
    assert order(norm="none") == plain
    before = ["conv1/conv", "norm1", "pool1", "conv2/conv", "norm2", "pool2", *plain[4:]]
    assert order() == before
    after = ["conv1/conv", "pool1", "norm1", "conv2/conv", "pool2", "norm2", *plain[4:]]
    assert order(lrn_after_pool=True) == after
    every = [name for name in order(norm="batch") if name.endswith("norm")]
    assert every == [f"conv{i}/norm" for i in range(1, 6)]
    assert order(norm="batch", lrn_after_pool=True) == order(norm="batch")


def test_pooling_can_average_or_be_a_convolution():
    assert [kind for name, kind in kinds(pool="average") if name.startswith("pool")] == ["average"] * 3
    found = [row for row in rows(pool="conv", **SMALL) if row.name.startswith("pool")]
    assert [(row.kind, row.detail, row.parameters) for row in found] == [
        ("conv", "3x3/2, pad 0", 9 * maps * maps + maps) for maps in (6, 16, 16)
    ]


@pytest.fixture
def sevens(monkeypatch):
    """The initializers give 7, in no time."""
    for init in INITS:
        value = 7.0 if init == "normal_0.01" else 8.0
        monkeypatch.setitem(INITS, init, lambda key, shape, dtype, value=value, **_: jnp.full(shape, value, dtype))


def initial_values(name="alexnet", **fields):
    """Returns {name: values without repetition} of all parameters."""
    model = models.create(name, **(SMALL | fields))
    state = trees.named_leaves(nnx.as_pure(nnx.state(model, nnx.Param)))
    return {name: np.unique(value).tolist() for name, value in state}


def test_the_initial_values_of_section_5(sevens):
    ones = {f"{name}/bias" for name in ("conv2/conv", "conv4/conv", "conv5/conv", "head/hidden/0", "head/hidden/1")}
    values = initial_values()
    assert len(values) == 16 and ones < set(values)
    for name, value in values.items():
        assert value == ([7.0] if name.endswith("kernel") else [float(name in ones)]), name
    half = initial_values(initial_bias=0.5)
    assert {name for name, value in half.items() if value == [0.5]} == ones
    assert {name: value for name, value in half.items() if name not in ones} == {
        name: value for name, value in values.items() if name not in ones
    }
    others = initial_values("zfnet", input_shape=(64, 64, 3), init="he_fan_in")
    assert {name.split("/")[-1]: value for name, value in others.items()} == {"kernel": [8.0], "bias": [0.0]}


def test_the_heads_and_their_sizes():
    def sizes(**fields):
        return [(row.name, row.parameters) for row in rows(**fields) if row.name.startswith("head")]

    assert sizes(head="gap") == [("head/pool", 0), ("head/classifier", 257_000)]
    assert sizes(head="flatten") == [("head/classifier", 9_217_000)]
    assert sizes(head="conv") == [("head/classifier", 257_000), ("head/pool", 0)]
    assert sizes(fc_sizes=(10,)) == [("head/hidden/0", 92_170), ("head/classifier", 11_000)]


def test_width_multiplies_maps_and_hidden_units():
    outputs = [row.output_shape[-1] for row in rows(width=0.5) if row.parameters]
    assert outputs == [48, 128, 192, 192, 128, 2048, 2048, 1000]


def test_activation_and_dropout_reach_every_layer():
    x = jnp.asarray(noise(1, 67, 67, 3))
    features = {activation: small(norm="none", activation=activation).features(x) for activation in ("relu", "tanh")}
    assert float(jnp.max(features["relu"])) > 1 >= float(jnp.max(features["tanh"]))
    model = small(dropout=0.25, activation="tanh")
    assert model.head.dropout.rate == 0.25
    assert all(getattr(model, f"conv{i}").activation is jnp.tanh for i in range(1, 6))
    assert model.head.activation is jnp.tanh
    with pytest.raises(ValueError, match="rngs"):
        nnx.view(model, deterministic=False)(x)
    logits = [nnx.view(model, deterministic=False)(x, rngs=jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def test_the_decay_of_the_running_averages_is_a_field():
    model = abstract(norm="batch", norm_decay=0.75, **SMALL)
    assert [getattr(model, f"conv{i}").norm.momentum for i in range(1, 6)] == [0.75] * 5


@pytest.mark.parametrize(
    ("name", "fields", "messages"),
    [
        ("alexnet", dict(variant="group"), ["variant is 'group'", "did you mean 'grouped'?", "one_tower"]),
        ("alexnet", dict(norm="instance"), ["norm is 'instance'", "none, lrn, batch"]),
        ("alexnet", dict(pool="mean"), ["pool is 'mean'", "max, average, conv"]),
        ("alexnet", dict(groups=-1), ["groups is -1", "at least 1"]),
        ("alexnet", dict(groups=5), ["groups is 5", "divide both"]),
        ("alexnet", dict(fc_sizes=(0,)), ["hidden sizes are (0,)", "above 0"]),
        ("alexnet", dict(input_shape=(66, 66, 3)), ["66x66", "too small", "'pool3'", "kernel of 3"]),
        ("alexnet", dict(input_shape=(10, 10, 3)), ["10x10", "too small", "'conv1/conv'", "kernel of 11"]),
        ("zfnet", dict(input_shape=(52, 52, 3)), ["52x52", "too small", "'pool3'"]),
    ],
)
def test_an_impossible_network_is_a_users_error(name, fields, messages):
    with pytest.raises(UserError) as error:
        abstract(name, **fields)
    for message in messages:
        assert message in str(error.value)


def test_the_smallest_images_leave_one_position():
    assert network.feature_shape(abstract(), (67, 67, 3)) == (1, 1, 256)
    assert network.feature_shape(abstract("zfnet"), (53, 53, 3)) == (1, 1, 256)
