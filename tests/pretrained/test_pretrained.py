import json
import shutil

import jax
import numpy as np
import pytest

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import StorageError, UserError
from cnn_jax.data import augment
from cnn_jax.pretrained import source as pretrained
from cnn_jax.pretrained.predictor import Predictor, load
from cnn_jax.training import loop as train
from cnn_jax.training.setup import build
from cnn_jax.training.state import States


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(configuration, folder) of a run with a moving average and two checkpoints."""
    config = recipes.get_config("resnet20")
    config.model.name, config.model.depth, config.model.width = "cifar_resnet", 8, 0.25
    config.data.image_size = (8, 8)
    config.optim.schedule.warmup = "0 steps"
    config.duration, config.batch_size, config.ema_decay = "6 steps", 32, 0.5
    config.eval.every = config.checkpoint.every = "3 steps"
    config.log.trackers = ""
    folder = tmp_path_factory.mktemp("runs") / "run@home"
    train.run(config, folder)
    return config, folder


def test_a_folder_is_its_latest_checkpoint_named_by_step(run):
    _, folder = run
    found = pretrained.open_source(str(folder))
    assert found.name == f"{folder}@6" and "step 6" in found.description
    assert pretrained.open_source(f"{folder}@3").name == f"{folder}@3"
    assert pretrained.open_source(f"{folder}@best").name in (f"{folder}@3", f"{folder}@6")
    assert found.model["depth"] == 8 and found.num_classes == 10
    assert found.classes == [str(i) for i in range(10)]


def test_the_weights_are_those_that_an_evaluation_takes(run):
    config, folder = run
    setup = build(config)
    with Checkpoints(folder) as checkpoints:
        state = States(setup).restore(checkpoints, 6)
    images = np.stack([example["image"] for example in setup.data.parts["test"].source.read(range(40))])
    others = trees.merged(state.ema["stats"], state.frozen)
    from flax import nnx

    model = nnx.merge(setup.network.eval, state.ema["params"], others)
    expected = model(augment.normalize(images, **setup.data.normalization))
    found = load(str(folder))(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert state.ema is not None and not np.allclose(
        jax.tree.leaves(state.ema["params"])[0], jax.tree.leaves(state.params)[0]
    )


def test_a_file_of_ours_has_everything_that_its_use_needs(run, tmp_path):
    source = pretrained.open_source(str(run[1]))
    path = tmp_path / "small.safetensors"
    pretrained.save(path, source.leaves, model=source.model, given=source.input)
    found = pretrained.open_source(str(path))
    assert found.model == source.model and found.input == source.input and found.leaves.keys() == source.leaves.keys()
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(Predictor(found)(images), Predictor(source)(images))
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def damaged(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "run")
    change(tmp_path / "run")
    return str(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda run: (run / "input.json").unlink(), UserError, "has no input.json"),
        (lambda run: (run / "input.json").write_text("{}"), UserError, "input.json is damaged"),
        (lambda run: (run / "config.json").write_text("["), UserError, "config.json is damaged"),
        (lambda run: (run / "config.json").unlink(), UserError, "holds no run"),
        (lambda run: shutil.rmtree(run / "checkpoints"), UserError, "no checkpoint in"),
        (lambda run: (run / "checkpoints/6/manifest.json").unlink(), None, "@3"),
        (
            lambda run: [path.unlink() for path in run.glob("checkpoints/*/manifest.json")],
            StorageError,
            "no checkpoint in .* is whole",
        ),
    ],
)
def test_a_damaged_run_is_named(run, tmp_path, change, error, message):
    source = damaged(run[1], tmp_path, change)
    if error is None:  # the checkpoint before it is taken
        assert pretrained.open_source(source).name.endswith(message)
        return
    with pytest.raises(error, match=message):
        pretrained.open_source(source)


def test_arrays_that_are_not_those_of_the_network_are_listed(run, tmp_path):
    source = pretrained.open_source(str(run[1]))
    leaves = {name: leaf for name, leaf in source.leaves.items() if name != "conv1/kernel"}
    leaves["head/classifier/bias"] = np.zeros(3, np.float32)
    path = tmp_path / "wrong.safetensors"
    pretrained.save(path, leaves, model=source.model, given=source.input)
    with pytest.raises(UserError) as error:
        load(path)
    assert "conv1/kernel: absent there, [3, 3, 1, 4]" in str(error.value)
    assert "head/classifier/bias: [3] there, [10]" in str(error.value)


def test_the_header_of_a_file_is_read_as_data(run, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(1, np.float32)}, path, metadata={pretrained.METADATA: json.dumps({"model": []})})
    with pytest.raises(UserError, match="its header describes no network"):
        pretrained.open_source(str(path))
    path.write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        pretrained.open_source(str(path))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "but the network takes"),
        (np.zeros((2, 8, 8, 1), np.float32), "must be uint8"),
        ([], "there are no images"),
        ("one.png", "not a single one"),
        (["none.png"], "none.png"),
    ],
)
def test_images_that_the_network_cannot_take_are_named(run, images, message):
    with pytest.raises(UserError, match=message):
        load(run[1])(images)
