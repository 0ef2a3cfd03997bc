"""Metrics against values computed by hand, and against formulas written another way."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from cnn_jax.core.errors import UserError
from cnn_jax.eval import metrics

# Seven examples of three classes, whose predictions are 0, 0, 1, 1, 1, 0, 0.
LABELS = np.array([0, 0, 0, 1, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.5, 0.3, 0.2],
        [0.3, 0.4, 0.3],
        [0.1, 0.8, 0.1],
        [0.0, 1.0, 0.0],
        [0.6, 0.3, 0.1],
        [0.5, 0.1, 0.4],
    ]
)


def drawn(examples=500, classes=7, seed=0):
    """Returns labels, and probabilities whose scores are too large for how often they are right."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(examples, classes))
    labels = np.array([random.choice(classes, p=np.exp(s) / np.exp(s).sum()) for s in scores])
    sharp = np.exp(2.5 * scores)
    return labels, sharp / sharp.sum(1, keepdims=True), scores


def test_accuracy_and_loss_by_hand():
    assert metrics.accuracy(LABELS, PROBABILITIES) == pytest.approx(4 / 7)
    # Example 2: 0.4 comes first, then of the two 0.3 the earlier class, its label. Example 6: 0.5, then 0.4.
    assert metrics.ranks(LABELS, PROBABILITIES).tolist() == [0, 0, 1, 0, 0, 1, 1]
    assert metrics.accuracy(LABELS, PROBABILITIES, 2) == 1
    assert metrics.log_loss(LABELS, PROBABILITIES) == pytest.approx(
        -np.log([0.7, 0.5, 0.3, 0.8, 1.0, 0.3, 0.4]).sum() / 7
    )


def test_equal_probabilities_are_not_a_hit_for_every_class():
    assert metrics.accuracy(np.arange(4), np.full((4, 4), 0.25)) == 0.25


def test_class_metrics_by_hand():
    confusion = metrics.confusion_matrix(LABELS, PROBABILITIES)
    assert confusion.tolist() == [[2, 1, 0], [1, 2, 0], [1, 0, 0]]
    found = metrics.class_metrics(confusion)
    np.testing.assert_allclose(found.precision, [2 / 4, 2 / 3, np.nan])
    np.testing.assert_allclose(found.recall, [2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(found.f1, [4 / 7, 2 / 3, 0])
    assert found.macro["precision"] == pytest.approx((2 / 4 + 2 / 3) / 3)
    assert found.macro["f1"] == pytest.approx((4 / 7 + 2 / 3) / 3)
    assert found.balanced_accuracy == pytest.approx(4 / 9)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    labels, probabilities, _ = drawn()
    found = metrics.class_metrics(metrics.confusion_matrix(labels, probabilities))
    predicted = [max(range(7), key=row.__getitem__) for row in probabilities.tolist()]
    for k in range(7):
        hits = sum(p == label == k for p, label in zip(predicted, labels.tolist(), strict=True))
        precision, recall = hits / predicted.count(k), hits / labels.tolist().count(k)
        assert (found.precision[k], found.recall[k]) == pytest.approx((precision, recall))
        assert found.f1[k] == pytest.approx(2 / (1 / precision + 1 / recall))


def test_classes_without_examples_do_not_enter_the_means():
    labels, probabilities = LABELS[:-1], PROBABILITIES[:-1]
    found = metrics.class_metrics(metrics.confusion_matrix(labels, probabilities))
    assert np.isnan([found.precision[2], found.recall[2], found.f1[2]]).all()
    assert found.balanced_accuracy == pytest.approx(2 / 3)


def test_most_confused_pairs_by_hand():
    confusion = np.array([[5, 2, 0], [2, 9, 1], [0, 0, 3]])
    found = metrics.most_confused(confusion)
    assert [one[:3] for one in found] == [(0, 1, 2), (1, 0, 2), (1, 2, 1)]
    assert [one.share for one in found] == pytest.approx([2 / 7, 2 / 12, 1 / 12])


def test_ece_by_hand():
    # Confidences .7 .5 .4 .8 1 .6 .5, hits 1 1 0 1 1 0 0, in two bins: up to 0.5 and above.
    found = metrics.reliability(LABELS, PROBABILITIES, bins=2)
    assert found.counts.tolist() == [3, 4]
    np.testing.assert_allclose(found.confidence, [1.4 / 3, 3.1 / 4])
    np.testing.assert_allclose(found.accuracy, [1 / 3, 3 / 4])
    assert found.ece == pytest.approx((abs(1 - 1.4) + abs(3 - 3.1)) / 7)


def test_ece_of_15_bins_against_a_loop_over_edges():
    labels, probabilities, _ = drawn()
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == labels
    edges, total = np.linspace(0, 1, 16), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert metrics.reliability(labels, probabilities).ece == pytest.approx(total, abs=1e-12)


def test_temperature_is_applied_to_scores():
    _, probabilities, scores = drawn()
    expected = np.exp(scores * 2.5 / 3) / np.exp(scores * 2.5 / 3).sum(1, keepdims=True)
    np.testing.assert_allclose(metrics.with_temperature(probabilities, 3.0), expected, rtol=1e-10)


def test_fitted_temperature_has_the_lowest_loss():
    labels, probabilities, scores = drawn()

    def loss(temperature):
        z = 2.5 * scores / temperature
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels]).mean()

    lowest: Any = minimize_scalar(loss, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-9})
    found = metrics.fit_temperature(labels, probabilities)
    assert found == pytest.approx(lowest.x, rel=1e-5) and 2 < found < 3.2
    calibrated = metrics.with_temperature(probabilities, found)
    assert metrics.reliability(labels, calibrated).ece < metrics.reliability(labels, probabilities).ece / 2


def test_temperature_is_bounded_where_all_or_none_are_right():
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert metrics.fit_temperature(np.array([0, 1]), sure) == 0.01
    assert metrics.fit_temperature(np.array([1, 0]), sure) == 100


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 3], [[0.5, 0.5], [0.5, 0.5]], "labels go from 0 to 3, but 2 classes"),
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], "not finite"),
        ([], np.zeros((0, 2)), "one example at least"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], r"shape \[1\]"),
    ],
)
def test_an_invalid_prediction_is_an_error(labels, probabilities, message):
    with pytest.raises(UserError, match=message):
        metrics.accuracy(np.array(labels, int), np.array(probabilities))
