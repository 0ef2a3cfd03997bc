import pickle
import time
from types import SimpleNamespace

import jax
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import cnn_jax
import several_shardings
from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.nn import graph
from cnn_jax.parallel import mesh
from cnn_jax.training.config_check import check_config
from cnn_jax.training.evaluator import Evaluator
from cnn_jax.training.state import States
from several_processes import program
from several_shardings import MESHES, REFERENCES

# ---------------------------------------------------------------- rules


def specs(model, *, data=1, preset="replicated", rules=(), **fields):
    """Returns ({name: shape}, {name: spec}) of a network on a mesh that need not exist here."""
    _, params, _ = graph.split(jax.eval_shape(lambda: cnn_jax.create(**fields)))
    config = recipes.get_config("alexnet").mesh
    config.update(dict(preset=preset, rules=rules))
    found = mesh.parameter_specs(params, AbstractMesh((data, model), ("data", "model")), config)
    return {name: leaf.shape for name, leaf in trees.named_leaves(params)}, dict(trees.named_leaves(found))


def bytes_on_a_device(shapes, found, sizes):
    parts = {name: np.prod([1, *(sizes[axis] for axis in spec if axis)]) for name, spec in found.items()}
    return 4 * sum(int(np.prod(shape)) // int(parts[name]) for name, shape in shapes.items())


def test_fc_splits_the_linear_layers_of_alexnet_as_krizhevsky_did():
    shapes, found = specs(8, preset="fc", name="alexnet")
    split = {name: spec for name, spec in found.items() if any(spec)}
    assert split == {
        "head/hidden/0/kernel": PartitionSpec(None, "model"),
        "head/hidden/0/bias": PartitionSpec("model"),
        "head/hidden/1/kernel": PartitionSpec(None, "model"),
        "head/hidden/1/bias": PartitionSpec("model"),
        "head/classifier/kernel": PartitionSpec("model", None),
    }
    linear = 9216 * 4096 + 4096 * 4096 + 4096 * 1000 + 2 * 4096  # of 60,965,224
    assert bytes_on_a_device(shapes, found, {"model": 8}) == 4 * (60_965_224 - linear + linear // 8)


def test_fc_splits_those_of_vgg():
    shapes, found = specs(4, preset="fc", name="vgg16")
    linear = 25088 * 4096 + 4096 * 4096 + 4096 * 1000 + 2 * 4096
    assert bytes_on_a_device(shapes, found, {"model": 4}) == 4 * (138_357_544 - linear + linear // 4)


def test_a_rule_of_one_axis_splits_the_longest_that_divides_evenly():
    _, found = specs(1, data=8, rules=((".*", "data"),), name="resnet18", num_classes=10)
    assert found["conv1/kernel"] == PartitionSpec(None, None, None, "data")  # [7, 7, 3, 64]
    assert found["head/classifier/kernel"] == PartitionSpec("data", None)  # [512, 10]
    assert found["head/classifier/bias"] == PartitionSpec(None)  # [10]: whole


def test_fsdp_leaves_small_arrays_whole():
    """By hand, of ResNet-18: the stem, the first stage and its way to the second; everything with one axis."""
    shapes, found = specs(1, data=8, preset="fsdp", name="resnet18")
    whole = {name: shapes[name] for name, spec in found.items() if not any(spec)}
    kernels = [(7, 7, 3, 64), *[(3, 3, 64, 64)] * 4, (1, 1, 64, 128), (1, 1, 128, 256)]
    assert sorted(shape for shape in whole.values() if len(shape) > 1) == sorted(kernels)
    assert len(whole) == len(kernels) + 2 * 20 + 1  # scales and offsets of 20 layers, and the classifier's bias
    rest = 9_408 + 4 * 36_864 + 8_192 + 32_768 + 9_600 + 1_000
    assert bytes_on_a_device(shapes, found, {"data": 8}) == 4 * (rest + (11_689_512 - rest) // 8)


def gathered(values, rounded=()):
    """Returns what a step makes of the parameters `values`, split over the one device of this process."""
    on_one = mesh.make_mesh(1)
    specs = {"kernel": PartitionSpec("data", None), "dense": PartitionSpec("model", None), "bias": PartitionSpec()}
    shardings = {name: NamedSharding(on_one, specs[name]) for name in values}
    return jax.jit(lambda tree: mesh.gather(tree, shardings, rounded))(values)


def test_a_gathered_kernel_is_rounded_before_it_travels():
    values = {"kernel": np.float32([[1.001, 3.01]]), "dense": np.float32([[1.001]]), "bias": np.float32([3.01])}
    found = gathered(values, rounded=("kernel", "dense"))
    np.testing.assert_array_equal(found["kernel"], np.float32([[1.0, 3.015625]]))  # 8 bits
    assert found["kernel"].dtype == np.float32
    for name in ("dense", "bias"):  # they stay where they are
        np.testing.assert_array_equal(found[name], values[name])
    jax.tree.map(np.testing.assert_array_equal, gathered(values), values)


def test_the_first_rule_wins_and_rules_come_before_the_preset():
    rules = (("head/hidden/0/.*", "model"), ("head/hidden/.*/kernel", (None, None)))
    _, found = specs(4, preset="fc", rules=rules, name="alexnet")
    assert found["head/hidden/0/kernel"] == PartitionSpec("model", None)  # [9216, 4096]
    assert found["head/hidden/1/kernel"] == PartitionSpec(None, None)
    assert found["head/hidden/1/bias"] == PartitionSpec("model")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(preset="fc", name="resnet18"), r"config\.mesh\.preset='fc': .*hidden.* matches none of"),
        (
            dict(model=1, data=4, preset="fc", name="alexnet"),
            r"config\.mesh\.preset='fc' splits .* over 'model', which has one of the 4 devices: .* above 1",
        ),
        (
            dict(rules=(("conv1/kernel", (None, None, None, "data")),), name="lenet5"),
            r"over 'data', which has one of the 4",
        ),
        (dict(rules=(("conv9", "model"),), name="lenet5"), r"config\.mesh\.rules: 'conv9' matches none of"),
        (dict(rules=((".*kernel", (None, "model")),), name="lenet5"), r"\(5, 5, 1, 6\), but the rule is for 2 axes"),
        (
            dict(rules=(("head/classifier/kernel", (None, "model")),), name="lenet5"),
            r"\(84, 10\), whose 10 cannot be split into 4 equal parts over 'model'",
        ),
    ],
)
def test_a_rule_that_matches_nothing_or_does_not_fit_is_an_error(given, message):
    with pytest.raises(UserError, match=message):
        specs(**{"model": 4} | given)


@pytest.mark.parametrize(
    "rule", ["x", ("x",), ("x", "modl"), ("x", ("data", "data")), ("x", (1,)), (1, "data"), ("x", None)]
)
def test_a_malformed_rule_is_refused(rule):
    config = recipes.get_config("vgg16")
    with config.ignore_type():
        config.mesh.rules = (rule,)
    with pytest.raises(UserError, match=r"config\.mesh\.rules has .*every entry must be a rule"):
        check_config(config)


def test_the_axis_model_must_divide_the_devices(small_config):
    with pytest.raises(UserError, match=r"config\.mesh\.model is 3, but must divide the number of devices, 1"):
        mesh.make_mesh(3)


def test_optimizer_state_is_where_parameters_are():
    config = recipes.get_config("lenet5")
    config.mesh.preset = "fsdp"
    on_one = mesh.make_mesh(1)
    shapes = {"conv": {"kernel": (3, 3, 8, 16)}, "fc": {"kernel": (512, 256), "bias": (6,)}}
    params = jax.tree.map(lambda shape: np.zeros(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
    specs = mesh.parameter_specs(params, on_one, config.mesh)
    for optimizer in (optax.adamw(0.1), optax.lamb(0.1), optax.adafactor(0.1, momentum=0.9), optax.contrib.muon(0.1)):
        state = {"opt_state": optimizer.init(params)}
        found = dict(trees.named_leaves(mesh.state_shardings(state, params, specs, on_one)))
        for name, leaf in trees.named_leaves(state):
            if name.endswith("fc/kernel") and leaf.shape == (512, 256):
                assert found[name].spec == PartitionSpec("data", None), name
            if leaf.shape not in [p.shape for p in jax.tree.leaves(params)]:  # counts, means of rows and columns
                assert found[name].spec == PartitionSpec(), name
        assert sum(name.endswith("fc/kernel") for name in found) >= 1


# ---------------------------------------------------------------- training on 8, 2 and 1 devices


def found_by(folder, part, devices):
    process = program("several_shardings.py", folder, part, devices=devices)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return pickle.loads((folder / f"{part}.pickle").read_bytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns (folder, results of 8 devices, results of 2 devices that resumed from there)."""
    folder = tmp_path_factory.mktemp("meshes")
    return folder, found_by(folder, "on_eight", 8), found_by(folder, "on_two", 2)


def assert_close(tree, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), tree, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MESHES if name not in REFERENCES])
def test_every_rule_gives_the_numbers_of_parameters_on_every_device(trained, name):
    _, eight, _ = trained
    reference = eight[REFERENCES["in bfloat16" in name]]["state"]
    assert float(reference.sums["loss"]) > 0
    assert_close(eight[name]["state"], reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_every_device_holds_the_bytes_that_are_promised_and_printed(trained, name):
    _, eight, _ = trained
    assert eight[name]["bytes"] == [eight[name]["promised"]] * 8
    assert eight[name]["specs"] == eight[name]["expected"]


@pytest.mark.slow
def test_the_rules_split_as_promised(trained):
    _, eight, _ = trained
    state = eight["replicated"]["state"]
    sizes = {name: leaf.nbytes for name, leaf in trees.named_leaves(state.params)}
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert eight["replicated"]["promised"] == whole
    linear = sum(size for name, size in sizes.items() if name.startswith("head/")) - sizes["head/classifier/bias"]
    assert eight["fc"]["promised"] == whole - 3 * linear // 2  # parameters, momentum and moving average
    large = 4 * (1600 * 480 + 480 * 336)  # the hidden linear layers
    assert eight["fsdp"]["promised"] == whole - 3 * large * 7 // 8


@pytest.mark.slow
def test_a_checkpoint_resumes_on_fewer_devices_with_other_rules(trained):
    folder, eight, two = trained
    jax.tree.map(np.testing.assert_array_equal, two["restored"], eight["fsdp"]["state"])
    assert_close(two["longer"], eight["longer"])
    assert jax.device_count() == 1
    this = several_shardings.get_run("fsdp")
    for saved, at, expected in (("two", 6, two["longer"]), ("fc", 4, eight["fc"]["state"])):
        with Checkpoints(folder / saved) as checkpoints:
            state = States(this).restore(checkpoints, at)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
    found, expected = Evaluator(this).evaluate(state, "test"), eight["fc"]["test"]
    assert_close([found[name] for name in ("examples", "loss", "error")], [359, expected["loss"], expected["error"]])
    assert_close(jax.device_get(several_shardings.train(this, state, 4, 6)), eight["longer"])


# ---------------------------------------------------------------- pace


class Device:
    def __init__(self, platform):
        self.platform = platform


class Result:
    """An array on devices of a platform that is ready after some seconds; `waits` counts who waited for it."""

    def __init__(self, platform, devices, seconds):
        self.sharding = SimpleNamespace(device_set={Device(platform) for _ in range(devices)})
        self.seconds, self.waits = seconds, 0

    def block_until_ready(self):
        self.waits += 1
        time.sleep(self.seconds)
        return self


@pytest.mark.parametrize(
    ("platform", "devices", "seconds", "waits"),
    [("cpu", 1, mesh.SHORT + 0.02, 5), ("cpu", 1, 0, 2), ("gpu", 1, mesh.SHORT + 0.02, 0), ("cpu", 4, 0, 0)],
)
def test_long_steps_on_one_cpu_wait_for_each_other(platform, devices, seconds, waits):
    result, pace = Result(platform, devices, seconds), mesh.Pace()
    for _ in range(5):
        pace(result)
    assert result.waits == waits


def test_several_devices_of_a_cpu_wait_now_and_then():
    result, pace = Result("cpu", 2, 0), mesh.Pace()
    for _ in range(2 * mesh.IN_FLIGHT + 1):
        pace(result)
    assert result.waits == 2
