"""Stochastic depth: in training, residual blocks are skipped at random (Huang et al. 2016)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def linear_rates(last: float, count: int) -> tuple[float, ...]:
    """Returns the rates of `count` blocks, from `last` / count to `last` (the linear rule, eq. 4)."""
    return tuple(last * number / count for number in range(1, count + 1))


class StochasticDepth(nnx.Module):
    """Sets the residual of each image to 0 with a probability; [B, *spatial, C] -> the same.

    What is left is divided by the probability to stay, so that the expectation is that of evaluation, which changes
    nothing. The paper drops a block for a whole batch and scales in evaluation.

    rates: of the block, or of each of several equal ones (`Repeated`); a call says which one it is.
    """

    def __init__(self, rates: Sequence[float]):
        self.rates = tuple(rates)
        self.deterministic = False  # as that of nnx.Dropout: training

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode; `nnx.view` calls it."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, y: jax.Array, *, rngs: jax.Array | None = None, number: Any = 0) -> jax.Array:
        if self.deterministic:
            return y
        if rngs is None:
            raise ValueError("a network with stochastic depth needs a key in training: network(images, rngs=key)")
        keep = 1 - jnp.asarray(self.rates, jnp.float32)[number]
        kept = jax.random.bernoulli(rngs, keep, (y.shape[0], *[1] * (y.ndim - 1)))
        return jnp.where(kept, y / keep.astype(y.dtype), jnp.zeros((), y.dtype))
