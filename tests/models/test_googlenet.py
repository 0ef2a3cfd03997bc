"""GoogLeNet: the paper's Table 1, and auxiliary classifiers in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, layer_table
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph, hooks, layers
from cnn_jax.training import step
from cnn_jax.training.setup import build
from cnn_jax.training.state import States

EVAL = dict(deterministic=True, use_running_average=True, raise_if_not_found=False)
# 80x80 is about the smallest image for the auxiliary classifiers of the paper.
SMALL = dict(width=0.0625, input_shape=(80, 80, 3), num_classes=5)


def table(**fields) -> dict[str, LayerRow]:
    shape = fields.get("input_shape", (224, 224, 3))
    return {row.name: row for row in layer_table(lambda: models.create("googlenet", **fields), shape)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def filled(seed: int = 0, **fields):
    """Returns a network with NumPy's random numbers: nothing is compiled, and no bias or statistic is 0 or 1."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        kind = trees.path_name(path).removesuffix("/value").split("/")[-1]
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        if kind in ("bias", "mean"):
            return jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), jnp.float32)
        assert kind == "kernel"
        return jnp.asarray(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), jnp.float32)

    graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("googlenet", **fields)))
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def apply(model, x, **keywords):
    graphdef, state = nnx.split(model)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, **keywords))(state, x)


# ---------------------------------------------------------------- Table 1

# (module, input channels, parameters, MACs, output)
BLOCKS = [
    ("3a", 163_696, 128_049_152, (28, 28, 256)),
    ("3b", 388_736, 304_267_264, (28, 28, 480)),
    ("4a", 376_176, 73_608_192, (14, 14, 512)),
    ("4b", 449_160, 87_908_352, (14, 14, 512)),
    ("4c", 510_104, 99_850_240, (14, 14, 512)),
    ("4d", 605_376, 118_515_712, (14, 14, 528)),
    ("4e", 868_352, 169_996_288, (14, 14, 832)),
    ("5a", 1_043_456, 51_079_168, (7, 7, 832)),
    ("5b", 1_444_080, 70_697_984, (7, 7, 1024)),
]
TORCHVISION_BLOCKS = {"3a": (155_872, 121_626_624), "4d": (573_312, 112_093_184), "5b": (1_347_040, 65_881_088)}
BRANCHES = ("conv1x1", "conv3x3", "conv5x5", "projection")


def of_module(rows, name: str) -> list[LayerRow]:
    return [row for row in rows.values() if row.name.startswith(f"inception_{name}/")]


def output(rows, name: str, branches=BRANCHES) -> tuple[int, ...]:
    """Returns the shape of the concatenation."""
    shapes = [rows[f"inception_{name}/{branch}/conv"].output_shape for branch in branches]
    assert len({shape[:-1] for shape in shapes}) == 1
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def test_every_module_has_the_papers_size():
    rows = table()
    for name, parameters, macs, shape in BLOCKS:
        found = of_module(rows, name)
        assert (sum(row.parameters for row in found), sum(row.macs for row in found)) == (parameters, macs), name
        assert output(rows, name) == shape
    assert rows["conv1/conv"].output_shape == (112, 112, 64)
    assert rows["conv2/conv"].output_shape == (56, 56, 192)
    pools = [rows[f"pool{i}"].output_shape for i in (1, 2, 3, 4)]
    assert pools == [(56, 56, 64), (28, 28, 192), (14, 14, 480), (7, 7, 832)]
    assert rows["head/pool"].output_shape == (1024,)
    # The stem of 1x1 and 3x3 convolutions.
    stem = [rows[f"{name}/conv"] for name in ("conv1", "conv2_reduce", "conv2")]
    assert (sum(row.parameters for row in stem), sum(row.macs for row in stem)) == (124_416, 477_675_520)


@pytest.mark.parametrize(("fields", "elements"), [({}, 4_796_184), (dict(auxiliary=True), 4_820_968)])
def test_the_activations_are_those_of_the_reference(fields, elements):
    assert 224 * 224 * 3 + sum(row.outputs for row in table(**fields).values() if row.kind != "norm") == elements


