"""The step: compiled once, reproducible, and every number that it computes against one computed by hand."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnn_jax import models
from cnn_jax.config import fields as base
from cnn_jax.core import trees
from cnn_jax.data import augment
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph, layers, network
from cnn_jax.nn.init import InitKeys
from cnn_jax.training import averages, optimizers, schedules, step
from commands import environment, process
from tiers import quick

MEAN, STD = np.float32([0.4]), np.float32([0.3])
RATE = 0.1


class Toy(nnx.Module):
    """Convolution, BatchNorm, ReLU, head: the smallest network with statistics and dropout; compiles in a second."""

    def __init__(self, *, dropout: float = 0.0, rngs: InitKeys):
        self.conv = layers.Conv(1, 4, 3, 2, 1, bias=False, init="he_fan_out", rngs=rngs)
        self.norm = layers.BatchNorm(4, rngs=rngs)
        options = dict(kind="flatten", dropout=dropout, init="he_fan_out", classifier_init="he_fan_out", rngs=rngs)
        self.head = network.Head((4, 4, 4), 10, **options)

    def __call__(self, x, *, rngs=None):
        return self.head(jax.nn.relu(self.norm(self.conv(x))), rngs=rngs)


def toy(**fields):
    return Toy(rngs=InitKeys(jax.random.key(0)), **fields)


lenet5 = functools.partial(models.create, "lenet5", width=0.5, padding=4, input_shape=(8, 8, 1))
resnet8 = functools.partial(models.create, "cifar_resnet", depth=8, width=0.25, input_shape=(8, 8, 1))


SMOOTHED = functools.partial(eval_steps.example_losses, label_smoothing=0.2)


@functools.cache
def network_of(create, **fields):
    """Returns (network, parameters, statistics) with arrays from NumPy: initializers take long to compile."""
    network, params, stats = graph.split(jax.eval_shape(lambda: create(**fields)))
    random = np.random.default_rng(0)

    def fill(path, leaf):
        name = trees.path_name(path).rsplit("/", 1)[-1]
        if name == "kernel":
            return (random.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(leaf.dtype)
        return (random.normal(size=leaf.shape) * 0.1 + (name in ("scale", "var"))).astype(leaf.dtype)

    return network, *(jax.tree_util.tree_map_with_path(fill, tree) for tree in (params, stats))


@functools.cache
def make(create, *, fields=(), momentum=0.9, rate=RATE, ema=False, **options):
    """Returns (train_step, fresh): the step of a network, and a function that makes its first state."""
    network, params, stats = network_of(create, **dict(fields))
    config = base.get_config().optim
    config.momentum = momentum
    optimizer = optimizers.make_optimizer(config, params)
    seed = options.pop("seed", 0)
    of_step = {name: options.pop(name) for name in ("accumulation",) if name in options}
    loss = step.make_loss(network, mean=MEAN, std=STD, **options)
    train_step = step.make_train_step(
        loss,
        optimizer,
        lambda _: jnp.float32(rate),
        average=averages.EMA(ema) if ema else None,
        **of_step,
    )

    def fresh() -> step.TrainState:
        # New buffers each time: the step donates them.
        return jax.tree.map(
            lambda x: jnp.array(x, copy=True), step.create_state(params, stats, optimizer, ema=bool(ema), seed=seed)
        )

    return train_step, fresh


def make_batch(number: int = 0, size: int = 16) -> eval_steps.Batch:
    random = np.random.default_rng(number)
    return {
        "image": random.integers(0, 256, (size, 8, 8, 1), np.uint8),
        "label": random.integers(0, 10, size, np.int32),
        "position": np.arange(number * size, (number + 1) * size, dtype=np.uint32),
    }


def copied(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def assert_close(ours, theirs, **tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), ours, theirs)


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def largest_difference(ours, theirs) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), copied(ours), copied(theirs))))


def train(train_step, state, batches) -> step.TrainState:
    for batch in batches:
        state = train_step(state, batch, None)
    return state


def cross_entropies(logits, labels, smoothing: float = 0.0) -> np.ndarray:
    """In float64: minus the logarithm of the label's softmax, mixed with the mean over all classes."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    minus_log = np.log(np.exp(shifted).sum(1, keepdims=True)) - shifted
    own = minus_log[np.arange(len(labels)), labels]
    return (1 - smoothing) * own + smoothing * minus_log.mean(1)


def normalized(images) -> jax.Array:
    unit = 255 if images.dtype == np.uint8 else 1  # mixtures are values in [0, 1]
    return (jnp.asarray(images, jnp.float32) / unit - MEAN) / STD


