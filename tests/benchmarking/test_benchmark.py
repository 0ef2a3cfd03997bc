"""What the benchmark measures and that both loops do the same work; never how fast it is."""

import json
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.analysis.layer_table import layer_table
from cnn_jax.benchmarking import baselines, measure, results, torch_twins
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.nn import cpu, graph
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from cnn_jax.training.step import with_auxiliary
from tiers import quick

# ---------------------------------------------------------------- the command


def test_the_command_prints_one_json_object_with_everything(call):
    words = ("--config=configs/lenet5.py", "--config.model.width=0.25", "--json", "--against=flax", "--seconds=0.05")
    printed = call("benchmark", *words)
    assert printed.err == ""
    found = json.loads(printed.out)
    assert found["config"]["model"]["width"] == 0.25 and found["model"] == "lenet5" and found["data"] == "digits"
    assert (found["batch_size"], found["precision"], found["repeats"], found["seconds"]) == (64, "float32", 5, 0.05)
    assert (found["platform"], found["device_count"], found["jax_version"]) == ("cpu", 1, jax.__version__)
    assert found["device_kind"] and found["reference"].startswith("flax ")
    assert list(found["steps"]) == ["step", "data", "both", "flax"]
    assert [found["images_per_second"].pop(name) for name in ("evaluation", "fused")] == [None] * 2  # on request
    assert list(found["images_per_second"]) == list(found["steps"])
    assert list(found["ratios"]) == ["both/step", "both/min(step, data)", "step/flax", "both/flax"]
    for values in (*found["images_per_second"].values(), *found["ratios"].values()):
        assert 0 < values["min"] <= values["median"] <= values["max"]
    assert list(found["cpu_seconds_per_image"]) == list(found["steps"])
    for name, values in found["cpu_seconds_per_image"].items():  # at most all cores for all of the time
        assert 0 < values["median"] * found["images_per_second"][name]["median"] < 2 * os.cpu_count()
    assert min(found["steps"].values()) >= 2
    assert found["compile_seconds"]["trace_and_lower"] > 0 and found["compile_seconds"]["compile"] > 0
    # At least all images, which are an argument of the step, and the process around it.
    assert 1258 * 28 * 28 < found["memory"]["step_bytes"] < found["memory"]["peak_bytes"]
    assert found["memory"]["peak_of"] == "the process (resident size)"
    # LeNet-5 with 2 and 4 maps, 30 and 21 units: 2 FLOPs x 3 x MACs.
    macs = 28 * 28 * 25 * 2 + 10 * 10 * 25 * 2 * 4 + 25 * 4 * 30 + 30 * 21 + 21 * 10
    assert found["flops_per_image"] == 6 * macs
    peak, speed = found["matmul_peak_flops_per_second"], found["images_per_second"]["step"]["median"]
    assert found["share_of_matmul_peak"] == pytest.approx(6 * macs * speed / peak)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config=RECIPE"),
        (("--config=configs/lenet.py",), "did you mean 'configs/lenet5.py'?"),
        (("--config=configs/lenet5.py", "--config.optim.momentun=0.5"), "did you mean 'optim.momentum'"),
        (
            ("--config=configs/lenet5.py", "--only=step,dta"),
            "--only is 'dta', but must be one of step, data, both, evaluation",
        ),
        (("--config=configs/lenet5.py", "--against=tensorflow"), "should be one of <flax|torch|full>"),
        (("--config=configs/lenet5.py", "--seconds=nan"), "--seconds is nan, but must be above 0"),
        (("--config=configs/lenet5.py", "--seconds=0"), "--seconds is 0.0, but must be above 0"),
        (("--config=configs/lenet5.py", "step"), "unexpected argument 'step'"),
        (("--config=configs/lenet5.py", "--against=flax", "--config.ema_decay=0.9"), "--config.ema_decay=0.0"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message):
    assert message in refused("benchmark", *arguments)


