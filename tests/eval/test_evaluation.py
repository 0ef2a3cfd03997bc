"""Evaluation counts every example once, and recomputed statistics are plain averages over batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from cnn_jax.config.fields import get_config
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, loader
from cnn_jax.data.order import Order
from cnn_jax.eval import evaluation
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn import graph, layers, network
from cnn_jax.nn.init import InitKeys

MEAN, STD = np.float32([0.4]), np.float32([0.3])
COUNT = 45


class Toy(nnx.Module):
    """Two convolutions with BatchNorm and a head with dropout."""

    def __init__(self, rngs: InitKeys):
        options = dict(bias=False, init="he_fan_out", rngs=rngs)
        self.conv1, self.norm1 = layers.Conv(1, 4, 3, 2, 1, **options), layers.BatchNorm(4, rngs=rngs)
        self.conv2, self.norm2 = layers.Conv(4, 5, 3, 2, 1, **options), layers.BatchNorm(5, rngs=rngs)
        options = dict(kind="flatten", dropout=0.5, init="he_fan_out", classifier_init="he_fan_out", rngs=rngs)
        self.head = network.Head((2, 2, 5), 10, **options)

    def __call__(self, x, *, rngs=None):
        x = jax.nn.relu(self.norm1(self.conv1(x)))
        return self.head(jax.nn.relu(self.norm2(self.conv2(x))), rngs=rngs)


@functools.cache
def toy():
    """Returns (network, parameters, statistics) with arrays from NumPy."""
    network, params, stats = graph.split(jax.eval_shape(lambda: Toy(InitKeys(jax.random.key(0)))))
    random = np.random.default_rng(0)

    def fill(path, leaf):
        around_one = trees.path_name(path).rsplit("/", 1)[-1] in ("scale", "var")
        return jnp.asarray(random.normal(size=leaf.shape) * 0.3 + around_one, leaf.dtype)

    return network, *(jax.tree_util.tree_map_with_path(fill, tree) for tree in (params, stats))


@functools.cache
def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (COUNT, 8, 8, 1), np.uint8)
    return images, random.integers(0, 9, COUNT)  # no example has class 9


def make_part(*, train: bool = False, placement: str = "device") -> loader.Split:
    config = get_config("digits").data
    config.update(dict(placement=placement, workers=2))
    return loader.Split(dataset.ArraySource(*arrays()), config, train=train, seed=3)


@functools.cache
def eval_step(confusion: bool = True):
    return eval_steps.make_eval_step(toy()[0], mean=MEAN, std=STD, confusion=confusion)


def evaluated(batch_size: int, placement: str = "device", confusion: bool = True) -> dict:
    _, params, stats = toy()
    part = make_part(placement=placement)
    return evaluation.evaluate(
        eval_step(confusion), params, stats, part, part.resident, batch_size=batch_size, put=lambda batch: batch
    )


@functools.cache
def expected() -> dict:
    """Returns the metrics computed in NumPy from the class scores of all examples."""
    network, params, stats = toy()
    images, labels = arrays()
    x = jnp.asarray((images / 255 - MEAN) / STD, jnp.float32)
    logits = np.asarray(jax.jit(lambda x: nnx.merge(network.eval, params, stats)(x))(x), np.float64)
    assert len(np.unique(logits)) == logits.size  # no ties
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = np.argsort(-logits, axis=1)
    confusion = np.zeros((10, 10), int)
    for label, predicted in zip(labels, best[:, 0], strict=True):
        confusion[label, predicted] += 1
    return dict(
        loss=-np.log(shares[np.arange(COUNT), labels]).mean(),
        error=np.mean(best[:, 0] != labels),
        top5_error=np.mean([label not in row[:5] for label, row in zip(labels, best, strict=True)]),
        examples=COUNT,
        largest_class=np.bincount(labels).max() / COUNT,
        class_accuracy=[
            np.mean(best[labels == label, 0] == label) if (labels == label).any() else np.nan for label in range(10)
        ],
        balanced_accuracy=balanced_accuracy_score(labels, best[:, 0]),
        confusion=confusion,
    )


def assert_as_expected(metrics: dict) -> None:
    assert metrics.keys() == expected().keys()
    np.testing.assert_allclose(metrics["loss"], expected()["loss"], rtol=1e-6)
    for name in ("error", "top5_error", "largest_class", "class_accuracy", "balanced_accuracy"):
        np.testing.assert_allclose(metrics[name], expected()[name], rtol=1e-12, atol=1e-12)  # counts are exact
    assert metrics["examples"] == COUNT
    np.testing.assert_array_equal(metrics["confusion"], expected()["confusion"])


def test_the_example_has_hits_and_misses():
    assert 0 < expected()["error"] < 1 and 0 < expected()["top5_error"] < expected()["error"]
    assert np.isnan(expected()["class_accuracy"]).tolist() == [False] * 9 + [True]


# 1, larger than the part, its size, divisors and others: each compiles once.
@given(st.sampled_from([1, 4, 9, 16, COUNT, 64]), st.sampled_from(["device", "stream"]))
def test_metrics_do_not_depend_on_the_batch_size(batch_size, placement):
    assert_as_expected(evaluated(batch_size, placement))


def test_the_confusion_matrix_is_made_on_demand_only():
    metrics = evaluated(16, confusion=False)
    assert "confusion" not in metrics
    assert_as_expected(metrics | {"confusion": expected()["confusion"]})


def test_the_confusion_matrix_agrees_with_the_accuracies():
    metrics, labels = evaluated(16), arrays()[1]
    confusion = metrics["confusion"]
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(labels, minlength=10))
    np.testing.assert_allclose(np.trace(confusion) / COUNT, 1 - metrics["error"], rtol=1e-12)
    np.testing.assert_allclose(np.diag(confusion)[:9] / confusion.sum(1)[:9], metrics["class_accuracy"][:9])


# ---------------------------------------------------------------- filler rows


class Explosive(nnx.Module):
    """Finite class scores for black images, infinities and NaN for white ones."""

    def __init__(self):
        self.weight = nnx.Param(jnp.asarray([0.0, 3.0, -1.0]))

    def __call__(self, x):
        return jnp.exp(1000 * x.mean((1, 2, 3)))[:, None] * self.weight


@pytest.mark.parametrize("filler", [0, 1, 2])
@pytest.mark.parametrize("brightness", [0, 255])  # a filler row may be a hit, or overflow
def test_filler_rows_never_count_even_if_their_scores_overflow(brightness, filler):
    network, params, stats = graph.split(Explosive())
    one = eval_steps.make_eval_step(network, mean=np.float32([0]), std=np.float32([1]), confusion=True)
    images = np.zeros((5, 4, 4, 1), np.uint8)
    images[3:] = brightness
    batch = {"image": images, "label": np.int32([1, 0, 1, filler, filler]), "mask": np.float32([1, 1, 1, 0, 0])}
    sums = one(params, stats, batch, None)
    # Scores 0, 3, -1: class 1 is predicted three times.
    minus_logs = np.log(np.exp([0, 3, -1]).sum()) - np.array([0, 3, -1])
    np.testing.assert_allclose(sums["loss"], 2 * minus_logs[1] + minus_logs[0], rtol=1e-6)
    assert [float(sums[name]) for name in ("examples", "top1", "top5")] == [3, 2, 3]
    np.testing.assert_array_equal(sums["class_correct"], [0, 2, 0])
    np.testing.assert_array_equal(sums["class_examples"], [1, 2, 0])
    np.testing.assert_array_equal(sums["confusion"], [[0, 1, 0], [0, 2, 0], [0, 0, 0]])


def test_a_row_that_overflows_is_not_a_hit_and_shows_in_the_loss():
    network, params, stats = graph.split(Explosive())
    one = eval_steps.make_eval_step(network, mean=np.float32([0]), std=np.float32([1]))
    batch = {
        "image": np.full((3, 4, 4, 1), 255, np.uint8),
        "label": np.int32([0, 1, 2]),
        "mask": np.ones(3, np.float32),
    }
    sums = one(params, stats, batch, None)
    assert not np.isfinite(sums["loss"])
    assert float(sums["examples"]) == 3
    assert float(sums["top1"]) == 0 and not sums["class_correct"].any()


# ---------------------------------------------------------------- recomputed statistics


def batch_statistics(indices: np.ndarray) -> list[np.ndarray]:
    """Returns mean and biased variance of the inputs of both BatchNorms for one batch, normalized by hand."""
    network, params, stats = toy()
    model = nnx.merge(network.eval, params, stats)
    images = jnp.asarray((arrays()[0][indices] / 255 - MEAN) / STD, jnp.float32)
    first = np.asarray(model.conv1(images), np.float64)
    mean, variance = first.mean((0, 1, 2)), first.var((0, 1, 2))
    scale, bias = (np.asarray(params["norm1"][name]) for name in ("scale", "bias"))
    hidden = np.maximum(0, (first - mean) / np.sqrt(variance + 1e-5) * scale + bias)
    second = np.asarray(model.conv2(jnp.asarray(hidden, jnp.float32)), np.float64)
    return [mean, variance, second.mean((0, 1, 2)), second.var((0, 1, 2))]


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_recomputed_statistics_average_the_first_batches(placement):
    network, params, stats = toy()
    statistics_step = eval_steps.make_statistics_step(network, mean=MEAN, std=STD)
    part = make_part(train=True, placement=placement)

    def recompute(stats, batches):
        return evaluation.recompute_statistics(
            statistics_step, params, stats, part, part.resident, batch_size=16, batches=batches, put=lambda batch: batch
        )

    order = Order(3, COUNT)
    by_hand = [batch_statistics(order.indices(np.arange(16 * k, 16 * k + 16))) for k in range(5)]  # into epoch 2
    for batches in (1, 5):
        means = [np.mean(values, axis=0) for values in zip(*by_hand[:batches], strict=True)]
        ours = recompute(stats, batches)
        assert jax.tree.structure(ours) == jax.tree.structure(stats)
        found = [ours[norm][name] for norm in ("norm1", "norm2") for name in ("mean", "var")]
        for mine, theirs in zip(found, means, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    # The averages of training leave no trace.
    other = recompute(jax.tree.map(lambda x: x + 5, stats), 5)
    jax.tree.map(np.testing.assert_array_equal, other, ours)


def test_evaluation_leaves_the_network_as_it_was():
    _, params, stats = toy()
    before = jax.tree.map(lambda x: np.array(x, copy=True), (params, stats))
    evaluated(16)
    jax.tree.map(np.testing.assert_array_equal, (params, stats), before)


# ---------------------------------------------------------------- probabilities


def predicted(placement: str, protocol: str = "single", batch_size: int = 7):
    network, params, stats = toy()
    part = make_part(placement=placement)
    predict_step = eval_steps.make_predict_step(network, mean=MEAN, std=STD, mirror=protocol != "single")
    return part, evaluation.predict(
        predict_step,
        params,
        stats,
        part,
        part.resident,
        protocol=protocol,
        scales=(8,),
        batch_size=batch_size,
        put=lambda batch: batch,
    )


@functools.cache
def shares(mirrored: bool = False) -> np.ndarray:
    """Returns the class probabilities of all examples, at once."""
    network, params, stats = toy()
    images = arrays()[0][:, :, ::-1] if mirrored else arrays()[0]
    x = jnp.asarray((images / 255 - MEAN) / STD, jnp.float32)
    logits = np.asarray(jax.jit(lambda x: nnx.merge(network.eval, params, stats)(x))(x), np.float64)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_probabilities_give_the_same_metrics_as_sums(placement):
    part, (probabilities, labels) = predicted(placement)
    np.testing.assert_allclose(probabilities, shares(), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(labels, arrays()[1])
    assert_as_expected(evaluation.measure(probabilities, labels, part, confusion=True))


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_flipping_averages_both_mirror_images(placement):
    _, (probabilities, _) = predicted(placement, "flip")
    np.testing.assert_allclose(probabilities, (shares() + shares(mirrored=True)) / 2, rtol=1e-5, atol=1e-7)
    assert np.abs(probabilities - shares()).max() > 0.01


def test_unreadable_examples_are_left_out_of_the_metrics():
    part, (probabilities, labels) = predicted("device")
    part.config.on_error = "skip"
    labels[[2, 5]] = -1
    metrics = evaluation.measure(probabilities, labels, part)
    assert metrics["skipped"] == 2 and metrics["examples"] == COUNT - 2
    kept = np.delete(np.arange(COUNT), [2, 5])
    assert metrics["error"] == pytest.approx(np.mean(probabilities[kept].argmax(1) != arrays()[1][kept]))


def test_nan_scores_are_not_hits():
    part, (probabilities, labels) = predicted("device")
    probabilities[:] = np.nan
    metrics = evaluation.measure(probabilities, labels, part, confusion=True)
    assert metrics["error"] == 1 and metrics["top5_error"] == 1 and metrics["confusion"].sum() == 0


class Unreadable(dataset.ArraySource):
    def read(self, indices):
        return [None for _ in indices]


@pytest.mark.parametrize("protocol", ["single", "flip"])
def test_a_part_without_readable_examples_is_an_error(protocol):
    network, params, stats = toy()
    config = get_config("digits").data
    config.update(dict(placement="stream", workers=2, on_error="skip"))
    part = loader.Split(Unreadable(*arrays()), config, train=False, seed=3)
    options: dict = dict(batch_size=8, put=lambda batch: batch)
    with pytest.raises(UserError, match="none of the examples of a part can be read"):
        if protocol == "single":
            evaluation.evaluate(eval_step(), params, stats, part, None, **options)
        else:
            predict_step = eval_steps.make_predict_step(network, mean=MEAN, std=STD, mirror=True)
            evaluation.predict(predict_step, params, stats, part, None, protocol=protocol, scales=(8,), **options)


@pytest.mark.parametrize(
    ("largest", "accuracy", "near"),
    [(0.1, 0.189, True), (0.1, 0.191, False), (0.5, 0.54, True), (0.5, 0.56, False), (0.001, 0.0021, False)],
)
def test_near_chance_is_measured_from_the_largest_class(largest, accuracy, near):
    assert evaluation.is_near_chance({"largest_class": largest, "error": 1 - accuracy}) == near


@pytest.mark.parametrize(
    ("largest", "accuracy", "little"), [(0.1, 0.45, True), (0.1, 0.47, False), (0.5, 0.69, True), (0.001, 0.41, False)]
)
def test_little_is_less_than_40_percent_of_the_way(largest, accuracy, little):
    assert evaluation.has_learned_little({"largest_class": largest, "error": 1 - accuracy}) == little