# ---------------------------------------------------------------- compilation and buffers


def test_training_and_evaluation_compile_once():
    # As in a run: the first state from jit, batches of indices, sums replaced by zeros, a plateau that was updated.
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    replicated, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    network, params, stats = network_of(toy)
    config = base.get_config().optim
    optimizer = optimizers.make_optimizer(config, params)
    schedule = schedules.make_schedule(config, 10, lambda _: 0)
    loss = step.make_loss(network, mean=MEAN, std=STD, augmentations=("pad_crop:1", "flip"))
    train_step = step.make_train_step(loss, optimizer, schedule, average=averages.EMA(0.9))
    eval_step = eval_steps.make_eval_step(network, mean=MEAN, std=STD)
    images = {name: make_batch(0, 64)[name] for name in ("image", "label")}
    resident = jax.device_put(images, replicated)
    state = jax.jit(lambda: step.create_state(params, stats, optimizer, ema=True), out_shardings=replicated)()
    for number in range(4):
        position = np.arange(16 * number, 16 * number + 16)
        batch = {"index": position.astype(np.int32), "position": position.astype(np.uint32)}
        state = train_step(state, jax.device_put(batch, split), resident)
        if number % 2:
            state = replace(state, sums=jax.device_put(step.zero_sums(), replicated))
            plateau = state.plateau.update(0.5, config.schedule)
            state = replace(state, plateau=jax.device_put(plateau, replicated))
        batch = {"index": position.astype(np.int32), "mask": np.float32(position < 50)}
        eval_step(state.params, state.stats, jax.device_put(batch, split), resident)
        eval_step(state.ema["params"], state.ema["stats"], jax.device_put(batch, split), resident)
    assert int(state.step) == 4
    assert train_step._cache_size() == 1
    assert eval_step._cache_size() == 1


def test_the_state_is_donated():
    train_step, fresh = make(toy)
    state = fresh()
    after = train_step(state, make_batch(), None)
    for tree in (state.params, state.stats, state.opt_state):
        assert jax.tree.leaves(tree) and all(leaf.is_deleted() for leaf in jax.tree.leaves(tree))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


# ---------------------------------------------------------------- randomness

RANDOM = dict(fields=(("dropout", 0.5),), augmentations=("pad_crop:1", "flip"))


def test_equal_seeds_give_bit_identical_states():
    batches = [make_batch(number) for number in range(3)]
    make.cache_clear()
    first = train(*run(make(toy, seed=3, **RANDOM)), batches)
    make.cache_clear()  # a second step from scratch, as in a second process
    again = train(*run(make(toy, seed=3, **RANDOM)), batches)
    assert_equal(copied(first), copied(again))
    other = train(*run(make(toy, seed=4, **RANDOM)), batches)
    assert largest_difference(first.params, other.params) > 1e-3


def run(made):
    """Returns (train_step, first state) of what `make` returned."""
    train_step, fresh = made
    return train_step, fresh()


def test_dropout_differs_from_step_to_step_and_is_a_function_of_the_step():
    train_step, fresh = make(toy, fields=(("dropout", 0.5),), rate=0.0)  # parameters stay: only dropout differs
    losses = []
    for number in (0, 1, 2, 0):
        state = replace(fresh(), step=jnp.int32(number))
        losses.append(float(train_step(state, make_batch(), None).sums["loss"]))
    assert len(set(losses[:3])) == 3
    assert losses[3] == losses[0]


def test_without_dropout_and_augmentation_all_steps_see_the_same_network():
    train_step, fresh = make(toy, rate=0.0)
    losses = {float(train_step(replace(fresh(), step=jnp.int32(n)), make_batch(), None).sums["loss"]) for n in range(3)}
    assert len(losses) == 1


def test_evaluation_has_no_dropout():
    # The same arrays in the network with dropout and in the one without: the same sums, again and again.
    batch = make_batch() | {"mask": np.ones(16, np.float32)}
    _, params, stats = network_of(toy)
    sums = []
    for dropout in (0.5, 0.0):
        network, *_ = network_of(toy, dropout=dropout)
        eval_step = eval_steps.make_eval_step(network, mean=MEAN, std=STD)
        sums += [copied(eval_step(params, stats, batch, None)) for _ in range(2)]
    for other in sums[1:]:
        assert_equal(sums[0], other)
    assert sums[0]["examples"] == 16


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_loss_of_an_example_is_the_smoothed_cross_entropy(smoothing):
    random = np.random.default_rng(0)
    logits, labels = (5 * random.normal(size=(20, 7))).astype(np.float32), random.integers(0, 7, 20)
    ours = eval_steps.example_losses(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(ours, cross_entropies(logits, labels, smoothing), rtol=1e-5, atol=1e-6)


# Few values, so that there are many ties.
scores = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, 2.0, np.inf])