def test_the_table_has_the_numbers_of_the_json(console, small_config):
    result = measure.benchmark(small_config, only=["data"], seconds=0.001, progress=console)
    assert result["compile_seconds"] is None and result["share_of_matmul_peak"] is None
    assert result["images_per_second"]["step"] is None and result["ratios"]["both/step"] is None
    assert console.file.getvalue() == ""  # no terminal: no progress
    results.print_result(result, console)
    assert f"{result['images_per_second']['data']['median']:,.0f}" in console.file.getvalue()
    assert "step" not in console.file.getvalue()


# ---------------------------------------------------------------- data


def test_images_are_not_zero_and_labels_are_random():
    found = measure.random_examples(10_000, (2, 2, 1), 10)
    assert found["image"].dtype == np.uint8 and found["image"].shape == (10_000, 2, 2, 1)
    assert set(np.unique(found["image"])) == set(range(1, 256))
    counts = np.bincount(found["label"], minlength=10)
    assert found["label"].dtype == np.int32 and len(counts) == 10
    assert abs(counts - 1000).max() < 200  # 6 standard deviations


def test_a_stream_keeps_its_images_and_gets_other_labels(small_config):
    streamed = small_config.copy_and_resolve_references()
    streamed.data.placement, streamed.data.mean, streamed.data.std = "stream", (0.3,), (0.4,)
    run = build(streamed)
    real = list(run.data.parts["train"].train_batches(0, 6, 64))
    batches = measure.host_batches(run)
    found = [*batches(2), *batches(4)]  # the second call continues
    labels = [np.concatenate([batch["label"] for batch in some]) for some in (real, found)]
    for one, other in zip(real, found, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["position"], other["position"])
    assert np.mean(labels[0] == labels[1]) < 0.25  # 384 labels of 10 classes agree by chance
    assert len(np.unique(labels[1])) == 10


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_the_contenders_train(small_config, placement):
    config = small_config.copy_and_resolve_references()
    config.data.placement = placement
    if placement == "stream":
        config.data.mean, config.data.std = (0.3,), (0.4,)
    run = build(config)
    size = len(run.data.parts["train"]) if placement == "device" else 128
    _, contenders = measure.ours(run, measure.random_examples(size, run.data.image_shape, 10), compiles=False)
    for name in ("step", "both"):
        start, steps = contenders[name]
        first, again = (float(steps(start(), 3)) for _ in range(2))
        assert 2.0 < first < 3.0, name  # about log 10: random labels cannot be predicted
        assert first == again if name == "step" else first != again  # the same batch; other batches
    assert contenders["data"][1](None, 3) == 0


def test_a_loss_that_is_not_finite_is_an_error(small_config):
    config = small_config.copy_and_resolve_references()
    config.model.activation, config.optim.learning_rate, config.optim.schedule.warmup = "relu", 1e30, "0 steps"
    with pytest.raises(UserError, match=r"loss of 'step' is .* --config.optim.learning_rate"):
        measure.benchmark(config, only=["step"], seconds=0.001, progress=measure.Console(quiet=True))


# ---------------------------------------------------------------- measuring


