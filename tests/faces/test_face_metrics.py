"""Distances and rates of error of faces, against scikit-learn and against counting."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import pairwise_distances, roc_auc_score

from experiments.faces import metrics


@pytest.mark.parametrize("kind", metrics.DISTANCES)
def test_distances_are_scikit_learns(kind):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(7, 5)).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        metrics.distances(a, b, kind), pairwise_distances(a.astype(float), b.astype(float), kind), rtol=1e-9
    )


def test_zero_rows_have_distance_1_and_long_rows_do_not_overflow():
    zero, long, short = np.zeros((1, 3)), np.full((1, 3), 1e300), np.full((1, 3), 1e-300)
    assert metrics.distances(zero, long, "cosine") == 1
    np.testing.assert_allclose(metrics.distances(long, short, "cosine"), 0, atol=1e-12)
    np.testing.assert_allclose(metrics.distances(long, -short, "cosine"), 2)


def test_every_pair_counts_once():
    between = np.arange(9).reshape(3, 3)
    distance, same = metrics.pairs(between, np.array(["a", "b", "a"]))
    assert sorted(zip(distance.tolist(), same.tolist(), strict=True)) == [(1, False), (2, True), (5, False)]


# Few values, so that there are ties.
observed = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40)


def split(pairs):
    between, same = np.array([distance for distance, _ in pairs], float), np.array([same for _, same in pairs])
    assume(0 < same.sum() < len(same))
    return between, same


@given(observed)
def test_rates_are_those_of_counting(observed):
    between, same = split(observed)
    found = metrics.roc(between, same)
    for threshold, accepts, rejects in zip(found.thresholds, found.false_accepts, found.false_rejects, strict=True):
        assert accepts == pytest.approx(np.mean([d <= threshold for d in between[~same]]))
        assert rejects == pytest.approx(np.mean([d > threshold for d in between[same]]))
    assert found.auc == pytest.approx(roc_auc_score(same, -between))


@given(observed)
def test_the_equal_error_rate_lies_on_the_curve(observed):
    between, same = split(observed)
    found = metrics.roc(between, same)
    # On the polygon of the ROC, walked in small steps, the two rates are nearest to each other there.
    places = np.linspace(0, len(found.thresholds) - 1, 20_001)
    accepts, rejects = (
        np.interp(places, np.arange(len(rates)), rates) for rates in (found.false_accepts, found.false_rejects)
    )
    nearest = np.argmin(np.abs(accepts - rejects))
    assert found.eer == pytest.approx((accepts[nearest] + rejects[nearest]) / 2, abs=2e-3)
    gaps = np.abs(found.false_accepts - found.false_rejects)
    assert gaps[found.equal] == gaps.min() and not (gaps[: found.equal] == gaps.min()).any()


@pytest.mark.parametrize(
    ("same", "different", "eer", "auc"),
    [
        ([1, 2], [3, 4], 0, 1),  # told apart
        ([3, 4], [1, 2], 1, 0),  # the wrong way round
        ([1, 1], [1, 1], 0.5, 0.5),  # one distance for all
        ([1, 2, 3, 9], [4, 5, 6, 0], 0.25, 9 / 16),
    ],
)
def test_the_equal_error_rate_of_small_cases_by_hand(same, different, eer, auc):
    between = np.array([*same, *different], float)
    found = metrics.roc(between, np.arange(len(between)) < len(same))
    assert (found.eer, found.auc) == (pytest.approx(eer), pytest.approx(auc))


@given(
    arrays.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(4, 9)), elements=st.integers(0, 4)),
    st.randoms(use_true_random=False),
)
def test_ranks_are_those_of_counting(between, random):
    queries, pictures = between.shape
    gallery = np.array([0, 1, 2, 3, *(random.randrange(4) for _ in range(pictures - 4))])
    labels = np.array([random.randrange(4) for _ in range(queries)])
    nearest = metrics.to_persons(between, gallery, 4)
    found = metrics.ranks(nearest, labels)
    for query in range(queries):
        each = [min(between[query][gallery == person]) for person in range(4)]
        assert each == nearest[query].tolist()
        others = [distance for person, distance in enumerate(each) if person != labels[query]]
        assert found[query] == 1 + sum(distance <= each[labels[query]] for distance in others)
    curve = metrics.cmc(found, 4)
    np.testing.assert_allclose(curve, [np.mean(found <= k) for k in (1, 2, 3, 4)])
    assert curve[-1] == 1


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=20)
    error = metrics.jackknife(lambda left: values[left].mean(), np.arange(20))
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    twice = np.repeat(values, 2)  # two pictures of each person add no information
    assert metrics.jackknife(lambda left: twice[left].mean(), np.repeat(np.arange(20), 2)) == pytest.approx(error)