def test_lrn_follows_pool1_and_conv2_batchnorm_all_convolutions():
    names = list(table())
    assert names[:8] == ["conv1/conv", "pool1", "norm1", "conv2_reduce/conv", "conv2/conv", "norm2", "pool2", names[7]]
    rows = table(norm="batch")
    convolutions = [name for name, row in rows.items() if row.kind == "conv"]
    assert len(convolutions) == 3 + 9 * 6
    order = list(rows)
    for name in convolutions:
        assert order[order.index(name) + 1] == name.removesuffix("conv") + "norm"
    assert not [name for name, row in table(norm="none").items() if row.kind == "norm"]


def test_the_naive_module_has_no_1x1_convolution_before_others():
    rows = table(reduction=False)
    found = of_module(rows, "3a")
    weights = 192 * 64 + 192 * 128 * 9 + 192 * 32 * 25
    assert [row.kind for row in found] == ["conv", "conv", "conv", "pool"]
    assert sum(row.parameters for row in found) == weights + 64 + 128 + 32 == 387_072 + 224
    assert sum(row.macs for row in found) == 303_464_448
    assert output(rows, "3a", BRANCHES[:3])[-1] + rows["inception_3a/pool"].output_shape[-1] == 416


def test_torchvisions_modules_have_3x3_for_5x5():
    rows = table(norm="batch", variant="torchvision")
    for name, counts in TORCHVISION_BLOCKS.items():
        found = of_module(rows, name)
        assert (sum(row.parameters for row in found), sum(row.macs for row in found)) == counts
    assert rows["pool4"].detail == "max 2x2/2, pad 0, ceil"
    model = nnx.eval_shape(lambda: models.create("googlenet", norm="batch", variant="torchvision"))
    assert {node.epsilon for _, node in nnx.iter_graph(model) if isinstance(node, layers.BatchNorm)} == {1e-3}


def test_a_module_concatenates_its_four_branches():
    model = filled(**SMALL)
    module = model.inception_3a
    x = jnp.asarray(noise(1, 5, 6, 12))
    assert module.conv1x1.conv.kernel.shape[2] == 12
    window = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    pooled = jnp.stack([window[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)]).max(0)

    def convolution(block, x):
        kernel = block.conv.kernel[...]
        pad = kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.maximum(y + block.conv.bias[...], 0)

    expected = [
        convolution(module.conv1x1, x),
        convolution(module.conv3x3, convolution(module.reduce3x3, x)),
        convolution(module.conv5x5, convolution(module.reduce5x5, x)),
        convolution(module.projection, pooled),
    ]
    np.testing.assert_allclose(module(x), jnp.concatenate(expected, -1), atol=1e-5)
    assert module.conv5x5.conv.kernel.shape[0] == 5


# ---------------------------------------------------------------- auxiliary classifiers


def test_the_auxiliary_classifiers_are_the_papers():
    rows = table(auxiliary=True)
    for name, channels in (("auxiliary_4a", 512), ("auxiliary_4d", 528)):
        found = [(row.name, row.output_shape, row.parameters) for row in rows.values() if row.name.startswith(name)]
        assert found == [
            (f"{name}/pool", (4, 4, channels), 0),
            (f"{name}/conv/conv", (4, 4, 128), channels * 128 + 128),
            (f"{name}/head/hidden/0", (1024,), 2_098_176),
            (f"{name}/head/classifier", (1000,), 1_025_000),
        ]
    assert rows["auxiliary_4a/pool"].detail == "average 5x5/3, pad 0"
    model = nnx.eval_shape(lambda: models.create("googlenet", auxiliary=True))
    assert (model.head.dropout.rate, model.auxiliary_4a.head.dropout.rate) == (0.4, 0.7)