@given(st.sampled_from([2, 5, 11]), st.data())
def test_label_ranks_equal_the_place_in_a_stable_sort(classes, data):
    logits = data.draw(st.lists(st.lists(scores, min_size=classes, max_size=classes), min_size=4, max_size=4))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=4, max_size=4))
    logits = np.array(logits, np.float32)
    ranks = np.asarray(eval_steps.label_ranks(jnp.asarray(logits), jnp.asarray(labels)))
    order = np.argsort(-logits, axis=1, kind="stable")
    np.testing.assert_array_equal(ranks, [list(row).index(label) for row, label in zip(order, labels, strict=True)])
    np.testing.assert_array_equal(ranks == 0, np.argmax(logits, axis=1) == labels)


def test_ties_are_a_hit_for_the_first_class_and_nan_for_none():
    ranks = eval_steps.label_ranks(jnp.zeros((6, 6)), jnp.arange(6))
    np.testing.assert_array_equal(ranks, range(6))
    for place in range(6):  # wherever the NaN is, also under the label
        logits = jnp.zeros((6, 6)).at[:, place].set(jnp.nan)
        assert (eval_steps.label_ranks(logits, jnp.arange(6)) >= 6).all()


def test_nan_is_not_a_top5_hit_even_with_fewer_than_five_classes():
    ranks = eval_steps.label_ranks(jnp.full((3, 3), jnp.nan), jnp.arange(3))
    assert (ranks >= 5).all()


# ---------------------------------------------------------------- what a step adds up


@functools.partial(jax.jit, static_argnums=3)
@functools.partial(jax.value_and_grad, has_aux=True)
def reference(params, stats, batch, smoothing=0.0):
    """The mean loss of the toy network and its logits, by another formula than that of the step; with the gradient."""
    logits = nnx.merge(network_of(toy)[0].train, params, stats)(normalized(batch["image"]))
    logs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(logs, batch["label"][:, None], axis=1)[:, 0]
    return -jnp.mean((1 - smoothing) * own + smoothing * logs.mean(1)), logits


def image_batch(number: int) -> eval_steps.Batch:
    return {name: array for name, array in make_batch(number).items() if name != "position"}


def test_the_sums_of_training_equal_those_counted_by_hand():
    train_step, fresh = make(toy, losses=SMOOTHED)
    state = fresh()
    total = dict(loss=0.0, correct=0, examples=0, gradient_norm=0.0, steps=0, learning_rate=RATE)
    for number in range(6):
        params, stats = copied((state.params, state.stats))
        batch = make_batch(number)
        (_, logits), gradient = reference(params, stats, image_batch(number), 0.2)
        total["loss"] += cross_entropies(logits, batch["label"], 0.2).sum()
        total["correct"] += int((np.argmax(logits, 1) == batch["label"]).sum())
        total["examples"] += 16
        total["gradient_norm"] += np.sqrt(sum((np.float64(g) ** 2).sum() for g in jax.tree.leaves(gradient)))
        total["steps"] += 1
        state = train_step(state, batch, None)
    sums = {name: float(value) for name, value in state.sums.items()}
    assert sums.keys() == total.keys() and sums["correct"] > 0
    for name, value in total.items():
        exact = name in ("correct", "examples", "steps")
        assert sums[name] == (value if exact else pytest.approx(value, rel=1e-5)), name
    assert int(state.step) == 6


