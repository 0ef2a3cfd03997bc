"""The loss of an example, which config.loss names, and the weights of classes.

A loss is a function of scores float32 [B, K] and labels int [B] that returns [B], nats. Ours are linear in the target:
of two mixed examples, the mean of both labels' losses is the loss of their mixed target.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.core import imports
from cnn_jax.core.errors import check
from cnn_jax.core.rules import is_number
from cnn_jax.data.dataset import labels_of
from cnn_jax.data.splits import Splits
from cnn_jax.eval.steps import example_losses

Losses = Callable[[jax.Array, jax.Array], jax.Array]
BALANCED = "balanced"


def _targets(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    return optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)


def focal(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, gamma: float = 2.0) -> jax.Array:
    """Returns the focal loss of the softmax, -(1 - p)^gamma log p of the label's probability p, [B].

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4; gamma is 2 there. Its weights alpha are
    config.class_weights. With gamma 0 it is the cross-entropy.
    """
    logs = jax.nn.log_softmax(logits)
    # Not 0, where the slope of a power below 1 is infinite.
    missing = jnp.maximum(-jnp.expm1(logs), jnp.finfo(logs.dtype).eps)
    return -jnp.sum(_targets(logits, labels, label_smoothing) * missing**gamma * logs, axis=-1)


def binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, sum_classes: bool = False
) -> jax.Array:
    """Returns the cross-entropy of a sigmoid for each class, whose targets are one for the label and zero else, [B].

    Beyer et al. 2020, "Are we done with ImageNet?", section 4.2; Wightman et al. 2021, "ResNet strikes back",
    section 3.1.

    Args:
      sum_classes: add up the classes, instead of their mean.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, _targets(logits, labels, label_smoothing))
    return losses.sum(-1) if sum_classes else losses.mean(-1)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": example_losses,
    "focal": focal,
    "binary_cross_entropy": binary_cross_entropy,
}


def losses_of(config: Any) -> Losses:
    """Returns the loss that config.loss names, without weights of classes.

    Raises:
      UserError: there is no such function, or it does not take config.loss_options.
    """
    options = dict(config.loss_options)
    if config.loss in LOSSES:
        found = LOSSES[config.loss]
        check("label_smoothing" not in options, "config.loss_options has 'label_smoothing': set config.label_smoothing")
        check(
            not options or config.loss != "cross_entropy",
            f"config.loss_options is {options}, but cross_entropy takes none: leave it empty",
        )
        imports.check_arguments(found, options, field="config.loss_options", first=2)
        check(
            is_number(options.get("gamma", 0)) and options.get("gamma", 0) >= 0,
            f"config.loss_options.gamma is {options.get('gamma')!r}, but must be a number that is not negative",
        )
        check(
            isinstance(options.get("sum_classes", True), bool),
            f"config.loss_options.sum_classes is {options.get('sum_classes')!r}, but must be True or False",
        )
        return functools.partial(found, label_smoothing=config.label_smoothing, **options)
    check(
        config.label_smoothing == 0,
        f"config.label_smoothing is {config.label_smoothing}, which is for {', '.join(LOSSES)}, but config.loss is "
        f"{config.loss!r}: leave it at 0",
    )
    found = imports.load(config.loss, field="config.loss")
    imports.check_arguments(found, options, field="config.loss_options", first=2)
    return functools.partial(found, **options)


# ---------------------------------------------------------------- weights of classes


def given_weights(config: Any) -> np.ndarray | None:
    """Returns the weights that config.class_weights has for the classes, float32 [K]; None where it has no numbers.

    Raises:
      UserError: there are others than one for each class.
    """
    text = config.class_weights
    if text in ("", BALANCED):
        return None
    classes = config.data.num_classes
    try:
        weights = np.array([float(word) for word in text.split(",")], np.float32)
    except ValueError:
        weights = np.empty(0, np.float32)
    check(
        len(weights) == classes and bool(((weights >= 0) & np.isfinite(weights)).all() and weights.any()),
        f"config.class_weights is {text!r}, but must be empty, balanced, or {classes} numbers that are not negative, "
        "one for each class, such as '1,2.5,1'",
    )
    return weights


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns N / (K n) for a class with n of N examples, where K classes have any: float32 [classes].

    The mean weight of the examples is 1, as of scikit-learn's `compute_class_weight`. A class without examples has 0.
    """
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    here = counts > 0
    weights = counts.sum() / (here.sum() * np.maximum(counts, 1))
    return np.where(here, weights, 0).astype(np.float32)


def weighted(losses: Losses, config: Any, data: Splits) -> Losses:
    """Returns the loss of an example times the weight of its class, as config.class_weights says.

    Weights scale the loss; the mean over a batch divides by its examples, as in Keras, not by their weights.
    """
    if not config.class_weights:
        return losses
    weights = given_weights(config)
    if weights is None and data.sizes_only:  # nothing is computed
        weights = np.ones(config.data.num_classes, np.float32)
    elif weights is None:
        weights = balanced_weights(labels_of(data.parts["train"].source), config.data.num_classes)
    factors = jnp.asarray(weights)
    return lambda logits, labels: factors[labels] * losses(logits, labels)