def test_auxiliary_scores_are_returned_only_in_training():
    model = filled(**SMALL, auxiliary=True, dropout=0.0, auxiliary_dropout=0.0)
    graphdef, state = nnx.split(nnx.view(model, deterministic=False))
    evaluation = nnx.split(nnx.view(model, deterministic=True))[0]

    @jax.jit
    def run(state, x):
        maps: dict[str, jax.Array] = {}
        merged = nnx.merge(evaluation, state)
        y = x
        for name in merged.order:
            y = maps[name] = getattr(merged, name)(y)
        others = merged.auxiliary_4a(maps["inception_4a"]), merged.auxiliary_4d(maps["inception_4d"])
        return nnx.merge(graphdef, state)(x), (merged(x), others)

    (logits, (first, second), weight), (expected, others) = run(state, noise(2, 80, 80, 3))
    assert weight == np.float32(0.3)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(first, others[0], atol=1e-5)
    np.testing.assert_allclose(second, others[1], atol=1e-5)
    assert np.abs(first - second).max() > 0.01 and np.abs(logits - second).max() > 0.01


def test_a_compiled_evaluation_skips_auxiliary_classifiers():
    programs = []
    for auxiliary in (False, True):
        model = nnx.eval_shape(lambda auxiliary=auxiliary: models.create("googlenet", **SMALL, auxiliary=auxiliary))
        graphdef, state = nnx.split(nnx.view(model, deterministic=True))
        image = jax.ShapeDtypeStruct((1, 80, 80, 3), jnp.float32)
        lowered = jax.jit(lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state)(x)).lower(state, image)
        text = lowered.as_text()
        programs.append((text.count("convolution("), text.count("dot_general"), text.split("{", 1)[1].count("%arg")))
    assert programs[0] == programs[1]


def loss_of(model, **options):
    network, params, stats = graph.split(model)
    loss = step.make_loss(network, mean=np.float32(0.5), std=np.float32(0.25), **options)
    return loss, params, stats


BATCH = {
    "image": np.random.default_rng(1).integers(0, 256, (4, 80, 80, 3), np.uint8),
    "label": np.array([0, 1, 4, 2], np.int32),
    "position": np.arange(4, dtype=np.uint32),
}


@pytest.mark.slow
def test_the_training_loss_adds_the_weighted_auxiliary_losses():
    fields = SMALL | dict(auxiliary=True, dropout=0.0, auxiliary_dropout=0.0)
    smoothed = functools.partial(eval_steps.example_losses, label_smoothing=0.1)
    loss, params, stats = loss_of(filled(**fields), losses=smoothed)
    keys = step.make_keys(0, 0)
    (total, (_, correct)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, stats, {}, BATCH, keys)
    images = (BATCH["image"] / 255 - 0.5) / 0.25
    main, (first, second), _ = apply(filled(**fields), images.astype(np.float32))
    targets = np.eye(5)[BATCH["label"]] * 0.9 + 0.1 / 5

    def cross_entropy(logits):
        logits = np.asarray(logits, np.float64)
        return -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()

    expected = cross_entropy(main) + 0.3 * (cross_entropy(first) + cross_entropy(second))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert int(correct) == (np.argmax(main, 1) == BATCH["label"]).sum()
    for name, logits in (("auxiliary_4a", first), ("auxiliary_4d", second)):
        kernels = [leaf for path, leaf in trees.named_leaves(grads[name]) if path.endswith("kernel")]
        assert len(kernels) == 3 and all(np.abs(leaf).max() > 1e-6 for leaf in kernels)
        # Of the classifier's bias it is the weight times softmax - targets.
        by_hand = 0.3 * (np.asarray(jax.nn.softmax(logits)) - targets).mean(0)
        np.testing.assert_allclose(grads[name]["head"]["classifier"]["bias"], by_hand, atol=1e-5)


def test_the_weight_of_the_auxiliary_losses_is_a_field():
    scores = jnp.float32(3), (jnp.float32(5), jnp.float32(7)), 2.0
    total, logits = step.with_auxiliary(scores, lambda x: 10 * x)
    assert (float(total), float(logits)) == (30 + 2 * (50 + 70), 3)
    assert step.with_auxiliary(jnp.float32(3), lambda x: 10 * x) == (30, 3)
    model = nnx.eval_shape(lambda: models.create("googlenet", **SMALL, auxiliary=True, auxiliary_weight=2.0))
    assert model.auxiliary_weight == 2.0