def test_the_learning_rate_is_that_of_the_schedule_times_the_plateau():
    train_step, fresh = make(toy, momentum=0.0)
    _, params, stats = network_of(toy)
    _, gradient = reference(params, stats, image_batch(0))
    state = fresh()
    state = replace(state, plateau=replace(state.plateau, scale=jnp.float32(0.25)))
    after = train_step(state, make_batch(), None).params
    expected = jax.tree.map(lambda p, g: p - RATE * 0.25 * g, params, gradient)
    assert_close(copied(after), copied(expected), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- accumulation


def test_micro_batches_without_batchnorm_equal_the_whole_batch():
    batches = [make_batch(number) for number in range(3)]
    options = dict(augmentations=("flip",))
    whole, parts = (train(*run(make(lenet5, accumulation=n, **options)), batches) for n in (1, 4))
    assert largest_difference(whole.params, make(lenet5, accumulation=1, **options)[1]().params) > 1e-2
    assert_close(copied(parts.params), copied(whole.params), rtol=1e-5, atol=1e-6)
    assert_close(copied(parts.sums), copied(whole.sums), rtol=1e-5)


def test_micro_batches_average_gradients_and_update_statistics():
    train_step, fresh = make(toy, accumulation=4, momentum=0.0)
    network, params, stats = network_of(toy)
    batch = image_batch(0)
    mean, variance = (stats["norm"][name].astype(np.float64) for name in ("mean", "var"))
    means, gradients = [], []
    for i in range(4):
        part = {name: array[i::4] for name, array in batch.items()}
        maps = np.asarray(nnx.merge(network.train, params, stats).conv(normalized(part["image"])), np.float64)
        means.append(maps.mean((0, 1, 2)))
        mean = 0.9 * mean + 0.1 * means[-1]
        variance = 0.9 * variance + 0.1 * maps.var((0, 1, 2))  # the biased one
        gradients.append(reference(params, stats, part)[1])
    after = train_step(fresh(), make_batch(), None)
    np.testing.assert_allclose(after.stats["norm"]["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.stats["norm"]["var"], variance, rtol=1e-5)
    # In reverse order the averages differ by far more than rounding: the test detects the order.
    backwards = functools.reduce(lambda old, new: 0.9 * old + 0.1 * new, means[::-1], stats["norm"]["mean"])
    assert np.abs(backwards - mean).max() > 1e-4
    expected = jax.tree.map(lambda p, *g: p - RATE * sum(g) / 4, params, *gradients)
    assert_close(copied(after.params), copied(expected), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- mixed examples


def mixed(batch, names):
    """Returns (images as the network sees them before normalization, shares of the own label) of the first step."""
    key = step.make_keys(jnp.uint32(0), jnp.int32(0)).augmentation
    images = augment.augment(key, batch["image"], batch["position"], names)
    return copied(jax.jit(augment.mix, static_argnums=3)(key, images, batch["position"], names))


@pytest.mark.parametrize("name", quick(["mixup:0.4", "cutmix:1.0"], ["cutmix:1.0"]))
def test_the_loss_of_mixed_examples_weights_both_labels(name):
    train_step, fresh = make(toy, losses=SMOOTHED, augmentations=("flip", name))
    network, params, stats = network_of(toy)
    batch = make_batch()
    images, shares = mixed(batch, ("flip", name))
    logits = nnx.merge(network.train, params, stats)(normalized(images))
    own, other = (cross_entropies(logits, labels, 0.2) for labels in (batch["label"], np.roll(batch["label"], 1)))
    sums = train_step(fresh(), batch, None).sums
    assert float(sums["loss"]) == pytest.approx(np.sum(shares * own + (1 - shares) * other), rel=1e-5)
    assert abs(np.sum(own) / float(sums["loss"]) - 1) > 1e-3
    assert int(sums["correct"]) == np.sum(np.argmax(logits, 1) == batch["label"])  # the own label


@pytest.mark.slow
def test_micro_batches_mix_among_themselves(name="mixup:0.4"):
    train_step, fresh = make(lenet5, accumulation=2, momentum=0.0, augmentations=(name,))
    network, params, stats = network_of(lenet5)
    batch = make_batch()

    def loss(params, part, images, shares):
        logs = jax.nn.log_softmax(nnx.merge(network.train, params, stats)(normalized(images)))
        own, other = (logs[jnp.arange(8), labels] for labels in (part["label"], jnp.roll(part["label"], 1)))
        return -jnp.mean(shares * own + (1 - shares) * other)

    gradient = jax.jit(jax.grad(loss))
    parts = [{name: array[i::2] for name, array in batch.items()} for i in range(2)]
    gradients = [gradient(params, part, *mixed(part, (name,))) for part in parts]
    expected = jax.tree.map(lambda p, *g: p - RATE * sum(g) / 2, params, *gradients)
    assert_close(copied(train_step(fresh(), batch, None).params), copied(expected), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- moving average


def test_the_moving_average_follows_its_formula():
    train_step, fresh = make(toy, ema=0.15)
    state = fresh()
    expected = copied({"params": state.params, "stats": state.stats})  # it starts at the first parameters
    for number, decay in enumerate((1 / 10, 0.15, 0.15)):  # (1 + t) / (10 + t) is 0.1, 0.18, 0.25
        state = train_step(state, make_batch(number), None)
        now = copied({"params": state.params, "stats": state.stats})
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, now)
        assert_close(copied(state.ema), expected, rtol=1e-5, atol=1e-7)
    assert largest_difference(state.ema["params"], state.params) > 1e-3
    assert largest_difference(state.ema["stats"], state.stats) > 1e-3


def test_the_moving_average_does_not_change_the_training():
    batches = [make_batch(number) for number in range(2)]
    without, with_it = (train(*run(make(toy, ema=ema)), batches) for ema in (False, 0.15))
    assert without.ema is None
    assert_close(copied(with_it.params), copied(without.params), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- precision


def test_a_nonfinite_update_is_a_failed_step():
    """As if an optimizer divided by a rate of 0: loss and gradient are finite, the parameters would not be."""
    network, params, stats = network_of(resnet8)
    sgd = optimizers.make_optimizer(base.get_config().optim, params)

    def update(grads, state, params, **extra):
        updates, state = sgd.update(grads, state, params, **extra)
        return jax.tree.map(lambda x: x / 0, updates), state

    broken = optax.GradientTransformationExtraArgs(sgd.init, update)
    loss = step.make_loss(network, mean=MEAN, std=STD)
    rate = lambda _: jnp.float32(RATE)  # noqa: E731
    train_step = step.make_train_step(loss, broken, rate, checks_updates=True)
    state = train_step(step.create_state(params, stats, broken, ema=False), make_batch(), None)
    assert int(state.failed) == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


def test_in_bfloat16_the_state_stays_float32():
    train_step, fresh = make(resnet8, fields=(("dtype", jnp.bfloat16),))
    network, params, stats = network_of(resnet8, dtype=jnp.bfloat16)
    state = train(train_step, fresh(), [make_batch(number) for number in range(2)])
    for tree in (state.params, state.opt_state, state.stats):
        assert jax.tree.leaves(tree) and {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copied((state.params, state.stats, state.sums))))

    def forward(params, stats, x):
        model = nnx.merge(network.train, params, stats)
        return model.features(x), model(x)

    features, logits = jax.eval_shape(forward, params, stats, jnp.zeros((2, 8, 8, 1)))
    assert features.dtype == jnp.bfloat16 and logits.dtype == jnp.float32


# ---------------------------------------------------------------- devices

ON_DEVICES = """
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnn_jax.nn import graph
from cnn_jax import models
from cnn_jax.training import optimizers, step
from cnn_jax.config import fields as base

assert len(jax.devices()) == 8
random = np.random.default_rng(0)
images = {"image": random.integers(0, 256, (64, 8, 8, 1), np.uint8), "label": random.integers(0, 10, 64, np.int32)}
create = lambda: models.create("cifar_resnet", depth=8, width=0.25, input_shape=(8, 8, 1))
network, params, stats = graph.split(jax.eval_shape(create))
# Statistics start at variance 1, scales at 1, all else at random.
fill = lambda leaf: random.normal(0, 0.2, leaf.shape).astype(np.float32) if leaf.ndim > 1 else np.ones(leaf.shape, "f")
params, stats = jax.tree.map(fill, (params, stats))
config = base.get_config().optim
optimizer = optimizers.make_optimizer(config, params)
trained = []
for devices in (jax.devices()[:1], jax.devices()):
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    loss = step.make_loss(
        network, mean=np.float32([0.4]), std=np.float32([0.3]), augmentations=("pad_crop:1", "flip", "cutmix:1.0")
    )
    train_step = step.make_train_step(loss, optimizer, lambda _: 0.02)
    resident = jax.device_put(images, replicated)
    state = jax.jit(lambda: step.create_state(params, stats, optimizer, ema=False), out_shardings=replicated)()
    for number in range(5):
        position = np.arange(32 * number, 32 * number + 32)
        batch = {"index": (position % 64).astype(np.int32), "position": position.astype(np.uint32)}
        state = train_step(state, jax.device_put(batch, split), resident)
    assert all(len(leaf.sharding.device_set) == len(devices) for leaf in jax.tree.leaves(state))
    assert train_step._cache_size() == 1
    trained.append(jax.device_get((state.params, state.stats, state.opt_state, state.sums)))
change = max(abs(a - b).max() for a, b in zip(jax.tree.leaves(trained[0][0]), jax.tree.leaves(params)))
assert change > 0.01, change
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *trained)
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_train_as_one_does():
    done = process("-c", ON_DEVICES, env=environment(devices=8))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
