"""Blocks whose outputs are computed again in the backward pass, instead of being kept (Chen et al. 2016)."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from cnn_jax.nn import hooks

_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar("remat", default=False)


@contextlib.contextmanager
def blocks(enabled: bool = True) -> Iterator[None]:
    """Inside the block, networks are traced so that modules run by `call` keep only their inputs for the gradient.

    Also a decorator of a function that is going to be differentiated. With enabled=False it changes nothing.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def call(module: Any, x: jax.Array, **arrays: Any) -> jax.Array:
    """Returns module(x, **arrays); see `blocks`. Hooks see every layer of it, and then nothing is computed twice."""
    if not _enabled.get() or hooks.active() or not isinstance(module, nnx.Module):
        return module(x, **arrays)
    with blocks(False):  # what is inside of it is kept or computed again as a whole
        return nnx.remat(_call)(module, x, arrays)


def _call(module: Any, x: jax.Array, arrays: dict[str, Any]) -> jax.Array:
    return module(x, **arrays)
