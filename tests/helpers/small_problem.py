"""A least-squares problem with gradients by hand, and configurations of optimizers for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.config import fields as base

RATES = [0.1 / (1 + step % 5) for step in range(20)]  # falls and rises: the buffer must not include the rate


def optim_config(schedule: dict | None = None, **fields):
    config = base.get_config().optim
    config.options = fields.pop("options", {})
    config.update(dict(momentum=0.0) | fields)
    config.schedule.update(schedule or {})
    return config


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
