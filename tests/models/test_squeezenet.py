"""SqueezeNet: the paper's Table 1, and bypasses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.models.squeezenet import FIRES, Fire
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import ConvBlock


def table(name: str, **fields) -> dict[str, LayerRow]:
    shape = fields.get("input_shape", (224, 224, 3))
    return {row.name: row for row in layer_table(lambda: models.create(name, **fields), shape)}


def filled(create, seed: int = 0):
    """Returns the network that `create` makes with numpy's random numbers."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if trees.path_name(path).removesuffix("/value").endswith("bias"):
            return jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), jnp.float32)

    graphdef, state = nnx.split(nnx.eval_shape(create))
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def block(*args, **options) -> ConvBlock:
    return ConvBlock(*args, **dict(init="he_fan_in", rngs=InitKeys(jax.random.key(0))) | options)


# ---------------------------------------------------------------- Table 1

FIRES_1_0 = {
    "fire2": (11_920, 34_338_816, (54, 54, 128)),
    "fire3": (12_432, 35_831_808, (54, 54, 128)),
    "fire4": (45_344, 131_383_296, (54, 54, 256)),
    "fire5": (49_440, 35_831_808, (27, 27, 256)),
    "fire6": (104_880, 76_142_592, (27, 27, 384)),
    "fire7": (111_024, 80_621_568, (27, 27, 384)),
    "fire8": (188_992, 137_355_264, (27, 27, 512)),
    "fire9": (197_184, 33_226_752, (13, 13, 512)),
}


def test_every_fire_module_has_the_papers_size():
    rows = table("squeezenet1_0")
    for name, (parameters, macs, shape) in FIRES_1_0.items():
        found = [row for row in rows.values() if row.name.startswith(f"{name}/")]
        assert [row.name.split("/")[1] for row in found] == ["squeeze", "expand1x1", "expand3x3"]
        assert (sum(row.parameters for row in found), sum(row.macs for row in found)) == (parameters, macs)
        assert (*found[1].output_shape[:-1], found[1].output_shape[-1] + found[2].output_shape[-1]) == shape
    assert (rows["conv1/conv"].output_shape, rows["conv1/conv"].parameters) == ((109, 109, 96), 14_208)
    pools = [(name, row.output_shape) for name, row in rows.items() if row.kind == "pool"]
    assert pools == [
        ("pool1", (54, 54, 96)),
        ("pool4", (27, 27, 256)),
        ("pool8", (13, 13, 512)),
        ("head/pool", (1000,)),
    ]
    assert (rows["head/classifier"].output_shape, rows["head/classifier"].parameters) == ((13, 13, 1000), 513_000)
    assert 224 * 224 * 3 + sum(row.outputs for row in rows.values()) == 5_050_864


def test_the_papers_images_of_227_give_the_papers_maps():
    rows = table("squeezenet1_0", input_shape=(227, 227, 3))
    assert [rows[name].output_shape[0] for name in ("conv1/conv", "pool1", "pool4", "pool8")] == [111, 55, 27, 13]
    assert sum(row.parameters for row in rows.values()) == 1_248_424


def test_version_1_1_pools_earlier():
    rows = table("squeezenet1_1")
    pools = [(name, row.output_shape) for name, row in rows.items() if row.kind == "pool"][:-1]
    assert pools == [("pool1", (55, 55, 64)), ("pool3", (27, 27, 128)), ("pool5", (13, 13, 256))]
    assert rows["conv1/conv"].detail == "3x3/2, pad 0"
    order = list(rows)
    for name in ("1", "3", "5"):
        before = order[order.index(f"pool{name}") - 1]
        assert before.startswith("conv1/" if name == "1" else f"fire{name}/")


def test_a_fire_module_of_the_lecture_has_its_counts():
    rows = layer_table(lambda: Fire(192, (16, 16, 16), block, reduction=True, bypass="none"), (28, 28, 192))
    assert sum(row.parameters for row in rows) == 5_632 + 48
    assert sum(row.macs for row in rows) == 4_415_488


