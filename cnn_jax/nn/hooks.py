"""Hooks: see the input and output of every layer, or replace its output.

Every layer returns `emit(self, x, y)`. Hooks are context variables: they do not see what other threads trace.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
from flax import nnx

Call = tuple[nnx.Module, jax.Array, jax.Array]  # layer, input, output
Change = Callable[[nnx.Module, jax.Array, jax.Array], jax.Array]

_captures: contextvars.ContextVar[tuple[list[Call], ...]] = contextvars.ContextVar("captures", default=())
_changes: contextvars.ContextVar[tuple[Change, ...]] = contextvars.ContextVar("changes", default=())


@contextlib.contextmanager
def capture() -> Iterator[list[Call]]:
    """Collects (layer, input, output) of every layer that is called inside the block, in call order.

    It works on arrays and under tracing (`jax.eval_shape`).
    """
    calls: list[Call] = []
    token = _captures.set((*_captures.get(), calls))
    try:
        yield calls
    finally:
        _captures.reset(token)


@contextlib.contextmanager
def intercept(change: Change) -> Iterator[None]:
    """Replaces the output of every layer that is called inside the block by `change(layer, input, output)`."""
    token = _changes.set((*_changes.get(), change))
    try:
        yield
    finally:
        _changes.reset(token)


def active() -> bool:
    """Returns whether a `capture` or an `intercept` is active."""
    return bool(_captures.get() or _changes.get())


def emit(layer: nnx.Module, x: jax.Array, y: jax.Array) -> jax.Array:
    """Passes the call y = layer(x) to the hooks; returns y, or what `intercept` changes it to.

    A layer that a family defines has `describe(in_shape, out_shape)`: its (kind, detail, macs) for the layer table.
    """
    for change in _changes.get():
        y = change(layer, x, y)
    for calls in _captures.get():
        calls.append((layer, x, y))
    return y
