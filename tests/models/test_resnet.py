"""Residual blocks: shortcuts, the plain twin, zero-gamma, and stages that are compiled as one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core import trees
from cnn_jax.models import resnet
from cnn_jax.nn.init import INITS, InitKeys
from small_models import EVAL, SMALL, TRAIN, abstract, filled, make_block, named, noise


def small(**fields):
    return models.create("cifar_resnet", **(SMALL | fields))


def blocks_of(model) -> list:
    return [block for name in model.order if name.endswith("_x") for block in getattr(model, name)]


@pytest.mark.parametrize("name", ["resnet20", "resnet34", "resnet50"])
def test_the_plain_twin_and_option_a_have_the_same_parameters(name):
    plain, option_a, option_b = (
        [(leaf_name, leaf.shape) for leaf_name, leaf in named(nnx.state(abstract(name, **fields)))]
        for fields in (dict(residual=False), dict(shortcut="A"), dict(shortcut="B"))
    )
    assert plain == option_a
    assert plain != option_b


def test_the_plain_twin_has_no_shortcut():
    # A block without the addition: relu(norm2(conv2(relu(norm1(conv1(x)))))).
    for residual in (True, False):
        block = nnx.view(filled("cifar_resnet", **SMALL, residual=residual, shortcut="B"), **EVAL).conv3_x[0]
        x = noise(2, 8, 8, 4)
        body = block.norm2(block.conv2(jax.nn.relu(block.norm1(block.conv1(x)))))
        if residual:
            body += block.shortcut_norm(block.shortcut_conv(x))
        else:
            assert block.shortcut_conv is None and block.shortcut_norm is None
        np.testing.assert_allclose(block(x), jax.nn.relu(body), atol=1e-6)


def test_option_c_projects_always_and_option_b_if_shapes_change():
    for option, projects in (
        ("A", [False] * 6),
        ("B", [False, False, True, False, True, False]),
        ("C", [True] * 6),
    ):
        model = abstract("cifar_resnet", **(SMALL | dict(depth=14)), shortcut=option)
        assert [block.shortcut_conv is not None for block in blocks_of(model)] == projects


def test_a_stride_alone_changes_the_shape_too():
    # In no network of the tables, but a block can be used on its own.
    for shortcut, projects in (("A", False), ("B", True)):
        block = nnx.eval_shape(lambda shortcut=shortcut: make_block(4, resnet.basic(4, 2), shortcut=shortcut))
        assert (block.shortcut_conv is not None) == projects


@pytest.mark.slow
def test_a_stage_compiled_as_one_block_computes_the_same(monkeypatch):
    def parts(unrolled):
        monkeypatch.setattr(resnet, "UNROLLED", unrolled)
        model = nnx.view(small(depth=20, shortcut="B"), **TRAIN)
        graphdef, params, stats = nnx.split(model, nnx.Param, ...)
        return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def unstacked(tree):
        """Names as if all blocks stood one by one."""
        named = trees.named_leaves(tree)
        repeated = {(name.split("/")[0], name.split("block/")[1]): x for name, x in named if "/1/block/" in name}
        return {name: x for name, x in named if "/1/block/" not in name} | {
            f"{stage}/{i}/{rest}": x[i - 1] for (stage, rest), x in repeated.items() for i in (1, 2)
        }

    def gradients(graphdef, params, stats):
        def loss(params, stats):
            merged = nnx.merge(graphdef, params, stats)
            y = merged(x)
            return (y**2).mean(), (y, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

        traced = jax.jit(jax.grad(loss, has_aux=True)).trace(params, stats)
        grads, (y, new_stats) = traced.lower().compile()(params, stats)
        return grads, y, new_stats, str(traced.jaxpr).count("scan[")

    x = noise(3, 8, 8, 3)
    graphdef, params, stats = parts(2)
    plain_graph, *like = parts(3)
    copies = [unstacked(params), unstacked(stats)]
    copies = [
        jax.tree.unflatten(jax.tree.structure(tree), [copy[name] for name, _ in trees.named_leaves(tree)])
        for tree, copy in zip(like, copies, strict=True)
    ]
    grads, y, new_stats, scans = gradients(graphdef, params, stats)
    plain_grads, plain_y, plain_stats, none = gradients(plain_graph, *copies)
    assert (scans, none) == (6, 0)  # three stages, forward and backward
    np.testing.assert_allclose(y, plain_y, rtol=1e-4, atol=1e-5)
    for repeated, plain in ((grads, plain_grads), (new_stats, plain_stats)):
        for name, value in unstacked(repeated).items():
            np.testing.assert_allclose(value, dict(trees.named_leaves(plain))[name], rtol=1e-3, atol=1e-5)


def test_repeated_blocks_have_their_own_initial_values(monkeypatch):
    monkeypatch.setattr(resnet, "UNROLLED", 2)
    kernels = small(depth=20).conv4_x[1].block.conv1.kernel[...]
    assert kernels.shape == (2, 3, 3, 16, 16) and not np.allclose(kernels[0], kernels[1])
    np.testing.assert_allclose(np.std(kernels, axis=(1, 2, 3, 4)), (2 / (9 * 16)) ** 0.5, rtol=0.1)


def test_repeated_blocks_have_their_own_rows_in_the_layer_table(monkeypatch):
    tables = []
    for unrolled in (2, 3):
        monkeypatch.setattr(resnet, "UNROLLED", unrolled)
        tables.append(layer_table(lambda: small(depth=20), (8, 8, 3)))
    repeated, plain = tables
    names = [row.name for row in repeated if row.name.startswith("conv3_x/1/")]
    assert names == [f"conv3_x/1/{i}/{layer}" for i in (0, 1) for layer in ("conv1", "norm1", "conv2", "norm2")]
    assert [replace(row, name="") for row in repeated] == [replace(row, name="") for row in plain]


@pytest.fixture
def quick_init(monkeypatch):
    """Kernels from numpy, for tests that build a network as it starts: jax compiles its own for each shape."""

    def normal(key, shape, dtype=jnp.float32, **_):
        return jnp.asarray(np.random.default_rng(0).normal(0, 0.3, shape), dtype)

    for name in ("he_fan_out", "normal_0.01"):
        monkeypatch.setitem(INITS, name, normal)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_zero_gamma_makes_each_block_the_relu_of_its_shortcut(shortcut, quick_init):
    blocks = {zero: blocks_of(nnx.view(small(shortcut=shortcut, zero_gamma=zero), **EVAL)) for zero in (True, False)}
    for zero, one in zip(blocks[True], blocks[False], strict=True):
        x = noise(2, 4, 4, zero.conv1.in_features)
        np.testing.assert_array_equal(zero(x), jax.nn.relu(zero.shortcut(x)))
        assert not np.allclose(one(x), jax.nn.relu(one.shortcut(x)))


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_zero_gamma_makes_a_bottleneck_the_relu_of_its_shortcut(shortcut, quick_init):
    plan = resnet.bottleneck(2, 2, variant="v1.5", groups=1, width_per_group=64, reduction=True)
    block = nnx.view(make_block(4, plan, shortcut=shortcut, zero_gamma=True), **EVAL)
    x = noise(2, 4, 4, 4)
    np.testing.assert_array_equal(block(x), jax.nn.relu(block.shortcut(x)))
    assert block(x).shape == (2, 2, 2, 8)


def test_zero_gamma_zeroes_the_last_scale_of_each_block_only(quick_init):
    model = small(zero_gamma=True, shortcut="B")
    zero = {name for name, scale in named(nnx.state(model, nnx.Param)) if "scale" in name and not np.any(scale)}
    assert zero == {f"conv{i}_x/0/norm2/scale" for i in (2, 3, 4)}


def test_option_a_subsamples_and_pads_with_zero_channels():
    block = nnx.view(filled("cifar_resnet", **SMALL, shortcut="A"), **EVAL).conv3_x[0]
    x = noise(2, 7, 6, 4)
    y = np.asarray(block.shortcut(x))
    assert y.shape == (2, 4, 3, 8) == block(x).shape
    np.testing.assert_array_equal(y[..., :4], x[:, [0, 2, 4, 6]][:, :, [0, 2, 4]])
    np.testing.assert_array_equal(y[..., 4:], 0)


def test_option_a_is_the_identity_if_shapes_agree():
    x = noise(2, 5, 5, 4)
    np.testing.assert_array_equal(filled("cifar_resnet", **SMALL, shortcut="A").conv2_x[0].shortcut(x), x)


def test_the_classifier_of_a_resnet_starts_small(monkeypatch):
    for name, value in (("glorot_normal", 3.0), ("normal_0.01", 7.0)):
        monkeypatch.setitem(INITS, name, lambda key, shape, dtype, value=value: jnp.full(shape, value, dtype))
    model = small(init="glorot_normal", shortcut="B", head="fc", fc_sizes=(8,))
    kernels = {name: set(np.unique(leaf)) for name, leaf in named(nnx.state(model)) if name.endswith("kernel")}
    assert kernels.pop("head/classifier/kernel") == {7.0}
    assert len(kernels) == 7 + 2 + 1
    assert all(values == {3.0} for values in kernels.values())


def test_squeeze_and_excitation_is_that_of_torchvision():
    torch = pytest.importorskip("torch")
    from torchvision_models import import_models

    import_models()
    from torchvision.ops import SqueezeExcitation

    torch.manual_seed(0)
    theirs = SqueezeExcitation(8, 2)
    ours = resnet.SqueezeExcitation(8, 4, init="he_fan_in", rngs=InitKeys(jax.random.key(0)))
    for layer, conv in ((ours.squeeze, theirs.fc1), (ours.excite, theirs.fc2)):
        layer.kernel.set_value(jnp.asarray(conv.weight.detach().numpy()[:, :, 0, 0].T))
        layer.bias.set_value(jnp.asarray(conv.bias.detach().numpy()))
    x = noise(3, 5, 4, 8)
    expected = theirs(torch.tensor(np.array(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours(x), x, atol=0.1)


def test_a_block_scales_its_residual_and_not_its_shortcut():
    plan = resnet.basic(4, 1)
    block = make_block(4, plan, gate=lambda channels: lambda y: 0 * y)
    x = noise(2, 4, 4, 4)
    np.testing.assert_array_equal(nnx.view(block, **EVAL)(x), jax.nn.relu(x))
