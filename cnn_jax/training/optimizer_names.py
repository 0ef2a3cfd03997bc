"""Which optimizers of optax config.optim.name can name, and what arguments they take."""

import inspect
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check, near
from cnn_jax.core.rules import is_number

AVERAGE = "--config.ema_decay=0.9999 with any optimizer averages parameters, too"
VALUE = "needs the value of the loss at every update"
WRAPPER = "is not an optimizer: it wraps one"
# What optax has, but a step that has one gradient and a learning rate cannot use: the reason, and what to use.
REFUSED = {
    "lbfgs": ("needs the loss at other parameters for its line search", "use adamw or lamb"),
    "polyak_sgd": (VALUE, "use contrib.prodigy or contrib.dog, which find their step size from gradients"),
    "contrib.momo": (VALUE, "use contrib.prodigy or contrib.dog, which find their step size from gradients"),
    "contrib.momo_adam": (VALUE, "use contrib.prodigy, which finds its step size from gradients"),
    "contrib.sam": ("needs a second gradient, at other parameters", "use adamw or sgd"),
    "contrib.sophia": ("needs the loss itself, for estimates of its Hessian", "use adamw, lion or contrib.muon"),
    "contrib.dpsgd": ("needs the gradient of every example", "use sgd with config.optim.clip_norm"),
    "contrib.schedule_free": (WRAPPER + "; it is evaluated at other parameters than it trains", AVERAGE),
    "contrib.schedule_free_sgd": ("is evaluated at other parameters than it trains", AVERAGE),
    "contrib.schedule_free_adamw": ("is evaluated at other parameters than it trains", AVERAGE),
    "contrib.mechanize": (WRAPPER, "use contrib.prodigy or contrib.dadapt_adamw, which find their step size"),
    "lookahead": (WRAPPER + "; it has two sets of parameters", AVERAGE),
    "noisy_sgd": ("draws its noise from a key of its own, but randomness comes from config.seed", "use sgd"),
    "rprop": ("has step sizes of its own, which no schedule reaches", "use sign_sgd, signum or rmsprop"),
    "optimistic_adam": ("takes no schedule", "use optimistic_adam_v2"),
}
# Those that scale what they do to an array by a norm, a rank or a mean of it: it must be one layer.
LAYERWISE = {"lars", "lamb", "fromage", "novograd", "adafactor", "contrib.galore"}
# The learning rate is not a factor of their updates, so a multiplier of the update is not one of the learning rate.
NOT_PROPORTIONAL = {"fromage", "contrib.cocob", "contrib.dadapt_adamw", "contrib.madgrad"}
# A learning rate of 0 in the first step, before one above 0, makes their parameters NaN.
DIVIDE_BY_FIRST_RATE = {"contrib.dadapt_adamw", "contrib.prodigy"}
# Arguments that have fields of their own, and those fields.
FIELDS = {
    **dict.fromkeys(("weight_decay", "weight_decay_rate", "adam_weight_decay"), "weight_decay"),
    **dict.fromkeys(("mask", "weight_decay_mask"), "decay_rule"),
    **{"learning_rate": "learning_rate", "adam_learning_rate": "lr_multipliers"},
}
OF_SGD = ("momentum", "nesterov")  # fields of config.optim


def names() -> list[str]:
    """Returns the names of all optimizers: functions of optax and optax.contrib that take a learning rate."""
    found = []
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name in sorted(set(dir(module)) - {"scale_by_learning_rate"}):
            function = None if name.startswith("_") else getattr(module, name)
            if not isinstance(function, types.FunctionType) or prefix + name in REFUSED or name.startswith("scale_by_"):
                continue
            if "learning_rate" in inspect.signature(function).parameters:
                found.append(prefix + name)
    return found


def check_name(name: str) -> None:
    """Raises UserError unless config.optim.name can be `name`."""
    field = f"config.optim.name is {name!r}"
    check(name not in REFUSED, f"{field}, which {': '.join(REFUSED.get(name, ()))}")
    known = names()
    if name in known:
        return
    own = f"contrib.{name}"
    check(own not in REFUSED, f"{field}; {own} of optax {': '.join(REFUSED.get(own, ()))}")
    hint = f"; did you mean {own!r}?" if own in known else near(name, known)
    raise UserError(f"{field}, but must be an optimizer of optax, one of {', '.join(known)}{hint}")