# ---------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("bypass", "added", "projected"),
    [
        ("none", [], []),
        ("simple", ["fire3", "fire5", "fire7", "fire9"], []),
        ("complex", list(FIRES), ["fire2", "fire4", "fire6", "fire8"]),
    ],
)
def test_the_bypasses_are_the_papers(bypass, added, projected):
    model = nnx.eval_shape(lambda: models.create("squeezenet1_0", bypass=bypass))
    assert [name for name in FIRES if getattr(model, name).adds] == added
    assert [name for name in FIRES if getattr(model, name).projection is not None] == projected


@pytest.mark.parametrize(("bypass", "in_channels"), [("none", 5), ("simple", 5), ("simple", 4), ("complex", 5)])
def test_a_fire_module_concatenates_its_expansions_and_adds_its_input(bypass, in_channels):
    fire = filled(lambda: Fire(in_channels, (2, 2, 3), block, reduction=True, bypass=bypass))
    x = np.random.default_rng(1).normal(size=(1, 4, 5, in_channels)).astype(np.float32)

    def kernel(layer):
        return np.asarray(layer.conv.kernel[...]), np.asarray(layer.conv.bias[...])

    def pointwise(layer, x):
        weights, bias = kernel(layer)
        return x @ weights[0, 0] + bias

    squeezed = np.maximum(pointwise(fire.squeeze, x), 0)
    weights, bias = kernel(fire.expand3x3)
    padded = np.pad(squeezed, ((0, 0), (1, 1), (1, 1), (0, 0)))
    threes = sum(padded[:, i : i + 4, j : j + 5] @ weights[i, j] for i in range(3) for j in range(3)) + bias
    expected = np.concatenate([np.maximum(pointwise(fire.expand1x1, squeezed), 0), np.maximum(threes, 0)], -1)
    if bypass != "none" and in_channels == 5:  # the shapes agree
        expected = expected + x
    np.testing.assert_allclose(fire(jnp.asarray(x)), expected, atol=1e-5)
    assert fire.projection is None


def test_a_complex_bypass_projects_without_activation():
    fire = filled(lambda: Fire(4, (2, 2, 3), block, reduction=True, bypass="complex"))
    plain = filled(lambda: Fire(4, (2, 2, 3), block, reduction=True, bypass="complex"))
    plain.adds = False
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 5, 4)), jnp.float32)
    weights, bias = fire.projection.conv.kernel[...][0, 0], fire.projection.conv.bias[...]
    projected = np.asarray(x) @ np.asarray(weights) + np.asarray(bias)
    assert projected.min() < -0.1
    np.testing.assert_allclose(fire(x), plain(x) + projected, atol=1e-5)


def test_without_the_squeeze_the_input_itself_is_expanded():
    rows = table("squeezenet1_0", reduction=False)
    assert not [name for name in rows if "squeeze" in name]
    found = [row for row in rows.values() if row.name.startswith("fire2/")]
    assert sum(row.parameters for row in found) == 96 * 64 * (1 + 9) + 2 * 64


def test_the_last_convolution_has_its_own_start_and_dropout():
    model = nnx.eval_shape(lambda: models.create("squeezenet1_1"))
    assert model.head.dropout.rate == 0.5
    kernel = jax.jit(lambda: models.create("squeezenet1_1", width=0.25).head.classifier.kernel[...])()
    assert float(jnp.std(kernel)) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("name", "fields", "messages"),
    [
        ("squeezenet1_0", dict(version="1.2"), ["whose version is '1.0'", "for '1.2'"]),
        ("squeezenet1_0", dict(bypass="full"), ["bypass is 'full'", "none, simple, complex"]),
        ("squeezenet1_1", dict(norm="instance"), ["norm is 'instance'", "none, lrn, batch"]),
        ("squeezenet1_1", dict(pool="mean"), ["pool is 'mean'", "max, average, conv"]),
        ("squeezenet1_0", dict(input_shape=(28, 28, 3)), ["28x28", "too small", "'pool8'"]),
        ("squeezenet1_0", dict(input_shape=(6, 6, 3)), ["6x6", "'conv1/conv'", "kernel of 7"]),
        ("squeezenet1_0", dict(dropout=1.0), ["dropout is 1.0"]),
    ],
)
def test_an_impossible_network_is_a_users_error(name, fields, messages):
    with pytest.raises(UserError) as error:
        nnx.eval_shape(lambda: models.create(name, **fields))
    for message in messages:
        assert message in str(error.value)
