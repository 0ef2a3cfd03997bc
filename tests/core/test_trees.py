import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax import models
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError

TREE = {
    "conv1": {"kernel": np.zeros((3, 3, 1, 2))},
    "conv2_x": [{"norm1": {"scale": np.zeros(2), "bias": np.zeros(2)}}, {"norm1": {"scale": np.zeros(2)}}],
    "head": {"classifier": {"bias": np.zeros(3), "kernel": np.zeros((2, 3))}},
}
NAMES = [
    "conv1/kernel",
    "conv2_x/0/norm1/bias",
    "conv2_x/0/norm1/scale",
    "conv2_x/1/norm1/scale",
    "head/classifier/bias",
    "head/classifier/kernel",
]


def test_a_leaf_is_named_by_its_path_and_listed_in_the_order_of_jax():
    named = trees.named_leaves(TREE)
    assert [name for name, _ in named] == NAMES
    for (_, leaf), other in zip(named, jax.tree.leaves(TREE), strict=True):
        assert leaf is other


def test_the_names_of_a_network_are_those_of_its_attributes():
    model = nnx.eval_shape(lambda: models.create("cifar_resnet", depth=8))
    names = [name for name, _ in trees.named_leaves(nnx.as_pure(nnx.state(model, nnx.Param)))]
    assert {"conv1/kernel", "conv2_x/0/norm2/scale", "head/classifier/bias"} <= set(names)
    assert len(names) == 7 + 2 * 7 + 2  # convolutions, their BatchNorms, the classifier
    # Paths of the objects have the same form: the layer table and errors use them.
    paths = {trees.path_name(path) for path, _ in nnx.iter_graph(model)}
    assert {"conv1", "conv2_x/0/norm2", "head/classifier"} <= paths


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        (".*", NAMES),
        (".*/kernel", ["conv1/kernel", "head/classifier/kernel"]),
        ("(?!.*norm).*", ["conv1/kernel", "head/classifier/bias", "head/classifier/kernel"]),
        (r"conv2_x/\d/norm1/scale", ["conv2_x/0/norm1/scale", "conv2_x/1/norm1/scale"]),
        ("conv1/kernel", ["conv1/kernel"]),
        ("conv1|head/.*", ["head/classifier/bias", "head/classifier/kernel"]),  # conv1 is not a whole name
    ],
)
def test_a_rule_matches_whole_names(pattern, matching):
    matches = trees.match(TREE, pattern, field="config.optim.decay_rule")
    assert jax.tree.structure(matches) == jax.tree.structure(TREE)
    assert [name for name, hit in trees.named_leaves(matches) if hit] == matching
    assert all(isinstance(hit, bool) for hit in jax.tree.leaves(matches))


def test_a_rule_that_matches_nothing_is_an_error_that_shows_names():
    with pytest.raises(UserError) as error:
        trees.match(TREE, "conv1/kernl", field="config.optim.decay_rule")
    message = str(error.value)
    assert message.startswith("config.optim.decay_rule: 'conv1/kernl' matches none of the 6 parameters")
    assert "did you mean 'conv1/kernel'?" in message
    assert ", ".join(NAMES[:4]) + ", ..." in message and NAMES[4] not in message


def test_a_prefix_of_a_name_matches_nothing():
    with pytest.raises(UserError, match="matches none"):
        trees.match(TREE, "conv1", field="rule")


def test_a_broken_regular_expression_is_an_error_that_says_why():
    with pytest.raises(UserError, match=r"^rule: '\(conv' is not a regular expression: missing \)"):
        trees.match(TREE, "(conv", field="rule")


def test_the_first_rule_that_matches_sets_the_multiplier():
    rules = (("head/.*bias", 4), ("head/.*", 0.5), (".*/scale", 0.0))
    values = dict(trees.named_leaves(trees.multipliers(TREE, rules, field="rule")))
    assert values == {
        "conv1/kernel": 1.0,
        "conv2_x/0/norm1/bias": 1.0,
        "conv2_x/0/norm1/scale": 0.0,
        "conv2_x/1/norm1/scale": 0.0,
        "head/classifier/bias": 4.0,
        "head/classifier/kernel": 0.5,
    }
    assert all(isinstance(value, float) for value in values.values())


def test_the_order_of_rules_decides():
    rules = (("head/.*", 0.5), ("head/.*bias", 4))
    values = dict(trees.named_leaves(trees.multipliers(TREE, rules, field="rule")))
    assert values["head/classifier/bias"] == 0.5


def test_without_rules_every_multiplier_is_one():
    assert set(jax.tree.leaves(trees.multipliers(TREE, (), field="rule"))) == {1.0}


def test_every_rule_must_match_even_after_another():
    with pytest.raises(UserError, match=r"^rule: 'haed/"):
        trees.multipliers(TREE, ((".*", 1.0), ("haed/.*", 0.5)), field="rule")


def test_counting_adds_the_elements_of_all_leaves():
    assert trees.count(TREE) == 18 + 2 + 2 + 2 + 3 + 6
    assert trees.count({"scalar": np.zeros(()), "empty": np.zeros((0, 4))}) == 1
    assert trees.count({}) == 0
    assert trees.count(jax.ShapeDtypeStruct((60_000, 60_000), np.float32)) == 3_600_000_000  # more than an int32


# ---------------------------------------------------------------- parts of trees

NESTED = {"a": {"b": 1, "c": {0: 2, 1: 3}}, "d": 4}
MASK = {"a": {"b": True, "c": {0: False, 1: True}}, "d": False}


def test_a_tree_is_split_and_merged():
    chosen, others = trees.partition(NESTED, MASK)
    assert chosen == {"a": {"b": 1, "c": {1: 3}}} and others == {"a": {"c": {0: 2}}, "d": 4}
    assert trees.merged(chosen, others) == NESTED
    assert trees.merged(NESTED, {"d": 5}) == NESTED | {"d": 5}
    assert trees.part_like(NESTED, {"a": {"b": None}}) == {"a": {"b": 1}}
    assert trees.partition({}, {}) == ({}, {}) and trees.merged({}, {}) == {}


@given(st.lists(st.booleans(), min_size=len(NAMES), max_size=len(NAMES)))
def test_a_summary_of_names_stands_for_the_chosen_ones_alone(picks):
    chosen = [name for name, pick in zip(NAMES, picks, strict=True) if pick]
    short = trees.summarized(chosen, NAMES)
    covered = [name for name in NAMES if any(name == prefix or name.startswith(f"{prefix}/") for prefix in short)]
    assert covered == chosen
    for prefix in short:  # none could be shorter
        above = prefix.rpartition("/")[0]
        assert not above or not {name for name in NAMES if name.startswith(f"{above}/")} <= set(chosen)
