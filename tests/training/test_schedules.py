"""Schedules against closed forms, optax and torch, the plateau against plain Python."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.config import durations as config_lib
from cnn_jax.config import fields as base
from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.training import optimizer_names, schedules
from cnn_jax.training.config_check import check_config
from cnn_jax.training.setup import build

in_steps = partial(config_lib.in_steps, batch_size=10, num_examples=55)  # an epoch has 5.5 steps


def optim_config(schedule: dict | None = None, **fields):
    config = base.get_config().optim
    config.update(dict(momentum=0.0) | fields)
    config.schedule.update(schedule or {})
    return config


def learning_rates(config, total_steps: int) -> np.ndarray:
    schedule = schedules.make_schedule(config, total_steps, in_steps)
    rates = jax.vmap(schedule)(jnp.arange(total_steps))
    assert rates.dtype == jnp.float32
    return np.asarray(rates)


# ---------------------------------------------------------------- schedules

TOTAL = 200
SHAPES = {  # name: (fields, factor of the learning rate at step s with w steps of warm-up)
    "constant": ({}, lambda s, w: 1.0),
    "plateau": ({}, lambda s, w: 1.0),  # its factor is in the training state
    "steps": (
        dict(boundaries=("60 steps", "20 epochs", "1500 examples"), factor=0.2),  # 60, 110, 150
        lambda s, w: 0.2 ** ((s >= 60) + (s >= 110) + (s >= 150)),
    ),
    "cosine": (
        dict(end=0.1),
        lambda s, w: 0.1 + 0.9 * (1 + math.cos(math.pi * (s - w) / (TOTAL - w))) / 2,
    ),
    "polynomial": (dict(end=0.05, power=2.0), lambda s, w: 0.05 + 0.95 * (1 - (s - w) / (TOTAL - w)) ** 2),
    "exponential": (dict(interval="4 epochs", factor=0.5), lambda s, w: 0.5 ** (s // 22)),
}
WARMUPS = {
    "none": (dict(warmup="0 steps"), 0, None),
    "linear": (dict(warmup="30 steps", warmup_start=0.25), 30, lambda s: 0.25 + 0.75 * s / 30),
    "from zero": (dict(warmup="2 epochs"), 11, lambda s: s / 11),
    "constant": (dict(warmup="30 steps", warmup_start=0.1, warmup_shape="constant"), 30, lambda s: 0.1),
}


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_schedule_equals_its_closed_form_at_every_step(name, warmup):
    fields, shape = SHAPES[name]
    more, steps, start = WARMUPS[warmup]
    rates = learning_rates(optim_config(dict(name=name) | fields | more, learning_rate=0.4), TOTAL)
    expected = [0.4 * (start(s) if s < steps else shape(s, steps)) for s in range(TOTAL)]
    np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=1e-8)


def test_the_schedule_of_resnet20_on_cifar_drops_at_32000_and_48000_steps():
    schedule = schedules.make_schedule(recipes.get_config("resnet20", "cifar10").optim, 64_000, in_steps)
    steps = dict(zip((0, 31_999, 32_000, 47_999, 48_000, 63_999), (0.1, 0.1, 0.01, 0.01, 0.001, 0.001), strict=True))
    for step, rate in steps.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=1e-6)


def test_resnet110_warms_up_at_a_tenth_for_400_steps():
    schedule = schedules.make_schedule(
        recipes.get_config("resnet20", "cifar10", name="resnet110").optim, 64_000, in_steps
    )
    for step, rate in {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01}.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=1e-6)


def test_cosine_and_polynomial_end_after_the_last_step():
    for name in ("cosine", "polynomial"):
        schedule = schedules.make_schedule(optim_config(dict(name=name, end=0.25), learning_rate=0.4), TOTAL, in_steps)
        for step in (TOTAL, TOTAL + 50):
            np.testing.assert_allclose(schedule(jnp.int32(step)), 0.1, rtol=1e-6)
        assert schedule(jnp.int32(TOTAL - 1)) > 0.1


def test_a_warmup_as_long_as_the_training_is_an_error():
    config = optim_config(dict(warmup="20 steps"))
    with pytest.raises(UserError, match=r"warmup is '20 steps' = 20 steps, but training has 20"):
        schedules.make_schedule(config, 20, in_steps)
    schedules.make_schedule(config, 21, in_steps)


def restarts(step, first, factor):
    ends = [0]
    while ends[-1] <= step:
        ends.append(round(first * sum(factor**cycle for cycle in range(len(ends)))))
    return (1 + math.cos(math.pi * (step - ends[-2]) / (ends[-1] - ends[-2]))) / 2


@pytest.mark.parametrize(
    ("factor", "warmup", "cycle", "total"),
    [(1.0, 0, "2 epochs", 198), (2.0, 0, "2 epochs", 165), (1.5, 20, "2 epochs", 165), (1.0, 0, "1 epochs", 220)],
)
def test_cosine_restarts_at_every_cycle(factor, warmup, cycle, total):
    fields = dict(name="cosine_restarts", cycle=cycle, cycle_factor=factor, end=0.1, warmup=f"{warmup} steps")
    rates = learning_rates(optim_config(fields, learning_rate=0.4), total)
    expected = [0.4 * (0.1 + 0.9 * restarts(s - warmup, in_steps(cycle), factor)) for s in range(warmup, total)]
    np.testing.assert_allclose(rates[warmup:], expected, rtol=2e-5, atol=1e-7)
    if factor == 2:
        np.testing.assert_allclose(rates[[0, 11, 33, 77]], 0.4, rtol=1e-6)  # the restarts


@pytest.mark.parametrize("warmup", ["0 steps", "5 epochs", "1.5 epochs"])
@pytest.mark.parametrize(("batch_size", "examples"), [(128, 1258), (64, 1258), (96, 1000)])
def test_last_cosine_ends_with_training(batch_size, examples, warmup):
    given = dict(batch_size=batch_size, num_examples=examples)
    config = optim_config(dict(name="cosine_restarts", cycle="10 epochs", warmup=warmup), learning_rate=0.1)
    number, unit = config_lib.parse_duration(warmup)
    begin = number if unit == "epochs" else 0
    total = config_lib.to_steps(f"{begin + 40} epochs", **given)
    schedule = schedules.make_schedule(config, total, partial(config_lib.in_steps, **given))
    rates = jax.vmap(schedule)(jnp.arange(total))
    cycle = config_lib.in_steps("10 epochs", **given)
    np.testing.assert_allclose(rates[-1], 0.05 * (1 - math.cos(math.pi / cycle)), rtol=0.05)
    warm = config_lib.to_steps(warmup, **given)
    assert np.sum(np.asarray(rates[warm:]) >= 0.1 * (1 - 1e-6)) == 4


def test_cosine_restarts_in_steps_of_their_own_way_out():
    for cycle, factor, total in (("88 steps", 1.0, 90), ("11 steps", 1.0, 200), ("3 steps", 1.5, 102)):
        config = optim_config(dict(name="cosine_restarts", cycle=cycle, cycle_factor=factor))
        with pytest.raises(UserError, match=f"cycle is '{cycle}', so training ends .* with a high") as error:
            schedules.make_schedule(config, total, in_steps)
        (config.schedule.cycle,) = re.findall("cycle='(.*?)'", str(error.value))
        assert learning_rates(config, total)[-1] < 0.2 * config.learning_rate


def test_cosine_restarts_equal_torch():
    torch = pytest.importorskip("torch")
    fields = dict(name="cosine_restarts", cycle="10 steps", cycle_factor=2.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 2)
    expected = []
    for _ in range(70):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(learning_rates(optim_config(fields, learning_rate=0.4), 70), expected, atol=1e-6)


def test_one_cycle_equals_torch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    options = dict(div_factor=10.0, final_div_factor=100.0)
    # Both end with the last step; torch reaches the peak after share x steps - 1.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=101, pct_start=31 / 101, **options)
    expected = []
    for _ in range(101):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 101:
            scheduler.step()
    fields = dict(name="one_cycle", pct_start=0.3, **options)
    rates = learning_rates(optim_config(fields, learning_rate=0.4), 101)
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)
    assert rates.argmax() == 30


@pytest.mark.parametrize(("power", "warmup"), [(1.0, 0), (2.0, 30)])
def test_warmup_stable_decay_falls_in_the_last_share(power, warmup):
    fields = dict(name="warmup_stable_decay", cooldown=0.25, end=0.1, power=power, warmup=f"{warmup} steps")
    rates = learning_rates(optim_config(fields, learning_rate=0.4), TOTAL)
    expected = [0.4 * (s / 30 if s < warmup else 0.1 + 0.9 * (1 - max(0, s - 150) / 50) ** power) for s in range(TOTAL)]
    np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=1e-8)


def test_own_schedule_gets_steps_and_peak_and_may_warm_up():
    config = optim_config(dict(name="own_parts:sawtooth", warmup="10 steps"), learning_rate=0.4)
    rates = learning_rates(config, TOTAL)
    expected = [0.4 * s / 10 if s < 10 else 0.4 * (1 - s % 50 / 50) for s in range(TOTAL)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_parts:sawtoth", r"schedule\.name is 'own_parts:sawtoth', but own_parts has no .*did you mean 'sawtooth'"),
        ("own_parts:number", "returns .*, but must be a function of \\(total steps, peak\\) that returns a function"),
        ("own_parts:branching", "needs the value of the step, .* use jnp.where instead of `if`"),
        ("own_parts:tabulated", "needs the value of the step, .* jnp.asarray of a table that the step indexes"),
        ("own_parts:listed", "needs the value of the step, .* jnp.asarray of a table that the step indexes"),
        ("own_parts:imaginary", "must return one real number for a step"),
        ("own_parts:no_number", "at step 0 is nan, but must be finite and not negative"),
        ("own_parts:negative", "whose learning rate at step 199 is -0.1, but must be finite and not negative"),
        ("own_parts:pairs", "must return one real number for a step"),
        ("own_parts:Plain", "must be a function of .*, but fails: TypeError"),
    ],
)
def test_own_schedule_that_fails_is_one_message(name, message):
    with pytest.raises(UserError, match=message):
        schedules.make_schedule(optim_config(dict(name=name)), TOTAL, in_steps)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(name="cosine_restarts", cycle="300 steps"), "cycle is '300 steps' = 300 steps, but 200 are left after"),
        (
            dict(name="warmup_stable_decay", warmup="151 steps", cooldown=0.25),
            r"warmup is '151 steps' = 151 steps and .*cooldown 0\.25 = 50 steps, but training has 200: set a shorter",
        ),
        (dict(name="one_cycle", pct_start=0.001), "pct_start is 0.001, but training has 200 steps: too few to rise"),
    ],
)
def test_cycles_must_fit_the_training(fields, message):
    with pytest.raises(UserError, match=message):
        schedules.make_schedule(optim_config(fields), TOTAL, in_steps)


def test_one_cycle_takes_no_warmup():
    config = recipes.get_config("lenet5")
    config.optim.schedule.update(dict(name="one_cycle", warmup="2 steps"))
    with pytest.raises(UserError, match="warmup is '2 steps', but one_cycle rises by itself: set it to '0 steps'"):
        check_config(config)


@pytest.mark.parametrize("name", sorted(optimizer_names.DIVIDE_BY_FIRST_RATE))
def test_division_by_a_first_rate_of_zero_is_refused(name):
    for fields, way_out in (
        (dict(warmup="2 steps"), "set config.optim.schedule.warmup_start=0.01, or"),
        (dict(name="own_parts:rising"), "that begin above 0"),
    ):
        config = recipes.get_config("lenet5")
        config.optim.name, config.optim.learning_rate = name, 1.0
        config.optim.schedule.update(dict(warmup="0 steps") | fields)
        message = f"name is '{name}', which divides by the learning rate of the first step, but that is 0: .*{way_out}"
        with pytest.raises(UserError, match=message):
            build(config)
    config.optim.schedule.update(dict(name="constant", warmup="2 steps", warmup_start=0.01))
    assert build(config).schedule(0) > 0


@pytest.mark.parametrize(("base_size", "peak"), [(0, 0.1), (256, 0.4), (2048, 0.05)])
def test_peak_is_proportional_to_the_batch(base_size, peak):
    config = base.get_config()
    config.batch_size, config.optim.learning_rate, config.optim.base_batch_size = 1024, 0.1, base_size
    assert math.isclose(schedules.peak(config), peak)
    schedule = schedules.make_schedule(config.optim, TOTAL, in_steps, peak=schedules.peak(config))
    np.testing.assert_allclose(schedule(jnp.int32(7)), peak, rtol=1e-6)


# ---------------------------------------------------------------- plateau


def plateau_scales(errors, *, patience, min_improvement, factor, start=None) -> list[float]:
    schedule = optim_config(dict(patience=patience, min_improvement=min_improvement, factor=factor)).schedule
    state, scales = start or schedules.Plateau.start(), []
    for error in errors:
        state = state.update(error, schedule)
        scales.append(float(state.scale))
    return scales


def test_the_plateau_drops_after_the_patience_and_then_waits_again():
    # An equal error is not an improvement; the patience counts anew after an improvement and after a drop.
    errors = [0.5, 0.5, 0.4, 0.45, 0.4, 0.41, 0.42, 0.3, 0.3, 0.3]
    scales = plateau_scales(errors, patience=2, min_improvement=0.0, factor=0.5)
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_only_sufficient_improvements_update_the_best():
    # From 0.5, neither 0.4375 nor 0.375 is lower by more than 1/8, but 0.3125 is.
    errors = [0.5, 0.4375, 0.375, 0.3125, 0.5, 0.5]
    scales = plateau_scales(errors, patience=3, min_improvement=0.125, factor=0.5)
    assert scales == [1, 1, 1, 1, 1, 1]
    scales = plateau_scales(errors, patience=2, min_improvement=0.125, factor=0.5)
    assert scales == [1, 1, 0.5, 0.5, 0.5, 0.25]


# Multiples of 1/64 are exact in float32.
sixty_fourths = st.integers(0, 64).map(lambda n: n / 64)


@given(
    st.lists(sixty_fourths, min_size=1, max_size=15),
    st.integers(1, 4),
    st.integers(0, 8).map(lambda n: n / 64),
    st.sampled_from([0.5, 0.1]),
    st.integers(0, 15),
)
def test_the_plateau_equals_plain_python_and_resumes(errors, patience, least, factor, saved):
    best, bad, drops, expected = math.inf, 0, 0, []
    for error in errors:
        if best - error > least:
            best, bad = error, 0
        else:
            bad += 1
        if bad == patience:
            drops, bad = drops + 1, 0
        expected.append(factor**drops)
    options = dict(patience=patience, min_improvement=least, factor=factor)
    np.testing.assert_allclose(plateau_scales(errors, **options), expected, rtol=1e-5)

    # Saved after some validations, as in a checkpoint, and resumed.
    state = schedules.Plateau.start()
    schedule = optim_config(options).schedule
    for error in errors[:saved]:
        state = state.update(error, schedule)
    leaves, structure = jax.tree.flatten(state)
    assert [leaf.dtype for leaf in leaves] == [jnp.float32, jnp.float32, jnp.int32]
    state = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    rest = plateau_scales(errors[saved:], **options, start=state)
    np.testing.assert_allclose(rest, expected[saved:], rtol=1e-5)
