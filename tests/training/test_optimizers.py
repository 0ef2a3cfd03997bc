"""Schedules against closed forms, the optimizer against optax and torch, the plateau against plain Python."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_jax.config import durations as config_lib
from cnn_jax.config import fields as base
from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.training import optimizers

to_steps = partial(config_lib.to_steps, batch_size=10, num_examples=55)  # an epoch has 5.5 steps


def optim_config(schedule: dict | None = None, **fields):
    config = base.get_config().optim
    config.update(dict(momentum=0.0) | fields)
    config.schedule.update(schedule or {})
    return config


def learning_rates(config, total_steps: int) -> np.ndarray:
    schedule = optimizers.make_schedule(config, total_steps, to_steps)
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
    schedule = optimizers.make_schedule(recipes.get_config("resnet20", "cifar10").optim, 64_000, to_steps)
    steps = dict(zip((0, 31_999, 32_000, 47_999, 48_000, 63_999), (0.1, 0.1, 0.01, 0.01, 0.001, 0.001), strict=True))
    for step, rate in steps.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=1e-6)


def test_resnet110_warms_up_at_a_tenth_for_400_steps():
    schedule = optimizers.make_schedule(
        recipes.get_config("resnet20", "cifar10", name="resnet110").optim, 64_000, to_steps
    )
    for step, rate in {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01}.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), rate, rtol=1e-6)


def test_cosine_and_polynomial_reach_their_end_after_the_last_step_and_stay():
    for name in ("cosine", "polynomial"):
        schedule = optimizers.make_schedule(optim_config(dict(name=name, end=0.25), learning_rate=0.4), TOTAL, to_steps)
        for step in (TOTAL, TOTAL + 50):
            np.testing.assert_allclose(schedule(jnp.int32(step)), 0.1, rtol=1e-6)
        assert schedule(jnp.int32(TOTAL - 1)) > 0.1


def test_a_warmup_as_long_as_the_training_is_an_error():
    config = optim_config(dict(warmup="20 steps"))
    with pytest.raises(UserError, match=r"warmup is '20 steps' = 20 steps, but training has 20"):
        optimizers.make_schedule(config, 20, to_steps)
    optimizers.make_schedule(config, 21, to_steps)


# ---------------------------------------------------------------- the optimizer

RATES = [0.1 / (1 + step % 5) for step in range(20)]  # goes down and up: the buffer must not hold the rate


def initial() -> dict:
    random = np.random.default_rng(0)
    return {
        "fc": {
            "kernel": random.normal(size=(5, 3)).astype(np.float32),
            "bias": random.normal(size=3).astype(np.float32),
        },
        "norm": {"scale": random.normal(size=5).astype(np.float32)},
    }


def problem(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a least-squares problem, new ones in each step."""
    random = np.random.default_rng(100 + step)
    return random.normal(size=(8, 5)).astype(np.float32), random.normal(size=(8, 3)).astype(np.float32)


def gradient(params: dict, step: int) -> dict:
    """Gradient of mean |(x * scale) @ kernel + bias - y|^2, by hand."""
    x, y = problem(step)
    kernel, bias, scale = params["fc"]["kernel"], params["fc"]["bias"], params["norm"]["scale"]
    residual = 2 * ((x * scale) @ kernel + bias - y) / y.size
    return {
        "fc": {"kernel": (x * scale).T @ residual, "bias": residual.sum(0)},
        "norm": {"scale": ((residual @ kernel.T) * x).sum(0)},
    }


def train(optimizer, *, rates=RATES, gradients=gradient, extra=True) -> list[dict]:
    """Returns the parameters after each step."""
    params = jax.tree.map(jnp.asarray, initial())
    state, history = optimizer.init(params), []
    for step, rate in enumerate(rates):
        grads = jax.tree.map(jnp.asarray, gradients(jax.tree.map(np.asarray, params), step))
        arguments = dict(learning_rate=jnp.float32(rate)) if extra else {}
        updates, state = optimizer.update(grads, state, params, **arguments)
        params = optax.apply_updates(params, updates)
        history.append(jax.tree.map(np.asarray, params))
    return history


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_without_extras_the_optimizer_is_optax_sgd_to_the_bit(momentum, nesterov):
    ours = train(optimizers.make_optimizer(optim_config(momentum=momentum, nesterov=nesterov), initial()))
    rates = jnp.asarray(RATES, jnp.float32)
    theirs = train(optax.sgd(lambda step: rates[step], momentum or None, nesterov), extra=False)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("clip_norm", [0.0, 1.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_the_optimizer_equals_torch(momentum, nesterov, weight_decay, clip_norm):
    torch = pytest.importorskip("torch")
    config = optim_config(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, clip_norm=clip_norm)
    ours = train(optimizers.make_optimizer(config, initial()))

    start = initial()
    kernel, bias, scale = (
        torch.nn.Parameter(torch.tensor(array))
        for array in (start["fc"]["kernel"], start["fc"]["bias"], start["norm"]["scale"])
    )
    sgd = torch.optim.SGD(
        [kernel, bias, scale], lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    norms = []
    for step, rate in enumerate(RATES):
        x, y = (torch.tensor(array) for array in problem(step))
        sgd.zero_grad()
        torch.mean(((x * scale) @ kernel + bias - y) ** 2).backward()
        norm = torch.nn.utils.clip_grad_norm_([kernel, bias, scale], clip_norm or math.inf)
        norms.append(float(norm))
        sgd.param_groups[0]["lr"] = rate
        sgd.step()
        theirs = {"fc": {"kernel": kernel, "bias": bias}, "norm": {"scale": scale}}
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-5, atol=1e-6), ours[step], theirs
        )
    if clip_norm:
        assert min(norms) < clip_norm < max(norms)  # some gradients are clipped, some are not


def test_decoupled_decay_follows_its_closed_form():
    # v <- 0.9 v + clipped gradient; p <- p - rate (v + 0.05 p): the decay is neither clipped nor in the buffer.
    config = optim_config(momentum=0.9, weight_decay=0.05, decay_style="decoupled", clip_norm=0.8)
    ours = train(optimizers.make_optimizer(config, initial()))
    params = jax.tree.map(np.float64, initial())
    buffer = jax.tree.map(np.zeros_like, params)
    for step, rate in enumerate(RATES):
        grads = gradient(params, step)
        norm = math.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
        buffer = jax.tree.map(lambda v, g, n=norm: 0.9 * v + g * min(1, 0.8 / n), buffer, grads)
        params = jax.tree.map(lambda p, v, r=rate: p - r * (v + 0.05 * p), params, buffer)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), ours[step], params)


