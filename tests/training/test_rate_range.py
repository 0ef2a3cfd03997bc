import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.training import rate_range
from cnn_jax.training.setup import build

RATES = np.array([rate_range.rising(200, 1.0)(step) for step in range(200)], float)


def losses(middle, width=1.0, noise=0.0):
    """Losses that fall from 2.3 to 0.3 around a rate: a logistic curve over its logarithm, and noise."""
    random = np.random.default_rng(0).normal(0, 1, len(RATES))
    return 0.3 + 2 / (1 + np.exp((np.log(RATES) - np.log(middle)) / width)) + noise * random


def test_rates_rise_in_equal_ratios_between_the_ends():
    assert RATES[0] == pytest.approx(1e-5) and RATES[-1] == pytest.approx(10, rel=1e-4)
    np.testing.assert_allclose(RATES[1:] / RATES[:-1], 10 ** (6 / 199), rtol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_rate_to_try_is_where_the_loss_falls_fastest(noise):
    assert rate_range.steepest(RATES, losses(0.01, noise=noise)) == pytest.approx(0.01, rel=0.3)


def test_a_loss_that_does_not_fall_is_one_message():
    with pytest.raises(UserError, match="the loss falls at no learning rate between 1e-05 and 10"):
        rate_range.steepest(RATES, 2.3 + 0.01 * np.random.default_rng(0).normal(0, 1, 200))


def test_the_mean_is_over_neighbors_on_both_sides():
    values = np.arange(100.0)
    assert rate_range.smoothed(values)[50] == 50 and rate_range.smoothed(values)[0] == np.arange(13).mean()


def test_find_lr_trains_and_draws_and_leaves_nothing_else(call, tmp_path):
    told = call("main", "--config=lenet5", "--config.model.width=0.25", "--find-lr=rates.png", cwd=tmp_path)
    assert "the loss falls fastest at" in told.out and "try --config.optim.learning_rate=" in told.out
    rate = float(told.out.split("--config.optim.learning_rate=")[1].split()[0])
    assert 1e-3 < rate < 1
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--find-lr=rates.pdf"], "must be a file that ends in .png"),
        (["--find-lr=nowhere/rates.png"], "there is no folder 'nowhere'"),
        (["--find-lr=rates.png", "--dry-run", "--workdir=x"], "leave --workdir, --dry-run out"),
    ],
)
def test_mistakes_of_find_lr_are_one_message(refused, tmp_path, flags, message):
    assert message in refused("main", "--config=lenet5", *flags, cwd=tmp_path) and not list(tmp_path.iterdir())


def test_each_loss_is_that_of_its_step(small_config, console):
    small_config.optim.schedule.update(name="cnn_jax.training.rate_range:rising", warmup="0 steps")
    small_config.duration = "200 steps"
    setup = build(small_config)
    rates, found = rate_range.record(setup, console)
    assert rates[:3] == pytest.approx(RATES[:3], rel=1e-5) and len(rates) == len(found)
    assert found[0] == pytest.approx(np.log(10), abs=0.5)  # before anything is learned
    assert float(setup.schedule(jnp.int32(5))) == pytest.approx(RATES[5], rel=1e-5)
