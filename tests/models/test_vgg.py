import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import torchvision_models
from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.models.vgg import CONFIGURATIONS, one_kernel
from cnn_jax.nn import layers
from cnn_jax.nn.init import INITS

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)
SMALL = dict(input_shape=(32, 32, 3), width=0.0625, num_classes=5)  # 4, 8, 16, 32, 32 maps, 256 units


def abstract(name="vgg16", **fields):
    return nnx.eval_shape(lambda: models.create(name, **fields))


def rows(name="vgg16", **fields):
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    return layer_table(lambda: models.create(name, **fields), shape)


# ---------------------------------------------------------------- the table

# Table 1 of the paper, column by column: kernels of the blocks.
TABLE = {
    "vgg11": "3 | 3 | 3 3 | 3 3 | 3 3",
    "vgg11_lrn": "3 | 3 | 3 3 | 3 3 | 3 3",
    "vgg13": "3 3 | 3 3 | 3 3 | 3 3 | 3 3",
    "vgg16c": "3 3 | 3 3 | 3 3 1 | 3 3 1 | 3 3 1",
    "vgg16": "3 3 | 3 3 | 3 3 3 | 3 3 3 | 3 3 3",
    "vgg19": "3 3 | 3 3 | 3 3 3 3 | 3 3 3 3 | 3 3 3 3",
}


@pytest.mark.parametrize("name", TABLE)
def test_every_layer_is_that_of_the_papers_table(name):
    expected, size = [], 224
    for block, (kernels, maps) in enumerate(zip(TABLE[name].split(" | "), (64, 128, 256, 512, 512), strict=True), 1):
        for i, kernel in enumerate(kernels.split(), start=1):
            detail = {"3": "3x3/1, pad 1", "1": "1x1/1, pad 0"}[kernel]
            expected.append((f"conv{block}_{i}/conv", detail, (size, size, maps)))
        size //= 2
        expected.append((f"pool{block}", "max 2x2/2, pad 0", (size, size, maps)))
    expected += [("head/hidden/0", "", (4096,)), ("head/hidden/1", "", (4096,)), ("head/classifier", "", (1000,))]
    found = [(row.name, row.detail, row.output_shape) for row in rows(name) if row.kind != "norm"]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "fields", "elements"),
    [
        ("vgg11", {}, 9_116_136),
        ("vgg11", dict(head="gap"), 9_108_456),
        ("vgg11_lrn", {}, 9_116_136),
        ("vgg13", dict(head="gap"), 13_925_352),
        ("vgg16c", {}, 15_237_608),
        ("vgg16", {}, 15_237_608),
        ("vgg16", dict(norm="batch"), 15_237_608),
        ("vgg16", dict(head="gap"), 15_229_928),
        ("vgg19", {}, 16_542_184),
    ],
)
def test_the_activations_have_their_number_of_elements(name, fields, elements):
    assert 224 * 224 * 3 + sum(row.outputs for row in rows(name, **fields) if row.kind != "norm") == elements


def test_the_layers_of_vgg16_have_the_lectures_parameters():
    found = [row.parameters for row in rows() if row.parameters]
    assert found == [
        *(1_792, 36_928),
        *(73_856, 147_584),
        *(295_168, 590_080, 590_080),
        *(1_180_160, 2_359_808, 2_359_808),
        *(2_359_808, 2_359_808, 2_359_808),
        *(102_764_544, 16_781_312, 4_097_000),
    ]


# ---------------------------------------------------------------- the kernel plan


def receptive_field(kernels):
    return 1 + sum(kernel - 1 for kernel in kernels)


def test_one_kernel_has_the_receptive_field_of_its_stack():
    for kernels, expected in (
        ((3,), (3,)),
        ((3, 3), (5,)),
        ((3, 3, 3), (7,)),
        ((3, 3, 3, 3), (9,)),
        ((3, 3, 1), (5, 1)),
    ):
        assert one_kernel(kernels) == expected
        assert receptive_field(expected) == receptive_field(kernels)
    assert {kernels for blocks in CONFIGURATIONS.values() for kernels in blocks} == {
        *((3,), (3, 3), (3, 3, 3), (3, 3, 3, 3), (3, 3, 1))
    }


def test_single_kernels_make_b_the_shallow_net_of_section_4_1():
    found = [(row.name, row.detail, row.output_shape[0], row.parameters) for row in rows("vgg13", kernel_plan="single")]
    assert [entry for entry in found if entry[0].startswith("conv")] == [
        ("conv1_1/conv", "5x5/1, pad 2", 224, 25 * 3 * 64 + 64),
        ("conv2_1/conv", "5x5/1, pad 2", 112, 25 * 64 * 128 + 128),
        ("conv3_1/conv", "5x5/1, pad 2", 56, 25 * 128 * 256 + 256),
        ("conv4_1/conv", "5x5/1, pad 2", 28, 25 * 256 * 512 + 512),
        ("conv5_1/conv", "5x5/1, pad 2", 14, 25 * 512 * 512 + 512),
    ]
    assert sum(entry[3] for entry in found) == 10_860_672 + 123_642_856


