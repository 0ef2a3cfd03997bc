import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import NotFiniteError, UserError
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph
from cnn_jax.pretrained.source import Pretrained
from cnn_jax.training import diagnostics, finetuning, step
from cnn_jax.training import loop as train
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.session import Options
from cnn_jax.training.setup import build
from cnn_jax.training.state import States

# ---------------------------------------------------------------- regimes


def regime(name, network, **fields):
    """Returns (what is trained, names of the parameters that are)."""
    model = nnx.eval_shape(lambda: cnn_jax.create(network, **fields))
    _, params, _ = graph.split(model)
    found = finetuning.select(name, model.order, params)
    return found, {path for path, is_trained in trees.named_leaves(found.mask) if is_trained}


def firsts(names):
    return {name.split("/")[0] for name in names}


def test_the_regimes_are_the_head_the_last_stages_and_all():
    assert firsts(regime("head", "resnet50")[1]) == {"head"}
    assert firsts(regime("partial:1", "resnet50")[1]) == {"conv5_x", "head"}
    assert firsts(regime("partial:2", "resnet50")[1]) == {"conv4_x", "conv5_x", "head"}
    assert firsts(regime("partial:1", "vgg16")[1]) == {"conv5_1", "conv5_2", "conv5_3", "head"}
    assert firsts(regime("partial:1", "lenet5")[1]) == {"conv2", "head"}
    assert firsts(regime("partial:1", "googlenet")[1]) == {"inception_5a", "inception_5b", "head"}
    assert firsts(regime("partial:4", "googlenet")[1]) == firsts(regime("full", "googlenet")[1]) - {"conv1"}
    assert firsts(regime("partial:1", "c3d")[1]) == {"conv5a", "conv5b", "head"}
    found, names = regime("full", "vgg11")
    assert found.is_all and found.frozen_layers == () and len(names) == 22


def test_auxiliary_classifiers_are_heads():
    _, names = regime("head", "googlenet", auxiliary=True)
    assert firsts(names) == {"head", "auxiliary_4a", "auxiliary_4d"}


def test_a_regex_picks_whole_names():
    _, names = regime(r"conv5_x/2/.*|head/.*", "resnet50")
    assert {name.rsplit("/", 2)[0] for name in names} == {"conv5_x/2", "head"}
    found, _ = regime(".*/bias", "resnet20")  # BatchNorm with a bias that is trained follows the batch
    assert not [name for name in found.frozen_layers if "norm" in name and "/" in name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heads", "matches none of the 59 parameters"),
        (".*", r"freezes none of the 59 parameters: say 'full'"),
        ("(", "is not a regular expression"),
        ("partial", "say partial:K, with K from 1 to 3"),
        ("partial:0", "has 4 stages with parameters before its head"),
        ("partial:4", r"conv1, conv2_x, conv3_x, conv4_x\): say partial:K, with K from 1 to 3"),
    ],
)
def test_a_regime_that_freezes_all_or_nothing_is_an_error(name, message):
    with pytest.raises(UserError, match=message):
        regime(name, "resnet20")


# ---------------------------------------------------------------- what is frozen


def small(**fields):
    """Returns the configuration of a residual network of depth 8 on digits of 8x8."""
    config = recipes.get_config("resnet20")
    config.model.name = "cifar_resnet"
    config.model.depth = 8
    config.model.width = 0.25
    config.data.image_size = (8, 8)
    config.data.augment = ()
    config.optim.schedule.warmup = "0 steps"
    config.duration = "4 steps"
    config.batch_size = 32
    config.log.trackers = ""
    with config.unlocked():
        for name, value in fields.items():
            config[name] = value
    return config


def steps(run, count=4):
    """Returns the states before and after some steps, on the host."""
    state = States(run).create()
    before = jax.device_get(state)
    train_step = run.train_step(States(run).shardings)
    images = run.resident("train")
    for batch in run.data.parts["train"].train_batches(0, count, run.config.batch_size):
        state = train_step(state, run.put(batch), images)
    return before, jax.device_get(state)


