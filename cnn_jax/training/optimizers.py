"""From config.optim to an optax transformation.

The learning rate is an argument of the update, not hidden in the optimizer: the step computes it as
schedule(step) x plateau scale, logs it, and hands it over. As in `optax.sgd` and `torch.optim.SGD` it multiplies
outside the momentum buffer; any other optimizer of optax has it where its own paper does.

Weight decay is where the optimizer has it: adamw, lion, adan and others subtract learning rate x decay x parameter,
lars and madgrad add it to the gradient, lamb and novograd to what they normalize or scale by the norm, adafactor
subtracts decay x parameter. Optimizers that have none, and sgd, do what config.optim.decay_style says.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.core import trees
from cnn_jax.core.errors import UserError, check
from cnn_jax.training import optimizer_names, schedules
from cnn_jax.training.averages import has_average

Transformation = optax.GradientTransformationExtraArgs


def check_optimizer(config: Any) -> None:
    """Raises UserError for an optimizer, or options of it, that optax does not have, and fields that exclude it.

    Args:
      config: config.optim.
    """
    name, options = config.name, dict(config.options)
    optimizer_names.check_name(name)
    optimizer_names.check_options(name, options)
    check(
        name == "sgd" or not config.nesterov,
        f"config.optim.nesterov is True, which is for sgd, but config.optim.name is {name!r}: leave it at False"
        + (", and set config.optim.options.nesterov" if "nesterov" in optimizer_names.parameters(name) else ""),
    )
    decay, mask = optimizer_names.decay_arguments(name)
    check(
        decay is None or mask is not None or not config.weight_decay or config.decay_rule == ".*",
        f"config.optim.decay_rule is {config.decay_rule!r}, but the weight decay of {name} is that of all parameters: "
        "set config.optim.decay_rule='.*', or config.optim.weight_decay=0",
    )
    check(
        name not in optimizer_names.NOT_PROPORTIONAL or (not config.lr_multipliers and config.layer_decay == 1),
        f"config.optim.lr_multipliers and layer_decay multiply updates, but those of {name} are not proportional to "
        "the learning rate: leave them at () and 1",
    )
    small = {"head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    without_rules = {option: value for option, value in options.items() if not _is_rule(option)}
    try:
        optimizer = _of_optax(name, optimizer_names.arguments(name, without_rules, small, small))

        def update(tree: Any) -> Any:
            return optimizer.update(tree, optimizer.init(tree), tree, learning_rate=jnp.float32(1))

        jax.eval_shape(update, small)
    except Exception as error:
        raise UserError(
            f"config.optim.name is {name!r} and config.optim.options {options}, which optax refuses: "
            f"{type(error).__name__}: {error}"
        ) from None


def _is_rule(option: str) -> bool:
    return option.endswith(("mask", "dimension_numbers"))


def make_optimizer(
    config: Any, params: Any, layer_rules: Sequence[tuple[str, float]] = (), *, everything: Any = None
) -> Transformation:
    """Returns the optimizer that config.optim names; its `update` takes the keyword `learning_rate`.

    Order: clip the gradient of the loss, add L2 decay, the optimizer, decoupled decay, factors of the learning rate.
    sgd equals `torch.optim.SGD` (which knows L2 only), the others equal optax's with the same schedule.

    Args:
      config: config.optim, which `check_optimizer` has passed.
      params: the tree of parameters (arrays or shapes) that are trained.
      everything: all parameters, that the rules are matched against; None: `params`.
      layer_rules: (regex, factor) of learning rates, besides config.lr_multipliers; one may match nothing.

    Raises:
      UserError: a rule matches no parameter; the optimizer looks at layers, but some are stored as one array.
    """
    everything = params if everything is None else everything
    trees.match(everything, config.decay_rule, field="config.optim.decay_rule")
    trees.multipliers(everything, config.lr_multipliers, field="config.optim.lr_multipliers")
    _check_layers(config.name, everything)
    mask = trees.match(params, config.decay_rule, field=None)
    by_rule = trees.multipliers(params, config.lr_multipliers, field=None)
    by_layer = trees.multipliers(params, layer_rules, field=None)
    factors = jax.tree.map(lambda one, other: one * other, by_rule, by_layer)
    options = optimizer_names.arguments(config.name, dict(config.options), params, everything)
    style = decay_style(config)
    parts = _clipping(config, params, everything)
    decay = optax.add_decayed_weights(config.weight_decay, mask) if config.weight_decay else optax.identity()
    if style == "l2":
        parts.append(decay)
    if config.name == "sgd":
        if config.momentum:
            parts.append(optax.trace(config.momentum, config.nesterov, options.get("accumulator_dtype")))
        if style == "decoupled":
            parts.append(decay)
        return optax.chain(*parts, _scale_by_learning_rate(factors))
    if style == "own":
        decay_argument, mask_argument = optimizer_names.decay_arguments(config.name)
        assert decay_argument is not None
        options[decay_argument] = config.weight_decay or None  # of adafactor, dog and dowg: no decay
        if optimizer_names.parameters(config.name)[decay_argument].default is not None:
            options[decay_argument] = config.weight_decay
        if mask_argument is not None:
            options[mask_argument] = mask
    parts.append(_of_optax(config.name, options))
    if style == "decoupled" and config.weight_decay:
        parts.append(_decay_by_learning_rate(config.weight_decay, mask))
    if any(factor != 1 for factor in jax.tree.leaves(factors)):
        parts.append(_multiply(factors))
    return optax.chain(*parts)


def describe(config: Any) -> str:
    """Returns the optimizer, its weight decay, its clipping and its learning rate in words, for the header of a run.

    Args:
      config: the whole configuration.
    """
    optim = config.optim
    options = dict(optim.options)
    if optim.name == "sgd":
        options = {"momentum": optim.momentum} | ({"nesterov": True} if optim.nesterov else {}) | options
    given = ", ".join(f"{name} {value}" for name, value in options.items())
    words = [f"{optim.name} ({given})" if given else optim.name]
    if optim.weight_decay:
        style = {"l2": "L2", "decoupled": "decoupled", "own": f"that of {optim.name}"}[decay_style(optim)]
        words.append(f"weight decay {optim.weight_decay:g} ({style})")
    for field in ("clip_value", "clip_adaptive", "clip_norm"):
        if optim[field]:
            words.append(f"{field} {optim[field]:g}")
    peak = f"learning rate {schedules.peak(config):g}"
    if optim.base_batch_size:
        peak += f" = {optim.learning_rate:g} x {config.batch_size} / {optim.base_batch_size}"
    words.append(f"{peak}, {optim.schedule.name}")
    if config.ema_decay:
        words.append(f"moving average of the weights with decay {config.ema_decay:g}")
    elif has_average(config):
        words.append(f"mean of the weights of the last {config.swa_last}, every {config.swa_every}")
    return ", ".join(words)


def state_copies(config: Any) -> float:
    """Returns how many times the bytes of float32 parameters an optimizer keeps, as of one matrix of 256 x 256.

    Args:
      config: config.optim, which `check_optimizer` has passed.
    """
    plain = config.copy_and_resolve_references()
    with plain.unlocked(), plain.ignore_type():
        plain.update(dict(decay_rule=".*", lr_multipliers=(), clip_adaptive=0.0))
        plain.options = {name: value for name, value in plain.options.items() if not _is_rule(name)}
    params = {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
    state = jax.eval_shape(make_optimizer(plain, params).init, params)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    return round(sum(sizes) / (4 * 256 * 256), 3)


def _clipping(config: Any, params: Any, everything: Any) -> list[optax.GradientTransformation]:
    """Returns what clips the gradient: its entries, its units, and then all of it."""
    parts = []
    if config.clip_value:
        parts.append(optax.clip(config.clip_value))
    if config.clip_adaptive:
        trees.match(everything, config.clip_adaptive_rule, field="config.optim.clip_adaptive_rule")
        mask = trees.match(params, config.clip_adaptive_rule, field=None)
        parts.append(_clip_adaptively(config.clip_adaptive, mask))
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    return parts


def _clip_adaptively(clipping: float, mask: Any) -> optax.GradientTransformation:
    """Clips the gradient of each unit, where `mask` is true, to `clipping` times the norm of its weights.

    A unit of a kernel is what makes one output, the last axis; of anything else it is the whole array (Brock et al.
    2021, equation 3). Left to itself, optax takes a kernel over time for another kind of array.
    """

    def clip(gradient: jax.Array, param: jax.Array, axes: tuple[int, ...] | None) -> Any:
        clipped = optax.adaptive_grad_clip(clipping, axis=axes)
        return clipped.update(gradient, optax.EmptyState(), param)[0]

    def one(path: tuple, gradient: jax.Array, param: jax.Array, is_clipped: bool) -> Any:
        if not is_clipped:
            return gradient
        many = trees.is_repeated(trees.path_name(path))
        ndim = gradient.ndim - many
        one_layer = functools.partial(clip, axes=tuple(range(ndim - 1)) if ndim > 1 else None)
        return jax.vmap(one_layer)(gradient, param) if many else one_layer(gradient, param)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree_util.tree_map_with_path(one, updates, params, mask), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def decay_style(config: Any) -> str:
    """Returns how the parameters decay: "l2", "decoupled", or "own": as the optimizer of optax does it."""
    if optimizer_names.decay_arguments(config.name)[0] is not None:
        return "own"
    # Muon's own decay is decoupled, too, but leaves out what it updates by Adam.
    return "decoupled" if config.name == "contrib.muon" else config.decay_style


def _of_optax(name: str, options: dict[str, Any]) -> Transformation:
    """Returns an optimizer of optax whose update takes `learning_rate`: it is made anew in each, as of a constant.

    So a schedule needs no place in its state, and may be anything.
    """
    make = functools.partial(optimizer_names.factory(name), **options)

    def init(params: Any) -> Any:
        return make(jnp.float32(0)).init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return make(extra["learning_rate"]).update(updates, state, params)

    return Transformation(init, update)


def _scale_by_learning_rate(factors: Any) -> Transformation:
    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return jax.tree.map(lambda u, factor: -extra["learning_rate"] * factor * u, updates, factors), state

    return Transformation(optax.init_empty_state, update)


def _decay_by_learning_rate(decay: float, mask: Any) -> Transformation:
    """Subtracts learning rate x decay x parameter from updates."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        rate = extra["learning_rate"] * decay
        return jax.tree.map(lambda u, p, is_decayed: u - rate * p if is_decayed else u, updates, params, mask), state

    return Transformation(optax.init_empty_state, update)


def _multiply(factors: Any) -> Transformation:
    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        return jax.tree.map(lambda u, factor: factor * u, updates, factors), state

    return Transformation(optax.init_empty_state, update)


def _check_layers(name: str, params: Any) -> None:
    """Raises UserError if an optimizer that looks at each layer gets arrays of many."""
    repeated = [leaf for leaf, _ in trees.named_leaves(params) if trees.is_repeated(leaf)]
    check(
        not repeated or name not in optimizer_names.LAYERWISE,
        f"config.optim.name is {name!r}, which scales the update of each layer by itself, but this network stores "
        f"equal layers as one array ({(repeated or [''])[0]}, ...): use sgd or adamw, or fewer layers",
    )
