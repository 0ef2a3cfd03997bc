"""The fields of networks: each with meaning, type and rule, and checked in one place."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.core.errors import UserError
from cnn_jax.core.rules import Choice, Rule, fixed, option, options
from cnn_jax.nn.family import Family
from cnn_jax.nn.init import InitKeys

every_network = pytest.mark.parametrize("name", models.MODELS)
SHARED = {"num_classes", "input_shape", "activation", "dropout", "width", "init", "dtype"}


@every_network
def test_every_field_says_what_it_means(name):
    found = options(models.family(name))
    assert set(found) >= SHARED
    for field in found.values():
        assert field.help.endswith(".") and "\n" not in field.help and field.help[0] != " "
        assert field.rule is None or field.rule.text
    assert "relu" in found["activation"].choices and "he_fan_in" in found["init"].choices
    # Words to choose from are machine-readable, and the meaning explains no others.
    words = {name for name, field in found.items() if isinstance(field.default, str) and name != "dtype"}
    assert all(found[name].default in found[name].choices for name in words)


@every_network
def test_the_defaults_keep_their_own_rules(name):
    row = models.MODELS[name]
    network = models.family(name)(**row.settles)
    assert models.fields(name) == {field: getattr(network, field) for field in options(type(network))}
    assert set(row.settles) <= set(models.fields(name))
    hash(network)  # it is a static part of the network's graph
    known = set(models.fields(name))
    assert set(models.options(name)) <= known - {*row.settles, "num_classes", "input_shape", "dtype"}
    assert models.options(name) == {field: options(type(network))[field] for field in models.options(name)}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("lenet5", dict(padding="2"), "padding is '2', but must be a whole number"),
        ("lenet5", dict(padding=2.0), "padding is 2.0, but must be a whole number"),
        ("lenet5", dict(num_classes="10"), "num_classes is '10', but must be 0, or at least 2"),
        ("lenet5", dict(num_classes=2.5), "num_classes is 2.5, but must be a whole number"),
        ("resnet50", dict(residual=1), "residual is 1, but must be True or False"),
        ("resnet50", dict(residual="False"), "residual is 'False', but must be True or False"),
        ("resnet50", dict(head=3), "head is 3, but must be one of gap, flatten, fc, conv"),
        ("resnet50", dict(head=None), "head is None, but must be one of"),
        ("resnet50", dict(width="wide"), "width is 'wide', but must be positive"),
        ("resnet50", dict(dropout=None), "dropout is None, but must be in [0, 1)"),
        ("resnet50", dict(groups=True), "groups is True, but must be a whole number"),
        ("cifar_resnet", dict(depth="20"), "depth is '20', but must be a whole number"),
        ("vgg16", dict(fc_sizes=10), "fc_sizes is 10, but must be a tuple of whole numbers"),
        ("vgg16", dict(fc_sizes=(10.5,)), "fc_sizes is (10.5,), but must be a tuple of whole numbers"),
        ("vgg16", dict(input_shape=(28,)), "input_shape is (28,), but must be [*spatial, channels]"),
        ("vgg16", dict(input_shape=(32, 32.0, 3)), "at least two whole numbers above 0"),
        ("vgg16", dict(input_shape=224), "input_shape is 224, but must be [*spatial, channels]"),
        ("vgg16", dict(dtype="flaot32"), "dtype is 'flaot32', but must be None or a floating type"),
        ("vgg16", dict(dtype="int32"), "dtype is 'int32', but must be None or a floating type"),
        ("conv1d", dict(channels="32"), "channels is '32', but must be a tuple of whole numbers"),
        ("mlp", dict(norm="batch"), "mlp has no field 'norm'"),
        ("alexnet", dict(initial_bias="1"), "initial_bias is '1', but must be a number"),
    ],
)
def test_a_value_of_another_type_gets_one_message(name, fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        nnx.eval_shape(lambda: models.create(name, **fields))


def test_numbers_of_numpy_and_lists_are_welcome():
    fields = dict(num_classes=np.int64(7), width=np.float32(0.5), dropout=0, hidden_sizes=[np.int32(10), 6])
    model = nnx.eval_shape(lambda: models.create("mlp", **fields, dtype="bfloat16"))
    assert [layer.out_features for layer in model.head.hidden] == [5, 3]
    assert model.family.hidden_sizes == (10, 6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("head", "fcc", "config.model.head is 'fcc', but must be one of gap, flatten, fc, conv; did you mean 'fc'?"),
        ("width", -1.0, "config.model.width is -1.0, but must be positive"),
        ("depth", 20, "config.model.depth: resnet50 has no such field"),
        ("num_classes", 10, "config.model.num_classes: resnet50 has no such field"),
    ],
)
def test_a_configuration_is_checked_by_the_same_rules(field, value, message):
    class Model(dict):
        __getattr__ = dict.__getitem__

    models.check_model(Model(name="resnet50", head="fc"))
    with pytest.raises(UserError, match=re.escape(message)):
        models.check_model(Model({"name": "resnet50", field: value}))


# ---------------------------------------------------------------- a family of one's own


class Small(Family):
    """Two convolutions."""

    maps: int = option(4, "Maps of both convolutions.", Rule("at least 2", lambda maps: maps >= 2))
    form: str = option("wide", "Form.", Choice("wide", "deep"))
    input_shape: tuple[int, ...] = (8, 8, 1)
    norm: str = fixed("none")
    head: str = "gap"

    def layers(self, make):
        yield "conv1", make.block(self.maps, 3, 1, 1)
        yield "pool1", make.pool(self.pool, 2, 2)
        yield "conv2", make.block(2 * self.maps, 3, 1, 1)


class Smaller(Small):
    maps: int = 2


def test_the_users_own_family_is_a_table_of_layers():
    model = Small(width=0.5, num_classes=3).build(InitKeys(jax.random.key(0)))
    assert model.order == ("conv1", "pool1", "conv2")
    assert model.conv2.conv.kernel.shape == (3, 3, 2, 4)
    model = nnx.view(model, deterministic=True)
    assert model(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 3)


def test_a_default_is_overridden_and_its_meaning_inherited():
    found = options(Smaller)
    assert found["maps"].default == 2 and found["maps"].help == "Maps of both convolutions."
    assert found["head"].default == "gap" and found["head"].choices == options(Family)["head"].choices
    assert "norm" not in found and Smaller().norm == "none"
    with pytest.raises(UserError, match="maps is 1, but must be at least 2"):
        Smaller(maps=1)
    with pytest.raises(TypeError, match="norm"):
        Smaller(**{"norm": "batch"})
    with pytest.raises(AttributeError):
        Smaller().maps = 3