@pytest.fixture(scope="module")
def runs():
    return {name: build(small(trainable=name)) for name in ("full", "head", "partial:1")}


@pytest.fixture(scope="module")
def trained(runs):
    return {name: steps(run) for name, run in runs.items()}


@pytest.mark.parametrize("name", ["head", "partial:1"])
def test_frozen_parameters_do_not_change_and_have_no_momentum(trained, name):
    before, after = trained[name]
    frozen = dict(trees.named_leaves(before.frozen))
    assert {"conv1/kernel", "norm1/mean", "norm1/var", "conv2_x/0/norm1/mean"} <= set(frozen)
    for path, leaf in trees.named_leaves(after.frozen):
        np.testing.assert_array_equal(leaf, frozen[path], err_msg=path)
    for path, leaf in trees.named_leaves(after.params):
        assert not np.array_equal(leaf, dict(trees.named_leaves(before.params))[path]), path
    momentum = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state))
    assert momentum == trees.count(after.params)
    everything = trees.count(trained["full"][1].params)
    assert trees.count(after.params) + trees.count(after.frozen) + trees.count(after.stats) > everything
    assert trees.count(after.params) < everything


def test_batchnorm_follows_the_batches_only_where_it_is_trained(trained):
    before, after = trained["partial:1"]
    assert set(dict(trees.named_leaves(after.stats))) == {
        f"conv4_x/0/norm{i}/{name}" for i in (1, 2) for name in ("mean", "var")
    }
    for path, leaf in trees.named_leaves(after.stats):
        assert not np.array_equal(leaf, dict(trees.named_leaves(before.stats))[path]), path
    assert jax.tree.leaves(trained["head"][1].stats) == []


def flops(run):
    batch = {"index": jnp.arange(32, dtype=jnp.int32), "position": jnp.arange(32, dtype=jnp.uint32)}
    compiled = run.train_step(States(run).shardings).lower(States(run).create(), batch, run.resident("train")).compile()
    return compiled.cost_analysis()["flops"]


@pytest.mark.slow
def test_a_step_of_the_head_computes_no_gradient_of_the_frozen_layers(runs, monkeypatch):
    monkeypatch.setenv("CNN_JAX_KERNELS", "0")  # XLA counts its own operations only
    images = runs["head"].resident("train")
    batch = {"index": jnp.arange(32, dtype=jnp.int32)}
    state = States(runs["head"]).create()
    features = eval_steps.make_features_step(runs["head"].network, **runs["head"].data.normalization)
    params = trees.merged(state.params, state.stats, state.frozen)
    forward = features.lower(params, batch, images).compile().cost_analysis()["flops"]
    head, part, full = (flops(runs[name]) for name in ("head", "partial:1", "full"))
    assert head < 1.1 * forward
    assert full > 2.5 * forward
    assert head < part < full


def test_a_frozen_layer_computes_as_in_evaluation(runs):
    run = runs["head"]
    state = States(run).create()
    images = run.resident("train")
    batch = {"index": jnp.arange(32, dtype=jnp.int32), "position": jnp.arange(32, dtype=jnp.uint32)}
    batch = eval_steps.gather(batch, images)
    loss, _ = jax.jit(run.loss)(state.params, state.stats, state.frozen, batch, step.make_keys(state.seed, state.step))
    evaluated = eval_steps.make_eval_step(run.network, **run.data.normalization)
    sums = evaluated(state.params, state.frozen, batch | {"mask": jnp.ones(32)}, None)
    np.testing.assert_allclose(loss, sums["loss"] / 32, rtol=1e-5)


