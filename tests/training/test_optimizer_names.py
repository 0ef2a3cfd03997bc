"""Every optimizer of optax that config.optim.name can name, against optax and torch, and what is refused."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.training import optimizer_names, optimizers
from small_problem import RATES, initial, optim_config, problem, train
from tiers import quick

NAMES = optimizer_names.names()
NO_SCHEDULE = {"sm3"}  # of optax itself


def of_optax(name, rate, **options):
    """Returns optax's optimizer with weight decay 0.01 of kernels where it has one."""
    decay, mask = optimizer_names.decay_arguments(name)
    if decay is not None:
        options[decay] = 0.01
    if mask is not None:
        options[mask] = {"fc": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    return optimizer_names.factory(name)(rate, **options)


@pytest.mark.parametrize("name", quick(sorted({*NAMES} - {"sgd"}), {"adamw", "lamb", "lars", "rmsprop", "sm3"}))
def test_optimizer_equals_optax_with_that_schedule(name):
    decay, mask = optimizer_names.decay_arguments(name)
    rule = ".*kernel" if mask else ".*"
    config = optim_config(name=name, weight_decay=0.01 if decay else 0.0, decay_rule=rule)
    optimizers.check_optimizer(config)
    ours = train(optimizers.make_optimizer(config, initial()))
    rates = jnp.asarray(RATES, jnp.float32)
    if name in NO_SCHEDULE:
        injected = optax.inject_hyperparams(lambda learning_rate: of_optax(name, learning_rate))
        theirs = train(injected(lambda step: rates[step]), extra=False)
    else:
        theirs = train(of_optax(name, lambda step: rates[step]), extra=False)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert np.abs(ours[-1]["fc"]["kernel"] - initial()["fc"]["kernel"]).max() > 0


TWINS = {
    "adam": ("Adam", {}, {}),
    "adam l2": ("Adam", dict(weight_decay=0.05), dict(weight_decay=0.05)),
    "adam decoupled": ("AdamW", dict(weight_decay=0.05, decay_style="decoupled"), dict(weight_decay=0.05)),
    "adamw": (
        "AdamW",
        dict(weight_decay=0.05, options=dict(b1=0.8, b2=0.95)),
        dict(weight_decay=0.05, betas=(0.8, 0.95)),
    ),
    "rmsprop": ("RMSprop", dict(options=dict(decay=0.99, eps_in_sqrt=False)), {}),
    "adagrad": ("Adagrad", dict(options=dict(eps=1e-10)), dict(initial_accumulator_value=0.1)),
    "adamax": ("Adamax", {}, {}),
}


@pytest.mark.parametrize("clip_norm", [0.0, 1.5])
@pytest.mark.parametrize("twin", TWINS)
def test_adaptive_optimizers_equal_torch(twin, clip_norm):
    torch = pytest.importorskip("torch")
    theirs, fields, options = TWINS[twin]
    config = optim_config(name=twin.split()[0], clip_norm=clip_norm, **fields)
    ours = train(optimizers.make_optimizer(config, initial()))[-1]
    start = initial()
    params = {
        name: torch.nn.Parameter(torch.tensor(start[layer][name]))
        for layer, name in (("fc", "kernel"), ("fc", "bias"), ("norm", "scale"))
    }
    optimizer = getattr(torch.optim, theirs)(params.values(), lr=1.0, **options)
    for step, rate in enumerate(RATES):
        x, y = (torch.tensor(array) for array in problem(step))
        optimizer.zero_grad()
        torch.mean(((x * params["scale"]) @ params["kernel"] + params["bias"] - y) ** 2).backward()
        torch.nn.utils.clip_grad_norm_(params.values(), clip_norm or math.inf)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for layer, name in (("fc", "kernel"), ("fc", "bias"), ("norm", "scale")):
        np.testing.assert_allclose(ours[layer][name], params[name].detach().numpy(), rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", quick(NAMES, {"contrib.prodigy", "contrib.dadapt_adamw", "adamw"}))
def test_first_learning_rate_of_zero_is_nan_where_it_says_so(name):
    optimizer = optimizers.make_optimizer(optim_config(name=name), initial())
    params, state = initial(), optimizer.init(initial())
    for rate in (0.0, 0.1):
        updates, state = optimizer.update(initial(), state, params, learning_rate=jnp.float32(rate))
        params = optax.apply_updates(params, updates)
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert finite == (name not in optimizer_names.DIVIDE_BY_FIRST_RATE)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lars", "lion", "rmsprop", "adafactor", "contrib.muon"])
def test_multipliers_of_layers_multiply_the_learning_rate(name):
    options = dict(name=name, options=dict(momentum=0.9) if name == "rmsprop" else {}, weight_decay=0.0)
    rules = (("fc/kernel", 0.5), ("norm/.*", 0.0))
    ours = train(optimizers.make_optimizer(optim_config(lr_multipliers=rules, **options), initial()))
    whole = optimizers.make_optimizer(optim_config(**options), initial())

    def at(factor):
        def update(updates, state, params=None, *, learning_rate, **_):
            return whole.update(updates, state, params, learning_rate=factor * learning_rate)

        return optax.GradientTransformationExtraArgs(whole.init, update)

    labels = {"fc": {"kernel": "half", "bias": "one"}, "norm": {"scale": "zero"}}
    theirs = train(optax.partition({"half": at(0.5), "one": at(1.0), "zero": at(0.0)}, labels))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)
    np.testing.assert_array_equal(ours[-1]["norm"]["scale"], initial()["norm"]["scale"])


def test_muon_updates_a_convolution_as_the_matrix_of_its_outputs():
    random = np.random.default_rng(0)
    params = {
        "conv1": {"kernel": random.normal(size=(3, 3, 2, 5)).astype("f"), "bias": np.ones(5, "f")},
        "blocks": {"block": {"kernel": random.normal(size=(4, 6, 5)).astype("f")}},  # of four equal layers
    }
    config = optim_config(name="contrib.muon", weight_decay=0.1, decay_rule=".*kernel")
    optimizers.check_optimizer(config)
    ours = optimizers.make_optimizer(config, params)
    theirs = optax.contrib.muon(0.1)
    matrices = {
        "conv1": {"kernel": params["conv1"]["kernel"].reshape(18, 5), "bias": params["conv1"]["bias"]},
        **{str(i): params["blocks"]["block"]["kernel"][i] for i in range(4)},
    }
    found, _ = ours.update(params, ours.init(params), params, learning_rate=0.1)  # any gradient
    expected, _ = theirs.update(matrices, theirs.init(matrices), matrices)
    kernel, bias = expected["conv1"]["kernel"].reshape(3, 3, 2, 5), expected["conv1"]["bias"]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    close(found["conv1"]["kernel"], kernel - 0.1 * 0.1 * params["conv1"]["kernel"])
    close(found["conv1"]["bias"], bias)
    for i in range(4):
        close(found["blocks"]["block"]["kernel"][i], expected[str(i)] - 0.1 * 0.1 * matrices[str(i)])


def test_options_that_choose_parameters_are_regexes():
    options = dict(trust_ratio_mask="fc/.*", momentum=0.5)
    config = optim_config(name="lars", weight_decay=0.01, decay_rule=".*kernel", options=options)
    ours = train(optimizers.make_optimizer(config, initial()))
    decayed = {"fc": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    trusted = {"fc": {"kernel": True, "bias": True}, "norm": {"scale": False}}
    rates = jnp.asarray(RATES, jnp.float32)
    lars = optax.lars(lambda step: rates[step], 0.01, decayed, trust_ratio_mask=trusted, momentum=0.5)
    jax.tree.map(np.testing.assert_array_equal, ours, train(lars, extra=False))
    config = optim_config(name="contrib.muon", options=dict(muon_weight_dimension_numbers="fc/.*"))
    state = optimizers.make_optimizer(config, initial()).init(initial())
    (by_muon,) = [leaf for name, leaf in trees.named_leaves(state) if "muon" in name and name.endswith("kernel")]
    assert by_muon.shape == (5, 3)
    config = optim_config(name="contrib.muon", options=dict(muon_weight_dimension_numbers="conv.*"))
    with pytest.raises(UserError, match=r"options\['muon_weight_dimension_numbers'\]: 'conv\.\*' matches none"):
        optimizers.make_optimizer(config, initial())


def test_types_of_an_optimizer_state_are_set_by_name():
    for name, option in (("sgd", "accumulator_dtype"), ("adamw", "mu_dtype")):
        config = optim_config(name=name, momentum=0.9, options={option: "bfloat16"})
        optimizers.check_optimizer(config)
        state = optimizers.make_optimizer(config, initial()).init(initial())
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} >= {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("name", "momentum", "copies"),
    [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adamw", 0.0, 2), ("lion", 0.9, 1), ("contrib.muon", 0.9, 1), ("adan", 0, 4)],
)
def test_memory_of_an_optimizer_is_counted_in_copies(name, momentum, copies):
    config = optim_config(name=name, momentum=float(momentum), weight_decay=0.1, decay_rule="conv/.*")
    assert abs(optimizers.state_copies(config) - copies) < 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(name="adamww"), "name is 'adamww', but must be an optimizer of optax, .*did you mean 'adamw'"),
        (dict(name="muon"), "did you mean 'contrib.muon'"),
        (dict(name="clip"), "must be an optimizer of optax, one of adabelief, "),
        (dict(name="lbfgs"), "'lbfgs', which needs the loss at other parameters .*: use adamw"),
        (dict(name="sam"), "contrib.sam of optax needs a second gradient, .*: use adamw or sgd$"),
        (dict(name="contrib.momo"), "needs the value of the loss at every update: use contrib.prodigy"),
        (dict(name="contrib.schedule_free_sgd"), "evaluated at other parameters than it trains: --config.ema_decay"),
        (dict(name="rprop"), "has step sizes of its own, which no schedule reaches: use"),
        (dict(name="adamw", options=dict(b3=0.9)), "has 'b3', but the arguments of adamw are b1, b2, .*mean 'b"),
        (dict(name="adamw", options=dict(b2="up")), r"options\['b2'\] is 'up', but must be a number: see optax.adamw"),
        (dict(name="adamw", options=dict(nesterov=1)), r"options\['nesterov'\] is 1, but must be True or False"),
        (dict(name="adamw", options=dict(mu_dtype="int8")), "must be float32, bfloat16 or float16"),
        (dict(name="adamw", options=dict(b1=True)), "is True, but must be a number"),
        (dict(name="adamw", options=dict(weight_decay=0.1)), "has a field of its own: set config.optim.weight_decay"),
        (dict(name="adamw", options=dict(mask=".*")), "has a field of its own: set config.optim.decay_rule"),
        (dict(name="sgd", options=dict(momentum=0.5)), "has a field of its own: set config.optim.momentum"),
        (dict(name="contrib.muon", options=dict(adam_learning_rate=0.1)), "set config.optim.lr_multipliers"),
        (dict(name="contrib.muon", options=dict(ns_steps=2.5)), "is 2.5, but must be a whole number"),
        (dict(name="contrib.muon", options=dict(ns_coeffs=(1.0,))), "must be a tuple such as"),
        (dict(name="contrib.adopt", options=dict(clip_value_fn=1)), "must be left out: it cannot be set"),
        (dict(name="contrib.muon", options=dict(ns_coeffs="dioon")), "which optax refuses"),
        (dict(name="contrib.muon", options=dict(ns_coeffs=((1.0, 2.0),))), "must be a tuple such as"),
        (dict(name="contrib.muon", options=dict(ns_steps=0)), "is 0, but must be at least 1"),
        (dict(name="contrib.galore", options=dict(update_proj_gap=0)), "is 0, but must be at least 1"),
        (dict(name="adam", options=dict(b2=2.0)), r"is 2\.0, but must be in \[0, 1\)"),
        (dict(name="adam", options=dict(b1=-3.0)), r"is -3\.0, but must be in \[0, 1\)"),
        (dict(name="adam", options=dict(eps=-1)), "is -1, but must be at least 0"),
        (dict(name="sm3", options=dict(momentum=2)), r"is 2, but must be in \[0, 1\)"),
        (dict(name="contrib.muon", options=dict(preconditioning="none")), "which optax refuses: ValueError"),
        (dict(name="adamw", nesterov=True), "nesterov is True, which is for sgd, .*optim.options.nesterov"),
        (dict(name="lion", nesterov=True), "which is for sgd, but config.optim.name is 'lion': leave it at False$"),
        (dict(name="novograd", weight_decay=0.1, decay_rule="fc/.*"), "is that of all parameters: set"),
        (dict(name="fromage", layer_decay=0.5), "those of fromage are not proportional to the learning rate"),
    ],
)
def test_impossible_optimizer_names_the_way_out(fields, message):
    with pytest.raises(UserError, match=message):
        optimizers.check_optimizer(optim_config(**fields))


@pytest.mark.parametrize("value", ["dion", ((3.4, -4.7, 2.0),) * 5])
def test_muon_takes_coefficients_by_name_and_by_step(value):
    optimizers.check_optimizer(optim_config(name="contrib.muon", options=dict(ns_coeffs=value)))


@pytest.mark.parametrize("name", sorted(optimizer_names.LAYERWISE))
def test_optimizers_of_layers_refuse_layers_stored_as_one(name):
    params = {"conv2_x": {"rest": {"block": {"conv1": {"kernel": np.ones((40, 3, 3, 4, 4), np.float32)}}}}}
    with pytest.raises(UserError, match=f"name is '{name}', which scales .*conv2_x/rest/block/conv1/kernel"):
        optimizers.make_optimizer(optim_config(name=name), params)
