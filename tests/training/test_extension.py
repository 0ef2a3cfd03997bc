"""The user's own networks, data, losses, metrics and augmentations, by import path."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.config import fields, recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.data import augment
from cnn_jax.eval.steps import example_losses
from cnn_jax.tracking.recorder import read_jsonl
from cnn_jax.training import loop
from cnn_jax.training.config_check import check_config
from cnn_jax.training.losses import losses_of
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build


def config_of(**changes):
    config = fields.get_config("digits", "own_parts:Small")
    config.update({"model": {"blocks": 1}, "duration": "6 steps", "batch_size": 32})
    config.data.update({"name": "mine", "source": "own_parts:open_dataset", "num_classes": 2})
    config.log.update({"every": "3 steps", "trackers": ""})
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        place = config[section] if section else config
        with place.unlocked(), place.ignore_type():
            place[leaf] = value
    return config.lock()


def test_run_of_own_parts_trains_and_records_the_metric(tmp_path, console):
    config = config_of(
        loss="own_parts:focal",
        loss_options=dict(gamma=1.0),
        eval__metrics=("own_parts:balanced_accuracy",),
        data__augment=("flip", "own_parts:darken:20"),
    )
    final = loop.run(config, tmp_path, Options(console=console))
    assert 0 <= final["test"]["balanced_accuracy"] <= 1 and final["test"]["examples"] == 32
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert records[-1]["balanced_accuracy"] == final["test"]["balanced_accuracy"]
    assert "stripes" in (tmp_path / "input.json").read_text()
    again = loop.run(config, tmp_path, Options(console=console))  # resumes, and finds everything done
    assert again["test"]["loss"] == final["test"]["loss"]
    predictor = cnn_jax.load(str(tmp_path))
    assert predictor.probabilities(np.zeros((3, 8, 8, 1), np.uint8)).shape == (3, 2)


def test_plain_flax_network_trains(tmp_path, console):
    config = fields.get_config("digits", "own_parts:Plain")
    config.model.channels = 4
    config.update({"duration": "4 steps", "batch_size": 32})
    config.log.trackers = ""
    final = loop.run(config.lock(), tmp_path, Options(console=console))
    assert final["test"]["examples"] == 359
    assert "own_parts:Plain" in console.file.getvalue()


def test_blocks_of_an_own_module_are_not_known():
    config = fields.get_config("digits", "own_parts:Plain")
    config.remat = True
    with pytest.raises(UserError, match="own_parts:Plain is a module of your own, whose blocks are not known"):
        build(config)


def test_created_network_has_the_fields_of_its_class():
    network = cnn_jax.create("own_parts:Small", num_classes=3, input_shape=(8, 8, 1), blocks=2, width=0.5)
    assert network(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 3)
    assert cnn_jax.models.options("own_parts:Small")["blocks"].default == 2
    plain = cnn_jax.create("own_parts:Plain", num_classes=3, input_shape=(8, 8, 1), channels=5)
    (row,) = layer_table(lambda: plain, (8, 8, 1))
    assert (row.kind, row.parameters) == ("network", trees.count(jax.tree.map(lambda x: x, own_arrays(plain))))
    assert row.macs == 64 * 9 * 5 + 5 * 3


def own_arrays(network):
    from flax import nnx

    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def test_loss_of_the_user_equals_its_formula():
    logits = jax.random.normal(jax.random.key(0), (7, 3))
    labels = jax.random.randint(jax.random.key(1), (7,), 0, 3)
    config = config_of(loss="own_parts:focal", loss_options=dict(gamma=0.0))
    np.testing.assert_allclose(losses_of(config)(logits, labels), example_losses(logits, labels), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model__blcks=2), r"model\.blcks: own_parts:Small has no such field; did you mean 'blocks'"),
        (dict(model__name="own_parts:Smal"), r"own_parts has no 'Smal'; did you mean 'Small'"),
        (dict(model__name="ownparts:Small"), "there is no module 'ownparts': install it"),
        (dict(model__name="cnn_jax.nn.family:Family"), "a Family without `layers`: define it"),
        (dict(model__name="own_parts:number"), "it takes no 'num_classes'"),
        (dict(loss="own_parts:focl"), r"config\.loss is 'own_parts:focl', but own_parts has no 'focl'.* mean 'focal'"),
        (
            dict(loss="own_parts:focal", loss_options=dict(gama=1.0)),
            r"config\.loss_options has 'gama', but its arguments are gamma; did you mean 'gamma'",
        ),
        (dict(loss="own_parts:focal", label_smoothing=0.1), "label_smoothing is 0.1, which is for cross_entropy"),
        (dict(loss="huber"), r"config\.loss is 'huber', but must be one of cross_entropy"),
        (dict(eval__metrics=("accuracy",)), "every entry must be an import path"),
        (dict(data__augment=("own_parts:darken",)), "with 0 numbers, but own_parts:darken takes most"),
        (dict(data__augment=("own_parts:darkn:1",)), r"own_parts has no 'darkn'; did you mean 'darken'"),
        (dict(data__source="own_parts:opn"), "own_parts has no 'opn'"),
        (dict(data__source="own_parts:number"), "returns must be a mapping with train, test"),
        (dict(data__channels=3), r"the image of example 0 is uint8 \[8, 8, 1\], but must be uint8"),
    ],
)
def test_mistakes_name_the_value_and_the_way_out(changes, message):
    with pytest.raises(UserError, match=message):
        config = config_of(**changes)
        check_config(config)
        build(config).resident("train")


def test_augmentation_must_keep_type_and_shape():
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match=r"makes float32 \[1\] of uint8 \[8, 8, 1\], but must keep type and shape"):
        augment.augment(jax.random.key(0), images, np.arange(2), ("own_parts:number",))


def test_page_shows_the_code_that_these_tests_run(tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    recipe, *parts = re.findall(r"```python\n(.*?)```", (root / "docs" / "extending.md").read_text(), re.DOTALL)
    code = (root / "tests" / "helpers" / "own_parts.py").read_text()
    assert len(parts) == 4 and all(part in code for part in parts)
    (tmp_path / "mine.py").write_text(recipe)
    config = recipes.load(tmp_path / "mine.py").lock()
    check_config(config)
    assert build(config).total_steps == 60