def test_dropout_before_the_trained_layers_is_off():
    model = nnx.eval_shape(lambda: cnn_jax.create("nin", width=0.1))
    _, params, _ = graph.split(model)
    for name, off in (("full", 0), ("partial:1", 1), (r"conv2\w*/.*|head/.*", 0)):
        found = finetuning.select(name, model.order, params)
        merged = nnx.merge(*(lambda network, *trees: (network.train, *trees))(*graph.split(model, found.frozen_layers)))
        modes = [module.deterministic for _, module in nnx.iter_graph(merged) if isinstance(module, nnx.Dropout)]
        assert sum(modes) == off, name


@pytest.mark.slow
def test_cached_features_give_the_same_steps():
    _, plain = steps(build(small(trainable="head")))
    run = build(small(trainable="head", cache_features=True))
    _, kept = steps(run)
    assert run.resident("train")["image"].shape == (1258, 16)
    for (path, one), (_, other) in zip(trees.named_leaves(plain.params), trees.named_leaves(kept.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=path)
    metrics = Evaluator(run).evaluate(jax.device_put(kept), "test")
    whole = build(small(trainable="head"))
    assert metrics["error"] == pytest.approx(
        Evaluator(whole).evaluate(jax.device_put(plain), "test")["error"], abs=0.006
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(trainable="full"), "features change unless it is 'head'"),
        (dict(trainable="head", augment=("flip",)), "set it to"),
        (
            dict(trainable="head", layers="1 epochs"),
            "config.log.layers is '1 epochs', but most layers are not computed",
        ),
    ],
)
def test_features_are_cached_only_if_they_do_not_change(fields, message):
    config = small(trainable=fields["trainable"], cache_features=True)
    config.data.augment = fields.get("augment", ())
    config.log.layers = fields.get("layers", "0 steps")
    with pytest.raises(UserError, match=message):
        build(config)


# ---------------------------------------------------------------- surgery

WANTED = {
    "conv1/kernel": (3, 3, 1, 4),
    "norm1/mean": (4,),
    "head/hidden/0/kernel": (64, 8),
    "head/classifier/kernel": (8, 5),
}
OPTIONS = dict(take="all", trained=set(WANTED), classes="", name="there")


def test_matching_arrays_are_taken_and_others_are_left():
    source = WANTED | {"auxiliary_4a/conv/kernel": (1, 1, 4, 4)}
    found = finetuning.plan(WANTED, source, **OPTIONS)
    assert (list(found.taken), found.new, found.left) == (list(WANTED), {}, ("auxiliary_4a/conv/kernel",))


def test_a_head_may_differ_and_the_reason_is_given():
    source = WANTED | {"head/hidden/0/kernel": (128, 8), "head/classifier/kernel": (8, 1000)}
    found = finetuning.plan(WANTED, source, **OPTIONS | dict(classes="1000 classes there, 5 here"))
    assert found.taken == ("conv1/kernel", "norm1/mean")
    assert found.new == {
        "head/hidden/0/kernel": "[128, 8] there, [64, 8] here",
        "head/classifier/kernel": "1000 classes there, 5 here",
    }
    other = finetuning.plan(WANTED, WANTED, **OPTIONS | dict(classes="other classes"))  # of the same number
    assert other.new == {"head/classifier/kernel": "other classes"}


def test_all_misfits_of_the_body_are_listed_at_once():
    source = {"conv1/kernel": (5, 5, 1, 4), "head/classifier/kernel": (8, 5)}
    with pytest.raises(UserError) as error:
        finetuning.plan(WANTED, source, **OPTIONS)
    told = str(error.value)
    assert "2 of 4 arrays" in told
    assert "conv1/kernel: [5, 5, 1, 4] there, [3, 3, 1, 4] here" in told
    assert "norm1/mean: absent there, [4] here" in told
    assert "head/" not in told


def test_trained_layers_can_start_from_scratch():
    trained_names = {"head/hidden/0/kernel", "head/classifier/kernel"}
    found = finetuning.plan(WANTED, WANTED, **OPTIONS | dict(take="frozen", trained=trained_names))
    assert set(found.new) == trained_names
    found = finetuning.plan(WANTED, WANTED, **OPTIONS | dict(take="head/.*"))
    assert set(found.taken) == trained_names
    with pytest.raises(UserError, match=r"config\.take .one of"):
        finetuning.plan(WANTED, WANTED, **OPTIONS | dict(take="tail/.*"))