def no_gradient(params: dict, step: int) -> dict:
    return jax.tree.map(np.zeros_like, params)


def gradient_of_ones(params: dict, step: int) -> dict:
    return jax.tree.map(np.ones_like, params)


@pytest.mark.parametrize("style", ["l2", "decoupled"])
@pytest.mark.parametrize(
    ("rule", "decaying"),
    [
        (".*", {"kernel", "bias", "scale"}),
        (".*kernel", {"kernel"}),
        ("fc/.*", {"kernel", "bias"}),
        ("(?!.*norm).*", {"kernel", "bias"}),
        ("norm/scale|fc/bias", {"scale", "bias"}),
    ],
)
def test_only_parameters_whose_names_match_the_rule_decay(rule, decaying, style):
    config = optim_config(weight_decay=0.5, decay_rule=rule, decay_style=style)
    (after,) = train(optimizers.make_optimizer(config, initial()), rates=[0.1], gradients=no_gradient)
    before = initial()
    for layer, name in (("fc", "kernel"), ("fc", "bias"), ("norm", "scale")):
        factor = 1 - 0.1 * 0.5 if name in decaying else 1
        np.testing.assert_allclose(after[layer][name], factor * before[layer][name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(weight_decay=0.1, decay_rule="kernel"), r"decay_rule: 'kernel' matches none of the 3 parameters"),
        (dict(weight_decay=0.1, decay_rule="fc/kernell"), r"did you mean 'fc/kernel'"),
        (dict(weight_decay=0.1, decay_rule="fc/("), r"decay_rule: 'fc/\(' is not a regular expression"),
        (dict(lr_multipliers=((".*", 1.0), ("conv.*", 0.1))), r"lr_multipliers: 'conv\.\*' matches none"),
    ],
)
def test_a_rule_that_matches_no_whole_name_is_an_error(fields, message):
    with pytest.raises(UserError, match=message):
        optimizers.make_optimizer(optim_config(**fields), initial())


def test_the_rate_of_each_parameter_is_multiplied_by_the_first_rule_that_matches():
    config = optim_config(lr_multipliers=((".*bias", 2.0), ("fc/.*", 0.5)))
    (after,) = train(optimizers.make_optimizer(config, initial()), rates=[0.1], gradients=gradient_of_ones)
    before = initial()
    for (layer, name), factor in {("fc", "bias"): 2.0, ("fc", "kernel"): 0.5, ("norm", "scale"): 1.0}.items():
        np.testing.assert_allclose(after[layer][name], before[layer][name] - 0.1 * factor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("style", ["l2", "decoupled"])
def test_a_multiplier_of_zero_freezes_a_parameter_to_the_bit(style):
    config = optim_config(momentum=0.9, weight_decay=0.1, decay_style=style, lr_multipliers=(("fc/kernel", 0.0),))
    after = train(optimizers.make_optimizer(config, initial()))[-1]
    np.testing.assert_array_equal(after["fc"]["kernel"], initial()["fc"]["kernel"])
    assert np.abs(after["fc"]["bias"] - initial()["fc"]["bias"]).min() > 1e-3
    assert np.abs(after["norm"]["scale"] - initial()["norm"]["scale"]).max() > 1e-3


# ---------------------------------------------------------------- plateau


def plateau_scales(errors, *, patience, min_improvement, factor, start=None) -> list[float]:
    schedule = optim_config(dict(patience=patience, min_improvement=min_improvement, factor=factor)).schedule
    state, scales = start or optimizers.Plateau.start(), []
    for error in errors:
        state = state.update(error, schedule)
        scales.append(float(state.scale))
    return scales


def test_the_plateau_drops_after_the_patience_and_then_waits_again():
    # An equal error is no improvement; the patience counts anew after an improvement and after a drop.
    errors = [0.5, 0.5, 0.4, 0.45, 0.4, 0.41, 0.42, 0.3, 0.3, 0.3]
    scales = plateau_scales(errors, patience=2, min_improvement=0.0, factor=0.5)
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_an_improvement_must_exceed_the_least_one_and_the_best_moves_with_improvements_only():
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
def test_the_plateau_equals_plain_python_and_goes_on_from_what_was_saved(errors, patience, least, factor, saved):
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

    # Saved after some validations, as a checkpoint does it, and gone on with.
    state = optimizers.Plateau.start()
    schedule = optim_config(options).schedule
    for error in errors[:saved]:
        state = state.update(error, schedule)
    leaves, structure = jax.tree.flatten(state)
    assert [leaf.dtype for leaf in leaves] == [jnp.float32, jnp.float32, jnp.int32]
    state = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    rest = plateau_scales(errors[saved:], **options, start=state)
    np.testing.assert_allclose(rest, expected[saved:], rtol=1e-5)
