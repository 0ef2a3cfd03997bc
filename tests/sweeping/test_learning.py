import numpy as np
import pytest

from cnn_jax.sweeping.learning import Learning, ending


def curve(error):
    """100 records of 20 epochs whose error is `error(share of training)`."""
    shares = np.arange(1, 101) / 100
    return [{"kind": "train", "epoch": 20 * share, "error": error(share)} for share in shares]


def test_the_end_of_a_curve_is_that_of_its_line():
    level, fall, epochs = ending(curve(lambda share: 0.5 - 0.3 * share))
    assert (level, fall, epochs) == pytest.approx((20.0, 6.0, 20.0))


def test_single_records_do_not_decide():
    noise = np.random.default_rng(0).normal(0, 0.01, 101)
    level, fall, _ = ending(curve(lambda share: 0.1 + noise[round(100 * share)]))
    assert level == pytest.approx(10, abs=0.5) and abs(fall) < 0.8


def test_a_curve_of_few_points_tells_nothing():
    assert ending(curve(lambda share: 0.1)[::30]) is None and ending([]) is None


@pytest.mark.parametrize(
    ("error", "fall", "done"),
    [(5.0, 0.9, True), (5.0, 1.1, False), (46.0, 0.0, False), (44.0, 0.0, True), (5, -2, True)],
)
def test_an_arm_is_done_if_its_curve_is_flat_and_far_from_chance(error, fall, done):
    assert Learning(error, fall, epochs=20, chance=90).is_done == done


def test_the_report_says_how_many_epochs_are_missing():
    state, other = Learning(30, 2, epochs=50, chance=90), Learning(10, 0, epochs=50, chance=90)
    assert state.told(other).endswith("the other's is 100 epochs away, and learning slows")