# ---------------------------------------------------------------- from a trained network


def source(**fields):
    given = dict(
        image_size=[8, 8], channels=1, test_crop="resize", test_resize=256, mean=[0.3], std=[0.4], classes=None
    )
    given["interpolation"] = "bicubic"
    return Pretrained("runs/x@9", "a network", dict(name="cifar_resnet", depth=8, width=0.25), given | fields, {})


def test_the_networks_fields_are_used_unless_others_are_given():
    config = small()
    config.model.depth = 20
    config.data.image_size = (16, 16)
    changed = finetuning.adapt(config, source(), {"data.image_size"})
    assert (config.model.depth, tuple(config.data.image_size), config.data.mean) == (8, (16, 16), (0.3,))
    assert config.data.interpolation == changed["data.interpolation"] == "bicubic"
    assert changed["init_from"] == config.init_from == "runs/x@9"
    assert changed["data.std"] == (0.4,) and "model.width" not in changed


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [([0.0], [1.0], ()), ([0.3], [0.4], (0.3,)), ([[[0.1], [0.3]]] * 8, [1.0], (0.2,))],  # none, a color, an image
)
def test_the_normalization_is_that_of_the_trained_network(mean, std, expected):
    config = small()
    finetuning.adapt(config, source(mean=mean, std=std), set())
    assert (config.data.normalize, config.data.mean) == ("channel" if expected else "none", expected)
    assert len(config.data.std) == len(expected)
    build(config)


def test_another_architecture_is_refused():
    with pytest.raises(
        UserError, match=r"is a cifar_resnet, but the configuration is of lenet5: .*=finetune:cifar_res"
    ):
        finetuning.adapt(recipes.get_config("lenet5"), source(), set())


def test_the_learning_rate_falls_from_stage_to_stage_towards_the_images():
    config = small()
    config.optim.layer_decay = 0.5
    run = build(config)
    state = States(run).create()
    ones = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = run.optimizer.update(
        ones, run.optimizer.init(ones), jax.tree.map(jnp.zeros_like, ones), learning_rate=1.0
    )
    found = {path.split("/")[0]: -float(leaf.ravel()[0]) for path, leaf in trees.named_leaves(updates)}
    assert found == dict(head=1, conv4_x=0.5, conv3_x=0.25, conv2_x=0.125, conv1=0.0625, norm1=0.0625)


def test_stages_without_parameters_do_not_count():
    model = nnx.eval_shape(lambda: cnn_jax.create("vgg16"))
    params = graph.split(model)[1]
    rules = finetuning.layer_rules(0.5, model.order, params)
    assert [factor for _, factor in rules] == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    factors = dict(trees.named_leaves(trees.multipliers(params, rules, field="decay")))
    assert factors["conv1_2/conv/kernel"] == 0.03125 and factors["conv5_1/conv/bias"] == 0.5
    assert factors["head/hidden/0/kernel"] == 1


def test_a_rule_may_match_frozen_parameters():
    config = small(trainable="head")
    config.optim.lr_multipliers = (("conv1/.*", 0.1), ("head/.*", 0.5))
    build(config)
    config.optim.lr_multipliers = (("conv9/.*", 0.1),)
    with pytest.raises(UserError, match=r"lr_multipliers: 'conv9/\.\*' matches none of the 23 parameters"):
        build(config)


@pytest.mark.parametrize("cache", [False, True])
def test_layers_of_a_network_that_is_trained_in_part_are_examined(cache):
    run = build(small(trainable="head", cache_features=cache))
    state = States(run).create()
    found = diagnostics.examine(run, state, diagnostics.training_batch(run, 1))
    assert [row["name"] for row in found["parameters"]] == ["head/classifier/bias", "head/classifier/kernel"]
    names = [row["name"] for row in found["layers"]]
    assert names == ([row.name for row in run.layers][-1:] if cache else [row.name for row in run.layers])