def test_single_kernels_of_the_deeper_configurations():
    kernels = {name: [row.detail for row in rows(name, kernel_plan="single") if row.kind == "conv"] for name in TABLE}
    five, seven, nine = "5x5/1, pad 2", "7x7/1, pad 3", "9x9/1, pad 4"
    assert kernels["vgg11"] == ["3x3/1, pad 1"] * 2 + [five] * 3
    assert kernels["vgg16"] == [five] * 2 + [seven] * 3
    assert kernels["vgg16c"] == [five] * 2 + [five, "1x1/1, pad 0"] * 3
    assert kernels["vgg19"] == [five] * 2 + [nine] * 3


# ---------------------------------------------------------------- what it computes


def small(name="vgg16", **fields):
    model = torchvision_models.random_weights(abstract(name, **(SMALL | fields)))
    return nnx.view(model, **EVAL)


def test_a_lrn_normalizes_the_first_layer_only():
    normalized, plain = small("vgg11_lrn"), small("vgg11")  # the same weights
    x = jnp.asarray(20 * np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32))
    for name, fields in (("vgg11_lrn", {}), ("vgg16", dict(norm="lrn"))):
        assert [row.name for row in rows(name, **fields) if row.kind == "norm"] == ["conv1_1/norm"]
    y = layers.LocalResponseNorm()(plain.conv1_1(x))
    for name in plain.order[1:]:
        y = getattr(plain, name)(y)
    np.testing.assert_allclose(normalized.features(x), y, rtol=1e-5)
    assert not np.allclose(plain.features(x), y, rtol=1e-2)


# ---------------------------------------------------------------- fields


def test_batch_normalization_follows_every_convolution():
    found = [row.name for row in rows("vgg13", norm="batch", **SMALL) if row.kind in ("conv", "norm")]
    assert found[::2] == [f"conv{b}_{i}/conv" for b in range(1, 6) for i in (1, 2)]
    assert found[1::2] == [f"conv{b}_{i}/norm" for b in range(1, 6) for i in (1, 2)]
    model = abstract("vgg13", norm="batch", norm_decay=0.75, **SMALL)
    assert model.conv5_2.norm.momentum == 0.75


def test_pooling_can_average_or_be_a_convolution():
    details = [row.detail for row in rows(pool="average", **SMALL) if row.kind == "pool"]
    assert details == ["average 2x2/2, pad 0"] * 5
    found = [row for row in rows(pool="conv", **SMALL) if row.name.startswith("pool")]
    assert [row.parameters for row in found] == [4 * maps * maps + maps for maps in (4, 8, 16, 32, 32)]
    assert [row.output_shape[0] for row in found] == [16, 8, 4, 2, 1]


def test_heads_width_and_hidden_sizes():
    def sizes(**fields):
        return [row.parameters for row in rows(**fields) if row.name.startswith("head") and row.parameters]

    assert sum(sizes()) == 123_642_856
    assert sizes(head="gap") == sizes(head="conv") == [513_000]
    assert sizes(head="flatten") == [25_088_000 + 1000]
    assert sizes(head="gap", width=0.5) == [257_000]
    assert sizes(fc_sizes=(10,)) == [250_890, 11_000]
    outputs = [row.output_shape[-1] for row in rows("vgg11", width=0.5) if row.parameters]
    assert outputs == [32, 64, 128, 128, 256, 256, 256, 256, 2048, 2048, 1000]


def test_activation_and_dropout():
    model = small("vgg11", activation="tanh", dropout=0.25)
    assert model.head.dropout.rate == 0.25 and models.fields("vgg11")["dropout"] == 0.5
    assert model.conv5_2.activation is jnp.tanh and model.head.activation is jnp.tanh


def test_the_kernels_start_as_the_field_says_and_the_biases_at_zero(monkeypatch):
    for init in INITS:
        value = 7.0 if init == "glorot_uniform" else 8.0
        monkeypatch.setitem(INITS, init, lambda key, shape, dtype, value=value, **_: jnp.full(shape, value, dtype))
    for fields, value in (({}, 7.0), (dict(init="he_fan_in"), 8.0)):
        state = nnx.as_pure(nnx.state(models.create("vgg11", **SMALL, **fields), nnx.Param))
        found = [(name.split("/")[-1], np.unique(leaf).tolist()) for name, leaf in trees.named_leaves(state)]
        assert sorted(found) == [("bias", [0.0])] * 11 + [("kernel", [value])] * 11


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        (dict(configuration="F"), ["whose configuration is", "for 'F'"]),
        (dict(kernel_plan="stack"), ["kernel_plan is 'stack'", "did you mean 'stacked'?"]),
        (dict(norm="btach"), ["norm is 'btach'", "did you mean 'batch'?"]),
        (dict(pool="mean"), ["pool is 'mean'", "max, average, conv"]),
        (dict(head="fcc"), ["head is 'fcc'", "did you mean 'fc'?"]),
        (dict(input_shape=(31, 40, 3)), ["31x40", "too small", "'pool5'", "kernel of 2"]),
    ],
)
def test_an_impossible_network_is_a_users_error(fields, messages):
    with pytest.raises(UserError) as error:
        abstract(**fields)
    for message in messages:
        assert message in str(error.value)
