import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from cnn_jax.sweeping.intervals import mean, paired_difference

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def test_two_seeds_have_the_interval_of_one_degree_of_freedom():
    # t(0.975, 1) = 12.7062; the deviation of 1 and 3 is sqrt(2), that of their mean 1.
    found = mean([1.0, 3.0])
    assert (found.mean, found.count) == (2, 2) and found.deviation == pytest.approx(math.sqrt(2))
    assert (found.low, found.high) == (pytest.approx(2 - 12.7062, abs=1e-4), pytest.approx(2 + 12.7062, abs=1e-4))
    assert found.is_noise


def test_one_seed_has_no_interval_and_no_seed_is_an_error():
    found = mean([4.0])
    assert found.mean == 4 and math.isnan(found.deviation) and math.isnan(found.low) and found.is_noise
    with pytest.raises(ValueError, match="no values"):
        mean([])


@given(VALUES, st.randoms(use_true_random=False))
def test_the_paired_difference_is_that_of_the_paired_t_test(values, random):
    reference = dict(enumerate(values))
    other = {seed: value + random.uniform(-1, 1) for seed, value in reference.items()}
    found = paired_difference(reference, other)
    assume(found.deviation > 1e-3)  # what scipy warns of otherwise
    expected = stats.ttest_rel(list(other.values()), list(reference.values()))
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-6, atol=1e-9)


def test_seeds_pair_by_their_number_and_others_do_not_count():
    found = paired_difference({0: 10.0, 1: 20.0, 2: 99.0}, {1: 21.0, 0: 12.0, 5: 0.0})
    assert found.mean == pytest.approx(1.5) and found.count == 2
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


def test_a_difference_counts_if_its_interval_excludes_zero():
    assert not mean([1.0, 1.1, 0.9]).is_noise and not mean([-1.0, -1.1, -0.9]).is_noise
    assert mean([1.0, -1.0, 0.5]).is_noise
    assert mean([0.28, 0.28]).is_noise and not mean([0.28, 0.28, 0.28]).is_noise
