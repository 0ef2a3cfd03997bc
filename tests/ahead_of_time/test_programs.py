"""Programs are compiled for the shapes that training and evaluation pass to them."""

import re
from collections import Counter

import jax
import pytest

from cnn_jax.ahead_of_time.programs import Programs
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.eval import protocols, views
from cnn_jax.training.setup import build
from cnn_jax.training.state import States
from tiers import quick


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def programs(config):
    return Programs(config, jax.devices())


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_training_takes_the_shapes_of_a_real_batch(small_config, placement):
    small_config.data.update(placement=placement, mean=(0.3,), std=(0.4,))
    setup = build(small_config)
    batch = next(setup.data.parts["train"].train_batches(0, 1, small_config.batch_size))
    state, ours, resident = programs(small_config).train().arguments
    assert kinds(state) == kinds(States(setup).shapes)
    assert kinds(ours) == kinds({name: batch[name] for name in ours}) and set(batch) - set(ours) <= {"readable"}
    real = setup.resident("train")
    assert kinds(resident) == kinds(real)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_evaluation_takes_the_shapes_of_a_real_batch(small_config, placement):
    small_config.data.update(placement=placement, mean=(0.3,), std=(0.4,))
    setup = build(small_config)
    size = setup.config.eval.batch_size
    batch = next(setup.data.parts["test"].test_batches(size))
    if placement == "device":
        known = setup.resident("test")
        batch = batch | {name: array[batch["index"]] for name, array in known.items()}
    params, others, ours, none = programs(small_config).evaluation().arguments
    assert none is None
    assert kinds(ours) == kinds({name: batch[name] for name in ours})
    assert kinds(trees.merged(params, others)) == kinds(trees.merged(setup.params, setup.stats))


def test_the_program_is_the_one_that_training_compiles(small_config):
    """The same operations, except for reshapes to the same shape, which shardings leave."""
    small_config.data.update(mean=(0.3,), std=(0.4,))
    setup = build(small_config)
    states = States(setup)
    batch = next(setup.data.parts["train"].train_batches(0, 1, small_config.batch_size))
    step = setup.train_step(states.shardings)
    real = step.lower(jax.eval_shape(states.create), setup.put(batch), setup.resident("train")).as_text()
    ours = programs(small_config).train().lower().as_text()

    def operations(text):
        return Counter(re.findall(r"stablehlo\.(?!reshape)\w+", text))

    assert operations(ours) == operations(real) and sum(operations(real).values()) > 300


def test_bytes_are_those_of_the_arguments(small_config):
    found = programs(small_config).train()
    size = small_config.batch_size
    assert found.batch == size * (4 + 4) and (found.images, found.passes) == (size, 3)
    assert found.resident == 1258 * (7 * 128 + 4)  # 28 x 28 bytes as rows, and a label
    parameters = sum(x.size for x in jax.tree.leaves(found.arguments[0].params))
    assert 2 * 4 * parameters < found.state < 2 * 4 * parameters + 200  # with momentum and a few scalars
    assert programs(small_config).evaluation().resident == 1797 * (7 * 128 + 4)


@pytest.mark.parametrize("protocol", quick(["flip", "10-crop", "144-crop", "dense"], ["10-crop"]))
def test_views_have_the_shape_that_a_protocol_asks_for(protocol):
    config = recipes.get_config("resnet18", "imagenet2012")
    config.eval.protocol, config.eval.batch_size = protocol, 64
    config.model.width = 0.125
    program = programs(config).protocol()
    assert program is not None
    shape = program.arguments[2].shape
    square = jax.numpy.zeros((300, 300, 3), "uint8").__array__()
    side = max(protocols.scales(config))
    one = views.views(square, config.data, protocol, side)
    assert shape[1:] == one.shape
    assert shape[0] == max(1, 64 * 224 * 224 // (one.shape[0] * one.shape[1] * one.shape[2]))
    assert program.passes == 1 and program.images >= 2 * shape[0] * shape[1]


def test_single_views_have_no_separate_program(small_config):
    assert programs(small_config).protocol() is None


def test_features_replace_images(small_config):
    small_config.trainable, small_config.cache_features, small_config.data.augment = "head", True, ()
    _, batch, resident = programs(small_config).train().arguments
    assert set(batch) == {"index", "position"}
    assert resident["image"].dtype == "float32" and resident["image"].shape[0] == 1258
    assert programs(small_config).train().lower() is not None


def test_published_sizes_make_the_resident_images():
    config = recipes.get_config("resnet20", "cifar10")
    resident = programs(config).train().arguments[2]
    assert kinds(resident["image"].values) == ((45000, 32 * 32 * 3), "uint8")


def test_a_batch_larger_than_the_data_is_refused(small_config):
    small_config.batch_size = 2048
    with pytest.raises(UserError, match="but the train part has 1,258 examples"):
        programs(small_config)
