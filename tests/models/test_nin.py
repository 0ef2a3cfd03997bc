"""Network in Network: the layers of Caffe's networks, equality with PyTorch, fields and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import LayerRow, layer_table
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError

SMALL = dict(width=0.125, input_shape=(18, 18, 3))


def table(name: str, **fields) -> dict[str, LayerRow]:
    shape = fields.get("input_shape", models.fields(name)["input_shape"])
    return {row.name: row for row in layer_table(lambda: models.create(name, **fields), shape)}


def test_the_layers_of_the_imagenet_network_are_caffes():
    rows = [(row.name.removesuffix("/conv"), row.output_shape, row.parameters) for row in table("nin").values()]
    assert rows == [
        ("conv1_1", (55, 55, 96), 34_944),
        ("conv1_2", (55, 55, 96), 9_312),
        ("conv1_3", (55, 55, 96), 9_312),
        ("pool1", (27, 27, 96), 0),
        ("conv2_1", (27, 27, 256), 614_656),
        ("conv2_2", (27, 27, 256), 65_792),
        ("conv2_3", (27, 27, 256), 65_792),
        ("pool2", (13, 13, 256), 0),
        ("conv3_1", (13, 13, 384), 885_120),
        ("conv3_2", (13, 13, 384), 147_840),
        ("conv3_3", (13, 13, 384), 147_840),
        ("pool3", (6, 6, 384), 0),
        ("conv4_1", (6, 6, 1024), 3_539_968),
        ("conv4_2", (6, 6, 1024), 1_049_600),
        ("head/classifier", (6, 6, 1000), 1_025_000),
        ("head/pool", (1000,), 0),
    ]
    assert 227 * 227 * 3 + sum(row.outputs for row in table("nin").values()) == 2_018_147


def test_the_maps_of_the_cifar_network_are_caffes():
    rows = table("nin_cifar")
    assert [rows[f"pool{i}"].output_shape for i in (1, 2)] == [(16, 16, 96), (8, 8, 192)]
    assert [rows[f"pool{i}"].detail for i in (1, 2)] == ["max 3x3/2, pad 0, ceil", "average 3x3/2, pad 0, ceil"]
    assert rows["head/classifier"].output_shape == (8, 8, 10)
    assert sum(row.parameters for row in rows.values()) == 966_986


def test_dropout_follows_the_same_pools_as_in_caffe():
    for name, places in (("nin", ["dropout3"]), ("nin_cifar", ["dropout1", "dropout2"])):
        model = nnx.eval_shape(lambda name=name: models.create(name, dropout=0.25))
        assert [name for name in model.order if name.startswith("dropout")] == places
        assert {getattr(model, place).rate for place in places} == {0.25}
        assert model.head.dropout.rate == 0
        for place in places:
            assert model.order[model.order.index(place) - 1] == place.replace("dropout", "pool")


def test_dropout_acts_in_training_only_with_separate_keys(monkeypatch):
    seen = []
    model = nnx.eval_shape(lambda: models.create("nin_cifar", **SMALL))

    class Spy(nnx.Dropout):
        def __call__(self, x, *, rngs=None):
            seen.append(None if rngs is None else tuple(np.asarray(jax.random.key_data(rngs))))
            return x

    model.dropout1, model.dropout2 = Spy(0.5), Spy(0.5)
    model.head = lambda x, rngs: x
    for name in model.order:
        if not name.startswith("dropout"):
            monkeypatch.setattr(type(getattr(model, name)), "__call__", lambda self, x: x)
    model(jnp.zeros((1, *model.input_shape)), rngs=jax.random.key(0))
    assert len(set(seen)) == 2 and None not in seen
    created = nnx.eval_shape(lambda: models.create("nin_cifar", **SMALL))
    assert not created.dropout1.deterministic
    assert nnx.view(created, deterministic=True).dropout1.deterministic


def test_the_cifar_network_gives_the_scores_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = nnx.view(nnx.eval_shape(lambda: models.create("nin_cifar", **SMALL)), deterministic=True)
    graphdef, state = nnx.split(model)

    def fill(path, leaf):
        if trees.path_name(path).removesuffix("/value").endswith("bias"):
            return jnp.asarray(rng.uniform(-0.3, 0.3, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape), jnp.float32)

    state = jax.tree_util.tree_map_with_path(fill, state)
    x = rng.normal(size=(2, 18, 18, 3)).astype(np.float32)
    ours = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)

    nn = torch.nn
    stage = [(3, 24, 5), (24, 20, 1), (20, 12, 1), "max", (12, 24, 5), (24, 24, 1), (24, 24, 1), "average"]
    stage += [(24, 24, 3), (24, 24, 1), (24, 10, 1)]
    modules = []
    for row in stage:
        if isinstance(row, str):
            modules.append((nn.MaxPool2d if row == "max" else nn.AvgPool2d)(3, 2, ceil_mode=True))
        else:
            modules += [nn.Conv2d(*row, padding=row[2] // 2), nn.ReLU()]
    source = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    filled = nnx.merge(graphdef, state)
    layers = [getattr(filled, name).conv for name in filled.order if name.startswith("conv")] + [filled.head.classifier]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for layer, module in zip(layers, convolutions, strict=True):
            module.weight.copy_(torch.tensor(np.array(layer.kernel[...])).permute(3, 2, 0, 1))
            module.bias.copy_(torch.tensor(np.array(layer.bias[...])))
        theirs = source(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    assert np.abs(theirs).max() > 0.1
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_without_the_1x1_convolutions_there_is_one_convolution_in_a_stage():
    rows = table("nin", mlpconv=False)
    names = [name for name, row in rows.items() if row.kind == "conv"]
    assert names == ["conv1_1/conv", "conv2_1/conv", "conv3_1/conv", "conv4_1/conv", "head/classifier"]
    assert sum(row.parameters for row in rows.values()) == 34_944 + 614_656 + 885_120 + 3_539_968 + 1_025_000


@pytest.mark.parametrize(
    ("head", "parameters"),
    [("conv", 1930), ("gap", 1930), ("flatten", 8 * 8 * 192 * 10 + 10), ("fc", 8 * 8 * 192 * 4 + 4 + 4 * 10 + 10)],
)
def test_the_heads(head, parameters):
    rows = table("nin_cifar", head=head, fc_sizes=(4,))
    assert sum(row.parameters for row in rows.values()) == 966_986 - 1930 + parameters


def test_batch_normalization_replaces_the_biases():
    rows = table("nin_cifar", norm="batch")
    convolutions = [name for name, row in rows.items() if row.kind == "conv" and name != "head/classifier"]
    order = list(rows)
    for name in convolutions:
        assert order[order.index(name) + 1] == name.removesuffix("conv") + "norm"
    channels = 192 + 160 + 96 + 3 * 192 + 2 * 192
    assert sum(row.parameters for row in rows.values()) == 966_986 + channels  # two for each instead of one


@pytest.mark.parametrize(
    ("name", "fields", "messages"),
    [
        ("nin", dict(layout="mnist"), ["whose layout is 'imagenet'", "for 'mnist'"]),
        ("nin", dict(norm="instance"), ["norm is 'instance'", "none, lrn, batch"]),
        ("nin", dict(pool="mean"), ["pool is 'mean'", "paper, max, average, conv"]),
        ("nin", dict(dropout=1.0), ["dropout is 1.0", "[0, 1)"]),
        ("nin", dict(input_shape=(32, 32, 3)), ["32x32", "too small", "'pool3'"]),
        ("nin", dict(input_shape=(8, 8, 3)), ["8x8", "'conv1_1/conv'", "kernel of 11"]),
        ("nin_cifar", dict(input_shape=(4, 4, 3)), ["4x4", "'pool2'"]),
    ],
)
def test_an_impossible_network_is_a_users_error(name, fields, messages):
    with pytest.raises(UserError) as error:
        nnx.eval_shape(lambda: models.create(name, **fields))
    for message in messages:
        assert message in str(error.value)
