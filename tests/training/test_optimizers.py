"""The optimizer against torch, closed forms and optax."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.config import fields as base
from cnn_jax.core.errors import UserError
from cnn_jax.training import optimizers
from small_problem import RATES, gradient, initial, optim_config, problem, train


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_without_extras_the_optimizer_is_optax_sgd(momentum, nesterov):
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


def test_the_first_matching_rule_multiplies_the_rate():
    config = optim_config(lr_multipliers=((".*bias", 2.0), ("fc/.*", 0.5)))
    (after,) = train(optimizers.make_optimizer(config, initial()), rates=[0.1], gradients=gradient_of_ones)
    before = initial()
    for (layer, name), factor in {("fc", "bias"): 2.0, ("fc", "kernel"): 0.5, ("norm", "scale"): 1.0}.items():
        np.testing.assert_allclose(after[layer][name], before[layer][name] - 0.1 * factor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("style", ["l2", "decoupled"])
def test_a_multiplier_of_zero_freezes_a_parameter(style):
    config = optim_config(momentum=0.9, weight_decay=0.1, decay_style=style, lr_multipliers=(("fc/kernel", 0.0),))
    after = train(optimizers.make_optimizer(config, initial()))[-1]
    np.testing.assert_array_equal(after["fc"]["kernel"], initial()["fc"]["kernel"])
    assert np.abs(after["fc"]["bias"] - initial()["fc"]["bias"]).min() > 1e-3
    assert np.abs(after["norm"]["scale"] - initial()["norm"]["scale"]).max() > 1e-3


# ---------------------------------------------------------------- clipping


def clipped(gradients, params, **fields):
    optimizer = optimizers.make_optimizer(optim_config(**fields), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params, learning_rate=jnp.float32(1))
    return jax.tree.map(lambda x: -np.asarray(x), updates)


def test_adaptive_clipping_equals_its_formula_unit_by_unit():
    random = np.random.default_rng(0)
    shapes = {"conv1": (3, 3, 2, 4), "conv1d": (5, 2, 4), "conv3d": (2, 2, 2, 3, 4), "fc": (6, 4), "norm": (7,)}
    params = {name: {"kernel": random.normal(size=shape).astype("f")} for name, shape in shapes.items()}
    params["blocks"] = {"block": {"kernel": random.normal(size=(6, 3, 3, 2, 4)).astype("f")}}
    params["head"] = {"classifier": {"kernel": random.normal(size=(4, 3)).astype("f")}}
    params["fc"]["kernel"][:, 1] = 0  # of weights of zero the norm counts as 0.001
    gradients = jax.tree.map(lambda x: random.normal(size=x.shape).astype("f"), params)
    gradients["fc"]["kernel"][:, 2] *= 1e-4  # small enough
    found = clipped(gradients, params, clip_adaptive=0.02)

    def unit(g, w):
        limit = 0.02 * max(np.linalg.norm(w), 1e-3)
        return g * min(1, limit / np.linalg.norm(g))

    def expected(g, w):
        if g.ndim == 1:
            return unit(g, w)
        return np.stack([unit(g[..., i], w[..., i]) for i in range(g.shape[-1])], -1)

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8)
    for name in shapes:
        close(found[name]["kernel"], expected(gradients[name]["kernel"], params[name]["kernel"]), err_msg=name)
    blocks = [tree["blocks"]["block"]["kernel"] for tree in (found, gradients, params)]
    for i in range(6):
        close(blocks[0][i], expected(blocks[1][i], blocks[2][i]))
    jax.tree.map(np.testing.assert_array_equal, found["head"], gradients["head"])
    np.testing.assert_array_equal(found["fc"]["kernel"][:, 2], gradients["fc"]["kernel"][:, 2])


def test_clipping_by_value_comes_before_clipping_by_norm():
    gradients = jax.tree.map(lambda x: 10 * x, initial())
    by_value = jax.tree.map(lambda x: np.clip(x, -0.5, 0.5), gradients)
    jax.tree.map(np.testing.assert_array_equal, clipped(gradients, initial(), clip_value=0.5), by_value)
    norm = math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(by_value)))
    both = clipped(gradients, initial(), clip_value=0.5, clip_norm=norm / 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / 2, rtol=1e-5), both, by_value)


def test_rule_of_adaptive_clipping_must_match():
    with pytest.raises(UserError, match=r"clip_adaptive_rule: 'conv\.\*' matches none"):
        optimizers.make_optimizer(optim_config(clip_adaptive=0.01, clip_adaptive_rule="conv.*"), initial())


# ---------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "sgd (momentum 0.9), learning rate 0.1, constant"),
        (
            dict(weight_decay=1e-4, nesterov=True, clip_norm=2.0),
            "sgd (momentum 0.9, nesterov True), weight decay 0.0001 (L2), clip_norm 2, learning rate 0.1, constant",
        ),
        (
            dict(name="adamw", options=dict(b2=0.95), weight_decay=0.05, base_batch_size=256),
            "adamw (b2 0.95), weight decay 0.05 (that of adamw), learning rate 0.05 = 0.1 x 128 / 256, constant",
        ),
        (
            dict(name="contrib.muon", weight_decay=0.05),
            "contrib.muon, weight decay 0.05 (decoupled), learning rate 0.1, constant",
        ),
    ],
)
def test_header_says_what_the_optimizer_does(fields, words):
    config = base.get_config()
    config.optim = optim_config(momentum=0.9, **fields)
    assert optimizers.describe(config) == words