def test_the_three_classifiers_have_separate_dropout_keys(monkeypatch):
    class Spy(nnx.Module):
        def __call__(self, x, *, rngs):
            return jax.random.key_data(rngs)

    model = nnx.eval_shape(lambda: models.create("googlenet", **SMALL, auxiliary=True))
    for name in model.order:
        monkeypatch.setattr(type(getattr(model, name)), "__call__", lambda self, x: x)
    model.head, model.auxiliary_4a, model.auxiliary_4d = Spy(), Spy(), Spy()
    first, (second, third), _ = model(jnp.zeros((1, 80, 80, 3)), rngs=jax.random.key(0))
    assert len({tuple(np.asarray(key)) for key in (first, second, third)}) == 3


def test_without_auxiliary_classifiers_training_returns_an_array():
    model = nnx.eval_shape(lambda: models.create("googlenet", **SMALL))
    graphdef, state = nnx.split(nnx.view(model, deterministic=False))
    x = jax.ShapeDtypeStruct((1, 80, 80, 3), jnp.float32)
    scores = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x, rngs=jax.random.key(0)), state, x)
    assert scores.shape == (1, 5)


@pytest.mark.slow
def test_training_calls_the_layers_of_the_table_in_its_order():
    config = recipes.get_config("googlenet")
    config.model.update(auxiliary=True, width=0.0625)
    config.data.image_size = (80, 80)
    config.batch_size = 4
    run = build(config)
    state = jax.eval_shape(States(run).create)
    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in BATCH.items()}
    batch["image"] = jax.ShapeDtypeStruct((4, 80, 80, 1), jnp.uint8)
    with hooks.capture() as calls:
        keys = step.make_keys(0, 0)
        jax.eval_shape(lambda *arrays: run.loss(*arrays, keys), state.params, state.stats, state.frozen, batch)
    assert [output.shape[1:] for _, _, output in calls] == [row.output_shape for row in run.layers]
    assert {"auxiliary_4a/head/classifier", "auxiliary_4d/pool"} <= {row.name for row in run.layers}


# ---------------------------------------------------------------- fields and errors


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        (dict(variant="v2"), ["variant is 'v2'", "paper, torchvision"]),
        (dict(norm="instance"), ["norm is 'instance'", "none, lrn, batch"]),
        (dict(auxiliary_weight=-1.0), ["auxiliary_weight is -1.0"]),
        (dict(auxiliary_dropout=1.0), ["auxiliary_dropout is 1.0", "[0, 1)"]),
        (dict(input_shape=(46, 46, 3)), ["46x46", "too small", "'pool4'"]),
        (
            dict(input_shape=(78, 78, 3), auxiliary=True),
            ["78x78", "inception_4a is 4x4", "larger images", "auxiliary=False"],
        ),
        (dict(dropout=1.0), ["dropout is 1.0"]),
        (dict(width=0), ["width is 0"]),
    ],
)
def test_an_impossible_network_is_a_users_error(fields, messages):
    with pytest.raises(UserError) as error:
        nnx.eval_shape(lambda: models.create("googlenet", **fields))
    for message in messages:
        assert message in str(error.value)


def test_the_sizes_that_the_errors_name_are_possible():
    for shape, auxiliary in (((47, 47, 3), False), ((79, 79, 3), True)):
        table(input_shape=shape, auxiliary=auxiliary, width=0.0625)


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        (dict(head="gap"), 1_025_000),
        (dict(head="flatten"), 7 * 7 * 1024 * 1000 + 1000),
        (dict(head="fc"), 7 * 7 * 1024 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000),
        (dict(head="conv"), 1_025_000),
    ],
)
def test_the_heads(fields, parameters):
    assert sum(row.parameters for row in table(**fields).values()) == 5_973_552 + parameters
