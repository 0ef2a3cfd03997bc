"""The fields that families share: each has its documented effect, checked by numbers counted here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.core.errors import UserError
from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import ConvBlock
from cnn_jax.nn.network import Head, Network
from cnn_jax.nn.windows import kernel_plan


def table(name, **fields):
    """Returns the layers of a network by name."""
    shape = fields.get("input_shape") or models.fields(name)["input_shape"]
    return {row.name: row for row in layer_table(lambda: models.create(name, **fields), shape)}


def conv_weights(rows):
    return sum(row.parameters - row.biases for row in rows.values() if row.kind == "conv")


class Stack(Network):
    """The place of one convolution."""

    def __init__(self, plan, kernel, stride, padding, size):
        super().__init__((size, size, 2))
        keys = InitKeys(jax.random.key(0))
        for i, window in enumerate(kernel_plan(plan, kernel, stride, padding), start=1):
            self.append(f"conv_{i}", ConvBlock(2, 2, *window, activation="linear", init="he_fan_in", rngs=keys))
        self.append_head(2, kind="flatten", init="he_fan_in", classifier_init="he_fan_in", rngs=keys)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(5, 1, 2), (5, 1, 0), (7, 1, 3), (7, 2, 3), (7, 2, 1), (11, 4, 0), (3, 1, 1)]
)
def test_stacked_3x3_have_the_field_and_size_of_a_larger_kernel(kernel, stride, padding):
    rows = {}
    for plan in ("single", "stacked"):
        one = layer_table(lambda plan=plan: Stack(plan, kernel, stride, padding, 23), (23, 23, 2))
        rows[plan] = [row for row in one if row.kind == "conv"]
    (single,), stacked = rows["single"], rows["stacked"]
    assert len(stacked) == (kernel - 1) // 2
    assert {row.detail.split("/")[0] for row in stacked} == {"3x3"}
    assert stacked[-1].output_shape == single.output_shape
    assert (stacked[-1].receptive_field, stacked[-1].jump) == (single.receptive_field, single.jump)


def test_a_kernel_without_a_stacked_form_is_an_error():
    with pytest.raises(UserError, match=r"7x7 convolution with padding 4.*at most 3"):
        kernel_plan("stacked", 7, 2, 4)
    with pytest.raises(UserError, match=r"4x4 convolution.*must be odd"):
        kernel_plan("stacked", 4)
    with pytest.raises(UserError, match=r"kernel_plan is 'stack'.*'stacked'"):
        kernel_plan("stack", 5)


# (reduced maps, maps) of the 5x5 convolutions of GoogLeNet's Table 1.
GOOGLENET = ((16, 32), (32, 96), (16, 48), (24, 64), (24, 64), (32, 64), (32, 128), (32, 128), (48, 128))


@pytest.mark.parametrize(
    ("name", "fields", "weights"),
    [
        # Of each 5x5 with C maps in and K out: 25CK become 9CK + 9KK.
        ("lenet5", {}, [(25, 1, 6), (25, 6, 16)]),
        ("alexnet", dict(variant="ungrouped"), [(25, 96, 256)]),
        ("alexnet", {}, [(25, 48, 256)]),  # two groups: a map sees half
        ("googlenet", {}, [(25, n, k) for n, k in GOOGLENET]),
    ],
)
def test_two_3x3_replace_each_5x5(name, fields, weights):
    single, stacked = (table(name, **fields, kernel_plan=plan) for plan in ("single", "stacked"))
    groups = 2 if name == "alexnet" and not fields else 1
    saved = sum(area * n * k - 9 * n * k - 9 * k * k // groups for area, n, k in weights)
    single, stacked = (  # the stem of GoogLeNet is a 7x7
        {path: row for path, row in rows.items() if name != "googlenet" or not path.startswith("conv1")}
        for rows in (single, stacked)
    )
    assert conv_weights(single) - conv_weights(stacked) == saved
    assert len(stacked) - len(single) == len(weights)
    last = [next(row for row in reversed(rows.values()) if row.kind == "conv") for rows in (single, stacked)]
    assert last[0].receptive_field == last[1].receptive_field and last[0].output_shape == last[1].output_shape


@pytest.mark.parametrize(
    ("name", "pools", "fields"),
    [
        ("alexnet", 3, {}),
        ("vgg11", 5, {}),
        ("nin", 3, {}),
        ("nin_cifar", 2, {}),
        ("googlenet", 4, {}),
        ("squeezenet1_1", 3, {}),
        ("resnet18", 1, {}),
        ("lenet5", 2, {}),
        ("toy", 1, {}),
        ("conv1d", 3, {}),
        ("c3d", 5, dict(width=1 / 16)),
        ("flattened", 3, {}),
    ],
)
def test_every_pool_can_be_an_average_or_a_strided_convolution(name, pools, fields):
    rows = {kind: table(name, **fields, pool=kind) for kind in ("max", "average", "conv")}

    def found(kind, text):
        chosen = (row for path, row in rows[kind].items() if path.startswith("pool"))
        return sum(text in f"{row.kind} {row.detail}" for row in chosen)

    assert found("max", "pool max") == found("average", "pool average") == found("conv", "conv ") == pools
    shapes = [[row.output_shape for path, row in one.items() if path.startswith("pool")] for one in rows.values()]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("name", ["alexnet", "nin", "googlenet", "squeezenet1_0", "resnet50"])
def test_pools_that_do_not_overlap_have_windows_as_large_as_their_stride(name):
    pools = [row for path, row in table(name, overlapping=False).items() if path.startswith("pool")]
    assert pools and all("2x2/2" in row.detail for row in pools)
    shapes = [row.output_shape[0] for row in pools]
    with_overlap = [row.output_shape[0] for path, row in table(name).items() if path.startswith("pool")]
    assert all(abs(one - other) <= 1 for one, other in zip(shapes, with_overlap, strict=True))


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "vgg11", "nin_cifar", "googlenet", "squeezenet1_1", "resnet20"])
@pytest.mark.parametrize("norm", ["none", "lrn", "batch", "group", "layer"])
def test_normalization_is_a_choice_in_every_family(name, norm):
    if (name, norm) == ("resnet20", "lrn"):
        return  # an error
    rows = table(name, norm=norm)
    norms = [row for row in rows.values() if row.kind == "norm"]
    assert bool(norms) == (norm != "none")
    assert all(("local response" in row.detail) == (norm == "lrn") for row in norms)
    assert bool(sum(row.statistics for row in norms)) == (norm == "batch")
    # A network without BatchNorm has biases in all its convolutions.
    biased = [row.biases == row.output_shape[-1] for row in rows.values() if row.kind == "conv"]
    assert all(biased) or norm not in ("none", "lrn")


def test_a_bottleneck_without_reduction_has_its_3x3_on_all_channels():
    # Each of the 16 blocks: 1x1 C -> n and 3x3 n -> n become one 3x3 C -> n.
    reduced, full = (table("resnet50", reduction=reduction) for reduction in (True, False))
    saved, before = 0, 64
    for n, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            saved += 9 * before * n - (before * n + 9 * n * n)
            before = 4 * n
    assert conv_weights(full) - conv_weights(reduced) == saved
    assert full["conv5_x/2/conv2"].output_shape == reduced["conv5_x/2/conv3"].output_shape == (7, 7, 2048)


@pytest.mark.parametrize(("name", "before"), [("resnet50", 3), ("googlenet", 3), ("zfnet", 3)])
def test_three_3x3_replace_a_7x7(name, before):
    single, stacked = (table(name, kernel_plan=plan) for plan in ("single", "stacked"))
    leaf = "" if name == "resnet50" else "/conv"
    one, rows = single[f"conv1{leaf}"], [stacked[f"conv1_{i}{leaf}"] for i in (1, 2, 3)]
    maps = one.output_shape[-1]
    assert sum(row.parameters - row.biases for row in rows) == 9 * before * maps + 2 * 9 * maps * maps
    assert (rows[-1].output_shape, rows[-1].receptive_field) == (one.output_shape, (7, 7))


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "nin_cifar", "mlp"])
def test_width_multiplies_hidden_units_too(name):
    hidden = dict(hidden_sizes=(40,)) if name == "mlp" else dict(head="fc", fc_sizes=(40,))
    shape = dict(input_shape=(64, 64, 3)) if name == "resnet18" else {}
    model = nnx.eval_shape(lambda: models.create(name, **hidden, **shape, width=0.5))
    assert model.head.hidden[0].bias.shape == (20,)


def test_the_activation_of_a_residual_network_is_a_choice():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    fields = dict(depth=8, width=0.25, input_shape=(8, 8, 3), norm="none", activation="linear", residual=False)
    model = nnx.view(models.create("cifar_resnet", **fields), deterministic=True)
    zero, y, double = (model.features(a * x) for a in (0, 1, 2))  # biases start at 0: all is linear
    np.testing.assert_array_equal(zero, 0)
    np.testing.assert_allclose(double, 2 * y, rtol=1e-4, atol=1e-6)
    assert float(jnp.min(y)) < 0


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet18", dict(reduction=False), "reduction False, but a network of depth 18 has basic blocks"),
        ("resnet20", dict(kernel_plan="stacked"), "small images begins with one 3x3 convolution"),
        ("resnet20", dict(pool="average"), "has no pool"),
        ("resnet50", dict(norm="none", zero_gamma=True), "zero_gamma is True.*norm is 'none'"),
        ("resnet50", dict(kernel_plan="double"), "kernel_plan is 'double'"),
        ("resnet50", dict(norm="lrn"), "norm is 'lrn'"),
        ("resnet20", dict(residual=False, stochastic_depth=0.5), "stochastic_depth is 0.5, but residual is False"),
        ("resnet20", dict(stochastic_depth=1.0), "stochastic_depth is 1.0, but must be in"),
        ("resnet20", dict(squeeze_excitation=-1), "squeeze_excitation is -1, but must be 0 for none"),
        ("resnet50", dict(variant="v1", reduction=False), "stride in the reduction"),
        ("mlp", dict(hidden_sizes=(), dropout=0.5), r"hidden_sizes is \(\): use dropout=0"),
        ("toy", dict(kernel=0), "kernel is \\(0, 0\\), but must be at least 1"),
        ("toy", dict(pool_stride=0), "stride is 0"),
        ("googlenet", dict(variant="torchvision", kernel_plan="stacked"), "has no 5x5 to replace"),
        ("lenet5", dict(kernel_plan="stacked", padding=3), "padding at most 2"),
        ("lenet5_1998", dict(norm="batch"), "connections is 'table'.*norm is 'batch'"),
        ("lenet5_1998", dict(kernel_plan="stacked"), "connections is 'table'.*'stacked'"),
        ("alexnet", dict(kernel_plan="double"), "kernel_plan is 'double'"),
        ("resnet20", dict(activation="rellu"), "did you mean 'relu'"),
    ],
)
def test_fields_that_exclude_one_another_are_an_error(name, fields, message):
    with pytest.raises(UserError, match=message):
        nnx.eval_shape(lambda: models.create(name, **fields))


# ---------------------------------------------------------------- larger images


@pytest.mark.parametrize("kind", ["fc", "flatten", "gap", "conv"])
def test_a_head_scores_every_position_of_a_larger_map_and_averages(kind):
    options = dict(kind=kind, fc_sizes=(6,), init="he_fan_in", classifier_init="he_fan_in")
    head = nnx.view(Head((3, 2, 4), 5, **options, rngs=InitKeys(jax.random.key(0))), deterministic=True)
    x = jax.random.normal(jax.random.key(1), (2, 5, 3, 4))
    windows = [head(x[:, i : i + 3, j : j + 2]) for i in range(3) for j in range(2)]
    if kind in ("fc", "flatten"):
        np.testing.assert_allclose(head(x), np.mean(windows, axis=0), rtol=1e-5, atol=1e-6)
    else:  # the mean over the whole map
        wide = nnx.view(Head((5, 3, 4), 5, **options, rngs=InitKeys(jax.random.key(0))), deterministic=True)
        np.testing.assert_allclose(head(x), wide(x), rtol=1e-5, atol=1e-6)


def test_the_linear_layers_of_a_larger_image_are_convolutions():
    torch = pytest.importorskip("torch")
    model = models.create("vgg11", num_classes=5, input_shape=(64, 64, 3), width=0.05, fc_sizes=(16, 8))
    model = nnx.view(model, deterministic=True)
    x = jax.random.normal(jax.random.key(1), (2, 128, 96, 3))
    maps = torch.from_numpy(np.array(model.features(x))).permute(0, 3, 1, 2)
    assert maps.shape[2:] == (4, 3)
    for i, layer in enumerate((*model.head.hidden, model.head.classifier)):
        kernel = np.array(layer.kernel[...]).reshape(*((2, 2) if i == 0 else (1, 1)), -1, layer.out_features)
        kernel = torch.from_numpy(kernel).permute(3, 2, 0, 1)
        maps = torch.nn.functional.conv2d(maps, kernel, torch.from_numpy(np.array(layer.bias[...])))
        maps = maps if layer is model.head.classifier else torch.relu(maps)
    assert maps.shape[2:] == (3, 2)
    np.testing.assert_allclose(model(x), maps.mean((2, 3)), rtol=1e-4, atol=1e-6)


def test_an_image_too_small_for_the_head_is_an_error():
    model = nnx.view(models.create("lenet5"), deterministic=True)
    with pytest.raises(UserError, match="give images of at least that size"):
        model(jax.numpy.zeros((1, 24, 28, 1)))