def factory(name: str) -> Any:
    """Returns optax's function of an optimizer of `names`."""
    return getattr(optax.contrib, name.removeprefix("contrib.")) if "." in name else getattr(optax, name)


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Returns the arguments of an optimizer by their names."""
    return inspect.signature(factory(name)).parameters


def decay_arguments(name: str) -> tuple[str | None, str | None]:
    """Returns the names of the arguments (weight decay, its mask) of an optimizer that has its own weight decay.

    Muon's does not reach what it updates by Adam, so that it counts as one without.
    """
    if name == "contrib.muon":
        return None, None
    known = parameters(name)

    def first(*options: str) -> str | None:
        return next((option for option in options if option in known), None)

    return first("weight_decay", "weight_decay_rate"), first("mask", "weight_decay_mask")


# ---------------------------------------------------------------- config.optim.options


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises UserError for the first of config.optim.options that the optimizer does not take, or not so."""
    known = parameters(name)
    for option, value in options.items():
        field = f"config.optim.options[{option!r}]"
        own = option if name == "sgd" and option in OF_SGD else FIELDS.get(option)
        check(own is None, f"{field} has a field of its own: set config.optim.{own}")
        takes = [argument for argument in known if argument not in FIELDS and (name != "sgd" or argument not in OF_SGD)]
        check(
            option in known,
            f"config.optim.options has {option!r}, but the arguments of {name} are {', '.join(takes)}"
            f"{near(option, takes)}",
        )
        wanted = _wanted(known[option], value) or _range(name, option, value)
        check(wanted is None, f"{field} is {value!r}, but must be {wanted}: see optax.{name}")


def _wanted(parameter: inspect.Parameter, value: Any) -> str | None:
    """Returns in words what a value of an argument must be, None if it is that."""
    name, default = parameter.name, parameter.default
    if value is None and (default is None or "None" in str(parameter.annotation) or "Opt" in str(parameter.annotation)):
        return None
    if name.endswith(("mask", "dimension_numbers")):
        return None if isinstance(value, str) else "a regex over parameter names: those that it is for"
    if "dtype" in name:
        return None if value in ("float32", "bfloat16", "float16") else "float32, bfloat16 or float16"
    if callable(default) or not isinstance(default, (bool, int, float, str, tuple, type(None))):
        return "left out: it cannot be set, since its value is a function"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, int) and not isinstance(default, bool):
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, str):
        return None if isinstance(value, str) else f"a word, such as {default!r}"
    if name == "ns_coeffs" and isinstance(value, str):
        return None  # a preset, whose name optax checks
    if name == "ns_coeffs" and isinstance(value, (tuple, list)) and value and isinstance(value[0], (tuple, list)):
        return next(filter(None, (_wanted(parameter, row) for row in value)), None)
    if isinstance(default, tuple):
        given = value if isinstance(value, (tuple, list)) else ()
        alike = all(
            isinstance(own, str) if isinstance(other, str) else is_number(own)
            for own, other in zip(given, default, strict=False)
        )
        return None if alike and len(given) == len(default) else f"a tuple such as {default}"
    return None if is_number(value) else "a number"


def _range(name: str, option: str, value: Any) -> str | None:
    """Returns in words the range that a value of an option is outside of, None if it is inside."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    decays = {"b1", "b2", "b3", "beta3", "adam_b1", "adam_b2", "decay", "momentum", "rho"}
    if option in decays or (option == "beta" and not name.startswith("optimistic")):
        return None if 0 <= value < 1 else "in [0, 1)"
    if option in ("eps", "eps_root", "adam_eps_root"):
        return None if value >= 0 else "at least 0"
    if option in ("ns_steps", "update_proj_gap", "rank"):
        return None if value >= 1 else "at least 1"
    return None


def arguments(name: str, options: Mapping[str, Any], params: Any, everything: Any) -> dict[str, Any]:
    """Returns the arguments of an optimizer, without learning rate and weight decay, for a tree of parameters.

    A regex becomes a tree of bools, or of the axes of the matrices that Muon or GaLore makes of kernels: the last axis
    is that of the outputs, the others that of the inputs. Without one, all kernels are such matrices.

    Raises:
      UserError: a regex matches nothing.
    """
    known, found = parameters(name), {}
    for option, value in options.items():
        if option.endswith("mask") and isinstance(value, str):
            trees.match(everything, value, field=f"config.optim.options[{option!r}]")
            value = trees.match(params, value, field=None)
        elif "dtype" in option and isinstance(value, str):
            value = jnp.dtype(value)
        found[option] = tuple(value) if isinstance(value, list) else value
    for option in known:
        if option.endswith("weight_dimension_numbers"):
            pattern = found.get(option)
            if pattern is not None:
                trees.match(everything, pattern, field=f"config.optim.options[{option!r}]")
            found[option] = _matrices(name, pattern or r".*kernel")
    return found


def _matrices(name: str, pattern: str) -> Any:
    """Returns a function of parameters: which axes make a matrix of each that matches; None for the others."""
    make = optax.contrib.MuonDimensionNumbers if name == "contrib.muon" else optax.contrib.GaLoreDimensionNumbers

    def numbers(params: Any) -> Any:
        def one(path: tuple, leaf: Any) -> Any:
            leaf_name = trees.path_name(path)
            first = int(trees.is_repeated(leaf_name))
            if not re.fullmatch(pattern, leaf_name) or leaf.ndim < 2 + first:
                return None
            return make(tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1)

        return jax.tree_util.tree_map_with_path(one, params)

    return numbers