def test_a_head_that_becomes_infinite_is_reported(tmp_path):
    config = small(trainable="head", cache_features=True)
    config.optim.learning_rate = 1e30
    with pytest.raises(NotFiniteError):
        train.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "not_finite" / "batch.npz").exists()


def test_a_given_normalization_is_kept_complete():
    config = small()
    before = tuple(config.data.mean), tuple(config.data.std), config.data.normalize
    changed = finetuning.adapt(config, source(), {"data.normalize"})
    assert (tuple(config.data.mean), tuple(config.data.std), config.data.normalize) == before
    assert not [field for field in changed if field in ("data.mean", "data.std", "data.normalize")]


def test_distance_heads_are_new_for_other_classes():
    wanted = {"conv1/kernel": (5, 5, 1, 6), "head/hidden/0/kernel": (120, 84), "head/hidden/0/bias": (84,)}
    found = finetuning.plan(wanted, wanted, **OPTIONS | dict(classes="other classes", trained=set(wanted)))
    assert found.taken == ("conv1/kernel",) and set(found.new.values()) == {"other classes"}


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A run on the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    config = small(duration="2 epochs")
    config.data.classes = ("0", "1", "2", "3", "4")
    train.run(config, folder)
    return folder


def second(first_run, **fields):
    config = small(init_from=f"{first_run}@best", **fields)
    config.data.classes = ("5", "6", "7", "8", "9")
    return config


@pytest.mark.slow
def test_a_run_starts_from_another_and_its_record_repeats_it(first_run, tmp_path, console):
    config = second(first_run, trainable="head")
    train.run(config, tmp_path / "second", Options(console=console))
    told = console.file.getvalue()
    assert "cifar_resnet of" in told and "new     head: other classes" in told and "frozen    conv1, conv2_x" in told
    with Checkpoints(first_run) as checkpoints:
        before = checkpoints.read_weights(checkpoints.select("best", print))
    with Checkpoints(tmp_path / "second") as checkpoints:
        after = checkpoints.read_weights(4)
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        assert np.array_equal(leaf, after[path]) != path.startswith("head/"), path
    again = recipes.get_config("replay", str(tmp_path / "second" / "config.json"))
    train.run(again, tmp_path / "again", Options(console=console))
    with Checkpoints(tmp_path / "again") as checkpoints:
        for path, leaf in checkpoints.read_weights(4).items():
            np.testing.assert_array_equal(leaf, after[path])
    assert json.loads((tmp_path / "second" / "input.json").read_text())["classes"] == ["5", "6", "7", "8", "9"]


def test_a_run_resumes_without_its_source(first_run, tmp_path):
    source = Path(shutil.copytree(first_run, tmp_path / "source"))
    config = second(source, trainable="partial:1")
    config.duration = "2 steps"
    config.checkpoint.every = "2 steps"
    train.run(config, tmp_path / "run")
    shutil.rmtree(source)
    config.duration = "4 steps"
    train.run(config, tmp_path / "run", Options(extend=True))
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps()[-1] == 4


def test_a_network_that_does_not_fit_is_refused_before_writing(first_run, tmp_path):
    config = second(first_run)
    config.model.width = 0.5
    with pytest.raises(UserError, match="conv1/kernel"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_classes_in_another_order_is_not_resumed(first_run):
    path = first_run / "input.json"
    text = path.read_text()
    path.write_text(text.replace('"0", "1"', '"1", "0"'))
    config = small(duration="2 epochs")
    config.data.classes = ("0", "1", "2", "3", "4")
    with pytest.raises(UserError, match="holds a run on the classes 1, 0, 2"):
        train.run(config, first_run)
    path.write_text(text)
