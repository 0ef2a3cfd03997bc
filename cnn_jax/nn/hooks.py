"""Hooks: see what every layer takes and gives, or change what it gives."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from flax import nnx

# A context variable, so that what another thread traces is not heard.
_listeners: contextvars.ContextVar[tuple[list, ...]] = contextvars.ContextVar("listeners", default=())


@contextlib.contextmanager
def listen() -> Iterator[list[tuple[nnx.Module, jax.Array, jax.Array]]]:
    """Collects (layer, input, output) of every layer that is called inside the block, in call order.

    Works on real arrays and under tracing (`jax.eval_shape`), so it serves the layer table and feature maps alike.
    """
    calls: list[tuple[nnx.Module, jax.Array, jax.Array]] = []
    token = _listeners.set((*_listeners.get(), calls))
    try:
        yield calls
    finally:
        _listeners.reset(token)


Change = Callable[[nnx.Module, jax.Array, jax.Array], jax.Array]
_changes: contextvars.ContextVar[tuple[Change, ...]] = contextvars.ContextVar("changes", default=())


@contextlib.contextmanager
def changed(change: Change) -> Iterator[None]:
    """Inside the block, `change(layer, input, output)` takes the place of the output of every layer that is called."""
    token = _changes.set((*_changes.get(), change))
    try:
        yield
    finally:
        _changes.reset(token)


def listened() -> bool:
    """Returns whether somebody listens, or changes outputs."""
    return bool(_listeners.get() or _changes.get())


def report(layer: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    """Tells the listeners that `layer` made y of x, and returns y, or what somebody changes it to.

    A layer of a family's own has `describe(in_shape, out_shape)`: its (kind, detail, macs) for the layer table.
    """
    for change in _changes.get():
        y = change(layer, x, y)
    for calls in _listeners.get():
        calls.append((layer, x, y))
    return y