def test_the_compilation_is_measured_without_the_persistent_cache(tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"], jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        measure.compilation_cache.reset_cache()
        found = measure.compilation(jax.jit(lambda x: jnp.sin(x) @ x), np.ones((64, 64), np.float32))
        assert not list(tmp_path.iterdir())
        assert found["step_bytes"] >= 2 * 64 * 64 * 4  # an argument and a result
        assert jax.config.values["jax_enable_compilation_cache"] == before[1]
        jax.jit(lambda x: jnp.cos(x) @ x)(np.ones((64, 64), np.float32))
        assert list(tmp_path.iterdir())  # it is on again
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
        measure.compilation_cache.reset_cache()


def test_ratios_are_taken_within_each_round():
    speeds = {"step": [10.0, 20.0], "data": [5.0, 80.0], "both": [5.0, 10.0], "flax": [1.0, 5.0]}
    found = measure.ratios(speeds, "flax")
    assert found["both/step"] == dict(median=0.5, min=0.5, max=0.5)
    assert found["both/min(step, data)"] == dict(median=0.75, min=0.5, max=1.0)
    assert found["both/flax"] == dict(median=3.5, min=2.0, max=5.0)
    assert measure.ratios({"step": [10.0]}, None) == {"both/step": None, "both/min(step, data)": None}


# ---------------------------------------------------------------- the loops do the same work


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet5", {"optim.nesterov": True}),
        pytest.param(
            *("cifar_resnet", {"model.depth": 8, "model.width": 0.25, "optim.decay_rule": "(?!.*norm).*"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_flax_loop_equals_ours(name, fields):
    config = recipes.get_config(name)
    plain = {"data.augment": (), "optim.schedule.warmup": "0 steps", "optim.weight_decay": 0.1}
    config.update_from_flattened_dict(plain | fields)
    run = build(config.lock())
    examples = measure.random_examples(len(run.data.parts["train"]), run.data.image_shape, 10)
    train_step, images = run.train_step(States(run).shardings), jax.device_put(examples)
    state = jax.jit(States(run).create)()
    before = jax.device_get(state.params)
    for batch in measure.host_batches(run)(2):
        state = train_step(state, run.put(batch), images)

    start, steps = baselines.flax_loop(run, measure.host_batches(run), examples)
    model, optimizer, metrics = start()
    loss = float(steps((model, optimizer, metrics), 2))
    assert loss == pytest.approx(float(state.sums["loss"] / state.sums["examples"]), rel=1e-4)
    accuracy = float(state.sums["correct"] / state.sums["examples"])
    assert float(metrics.compute()["accuracy"]) == pytest.approx(accuracy)
    theirs = dict(trees.named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    start_values = dict(trees.named_leaves(before))
    for name, value in trees.named_leaves(state.params):
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=2e-6, err_msg=name)
        assert not np.array_equal(value, start_values[name]), name
    fresh = nnx.to_pure_dict(nnx.state(start()[0], nnx.Param))  # every segment starts anew
    for (name, value), other in zip(trees.named_leaves(fresh), jax.tree.leaves(before), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_flax_loop_has_stock_operations(small_config, monkeypatch):
    seen = []
    original = cpu.use_fast_path
    monkeypatch.setattr(cpu, "use_fast_path", lambda: seen.append(original()) or seen[-1])
    run = build(small_config)
    examples = measure.random_examples(len(run.data.parts["train"]), run.data.image_shape, 10)
    start, steps = baselines.flax_loop(run, measure.host_batches(run), examples)
    seen.clear()
    steps(start(), 1)
    assert seen and not any(seen)
    with cpu.fast():
        assert cpu.use_fast_path() is (cpu.target() is not None)


@pytest.mark.parametrize("field", baselines.PLAIN)
def test_a_setting_that_the_references_do_not_have_is_refused(field):
    config = recipes.get_config("lenet5")
    baselines.check_comparable(config)
    others = {
        "optim.lr_multipliers": ((".*", 2.0),),
        "optim.decay_style": "decoupled",
        "optim.name": "adam",
        "optim.options": {"accumulator_dtype": "bfloat16"},
        "accumulation": 2,
        "norm_group": 2,
        "swa_last": "2 epochs",
    }
    other = others.get(field, 0.5)
    config.update_from_flattened_dict({field: other})
    with pytest.raises(UserError, match=rf"config\.{field} is .* --config\.{field}="):
        baselines.check_comparable(config)


# ---------------------------------------------------------------- PyTorch


def random_tree(tree, random):
    """Returns a tree of random float32 arrays of the shapes of `tree`: positive scales and variances."""

    def fill(path, leaf):
        name = trees.path_name(path)
        if name.endswith(("scale", "var")):
            return jnp.asarray(random.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if name.endswith("kernel") else 0.1
        return jnp.asarray(random.normal(0, spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, tree)


def copy_to_twin(twin, rows, values, torch):
    """Copies our values ("conv1/kernel": array) to the twin: both have the layers in the order of the calls."""
    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    targets = [layer for layer in twin.modules() if isinstance(layer, kinds)]
    names = {name.rsplit("/", 1)[0] for name in values}
    sources = [(i, row) for i, row in enumerate(rows) if row.kind in ("conv", "linear", "norm") and row.name in names]
    for (i, row), target in zip(sources, targets, strict=True):
        own = {name.rsplit("/", 1)[1]: np.array(v) for name, v in values.items() if name.rsplit("/", 1)[0] == row.name}
        if row.kind == "conv":
            own["weight"] = np.moveaxis(own.pop("kernel"), (-1, -2), (0, 1))
        elif row.kind == "linear":
            kernel = own.pop("kernel")
            maps = next((row.output_shape for row in reversed(rows[:i]) if len(row.output_shape) > 2), (0,))
            if len(kernel) == np.prod(maps):  # torch flattens [C, *spatial], we flatten [*spatial, C]
                kernel = np.moveaxis(kernel.reshape(*maps, -1), -2, 0).reshape(kernel.shape)
            own["weight"] = kernel.T
        else:
            names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
            own = {names[name]: value for name, value in own.items()}
        assert {name for name in target.state_dict() if name != "num_batches_tracked"} == set(own), row.name
        target.load_state_dict({name: torch.tensor(value.copy()) for name, value in own.items()}, strict=False)


SMALL = {"data.image_size": (32, 32)}
DEPTH_8 = {"model.depth": 8}
SLIM = {"model.width": 0.125}
TWINS = {
    "lenet5": ("lenet5", {}),
    "lenet5-variants": ("lenet5", {"model.activation": "relu", "model.pool": "max", "model.c5": "conv"}),
    "lenet5-gap": ("lenet5", {"model.head": "gap", "model.width": 0.5, "model.activation": "sigmoid"}),
    "cifar-A": ("cifar_resnet", DEPTH_8),
    "cifar-plain": ("cifar_resnet", DEPTH_8 | {"model.residual": False, "model.head": "flatten"}),
    "cifar-C": ("cifar_resnet", DEPTH_8 | {"model.shortcut": "C", "model.width": 0.5}),
    "resnet18-B": ("resnet18", SMALL | {"model.width": 0.125}),
    "resnet50-v1": ("resnet50", SMALL | {"model.variant": "v1", "model.width": 0.125}),
    "vgg11-lrn": ("vgg11_lrn", SMALL | SLIM),
    "vgg16-single": ("vgg16", SMALL | SLIM | {"model.kernel_plan": "single", "model.norm": "batch"}),
    "googlenet": ("googlenet", {"data.image_size": (80, 80), "model.auxiliary": True} | SLIM),
    "googlenet-torchvision": (
        "googlenet",
        {"data.image_size": (64, 64), "model.auxiliary": True, "model.variant": "torchvision", "model.norm": "batch"}
        | SLIM,
    ),
    "c3d": ("c3d", {"data.image_size": (16, 32, 32), "data.num_classes": 10} | SLIM),
    "resnet50-groups": (
        "resnet50",
        SMALL
        | {"model.groups": 4, "model.width_per_group": 4, "model.width": 0.5}
        | {"model.head": "fc", "model.fc_sizes": (20, 30)},
    ),
}


@pytest.mark.parametrize("twin", quick(TWINS, ("lenet5-variants", "cifar-plain", "vgg11-lrn", "c3d")))
def test_the_twin_in_pytorch_has_our_logits_parameters_and_macs(twin):
    name, fields = TWINS[twin]
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    config = recipes.get_config(name)
    config.update_from_flattened_dict(fields)
    shape = (*config.data.image_size, config.data.channels)
    options = {name: value for name, value in config.model.items() if name != "name"}

    def create():
        return models.create(config.model.name, num_classes=10, input_shape=shape, **options)

    random = np.random.default_rng(0)
    network, params, stats = graph.split(nnx.eval_shape(create))
    params, stats = random_tree(params, random), random_tree(stats, random)
    twin = torch_twins.network(config, shape)
    assert sum(parameter.numel() for parameter in twin.parameters()) == trees.count(params)
    values = dict(trees.named_leaves(params)) | dict(trees.named_leaves(stats))
    rows = layer_table(create, shape)
    copy_to_twin(twin, rows, values, torch)
    state = {name: value.clone() for name, value in twin.state_dict().items()}

    x = random.normal(size=(4, *shape)).astype(np.float32)
    expected = np.asarray(jax.jit(lambda p, s, x: nnx.merge(network.eval, p, s)(x))(params, stats, x))
    macs = []

    def count(layer, inputs, output):
        macs.append(output[0].numel() * layer.weight[0].numel())

    kinds = (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    counted = [layer.register_forward_hook(count) for layer in twin.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        twin.train()(torch.tensor(x).movedim(-1, 1))
        for hook in counted:
            hook.remove()
        twin.load_state_dict(state)  # the statistics have moved
        found = twin.eval()(torch.tensor(x).movedim(-1, 1)).numpy()
    assert sum(macs) == sum(row.macs for row in rows)
    scale = np.abs(expected).max()
    assert np.std(expected / scale) > 1e-3  # images differ
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)


def test_the_loop_in_pytorch_trains(small_config):
    torch = pytest.importorskip("torch")
    run = build(small_config)
    examples = measure.random_examples(256, run.data.image_shape, 10)
    start, steps = baselines.torch_loops(run, examples)["training"]
    torch.set_num_threads(1)
    losses = [steps(start(), count) for count in (4, 200, 4)]
    assert 2.0 < losses[0] < 3.0 and losses[1] < losses[0]  # 256 labels can be learned by heart
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)  # every segment starts anew


def test_auxiliary_classifiers_of_the_twin_count_in_the_loss():
    torch = pytest.importorskip("torch")
    config = recipes.get_config("googlenet")
    config.update_from_flattened_dict({"model.auxiliary": True, "model.width": 0.125})
    twin = torch_twins.network(config, (80, 80, 3))
    with torch.no_grad():
        scores = twin(torch.zeros(2, 3, 80, 80))
        loss, logits = with_auxiliary(scores, lambda logits: logits.sum())
    assert logits.shape == (2, 10) and [other.shape for other in scores[1]] == [(2, 10)] * 2
    weighted = zip((1, 0.3, 0.3), (logits, *scores[1]), strict=True)
    assert float(loss) == pytest.approx(sum(weight * float(part.sum()) for weight, part in weighted), abs=1e-4)


def test_evaluation_is_compared_with_pytorch(small_config, console):
    torch = pytest.importorskip("torch")
    result = measure.benchmark(small_config, only=["evaluation"], against="torch", seconds=0.001, progress=console)
    torch.set_num_threads(1)
    assert result["ratios"]["evaluation/torch evaluation"]["median"] > 0
    assert result["images_per_second"]["step"] is None and result["compile_seconds"] is None
    with pytest.raises(UserError, match="--against=flax has no evaluation"):
        measure.benchmark(small_config, only=["evaluation"], against="flax", seconds=0.001, progress=console)


def test_a_network_or_field_without_a_twin_is_named(monkeypatch):
    pytest.importorskip("torch")
    for name, field, value in (
        ("lenet5", "norm", "batch"),
        ("lenet5", "head", "conv"),
        ("lenet5_1998", "output", "rbf"),
    ):
        config = recipes.get_config("lenet5")
        config.model.name = name
        config.model[field] = value
        with pytest.raises(UserError, match=rf"config\.model\.{field} is '{value}'"):
            torch_twins.network(config, (28, 28, 1))
    monkeypatch.setitem(models.MODELS, "lenet5", models.Row("other:LeNet5"))
    monkeypatch.setattr(models, "fields", lambda name: {})
    config.model.name = "lenet5"
    with pytest.raises(UserError, match=r"lenet5 has no twin in PyTorch yet: --against=torch knows resnet18, "):
        torch_twins.network(config, (28, 28, 1))


def test_a_different_number_of_parameters_is_an_error(small_config, monkeypatch):
    torch = pytest.importorskip("torch")
    run = build(small_config)
    monkeypatch.setattr(torch_twins, "network", lambda *_: torch.nn.Linear(2, 3))
    with pytest.raises(RuntimeError, match=r"has 9 parameters, but ours "):
        baselines.torch_loops(run, measure.random_examples(64, run.data.image_shape, 10))


def test_without_pytorch_the_message_says_how_to_get_it(small_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        baselines.torch_loops(build(small_config), {})
