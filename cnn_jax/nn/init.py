"""Activations and initializers by name, widths, and the keys of initial parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from cnn_jax.core.errors import check, check_choice

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 (Maas et al. 2013)
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),  # LeCun et al. 1998, eq. 6 and appendix A
    "linear": lambda x: x,
}


def lecun_uniform_1998(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    """U(-2.4/n, 2.4/n) with n the fan-in (LeCun et al. 1998, appendix A)."""
    limit = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)


# Name -> initialiser of convolution and linear kernels. Biases start at zero.
INITS: dict[str, Callable[..., jax.Array]] = {
    "he_fan_in": initializers.variance_scaling(2.0, "fan_in", "normal"),  # He et al. 2015, eq. 10
    "he_fan_out": initializers.variance_scaling(2.0, "fan_out", "normal"),  # He et al. 2015, eq. 14
    "glorot_normal": initializers.variance_scaling(1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010
    "glorot_uniform": initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": initializers.variance_scaling(1.0, "fan_in", "normal"),
    "lecun_uniform_1998": lecun_uniform_1998,
    "normal_0.01": initializers.normal(0.01),  # Krizhevsky et al. 2012, section 5
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation function called `name`; raises UserError for an unknown one."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def get_init(name: str) -> Callable[..., jax.Array]:
    """Returns the kernel initialiser called `name`; raises UserError for an unknown one."""
    check_choice("init", name, INITS)
    return INITS[name]


def scaled(channels: int, width: float) -> int:
    """Returns a layer's channels, or hidden units, under a width multiplier, at least 1."""
    check(channels > 0, f"a layer is to have {channels} channels or units (fc_sizes, maps), but must have at least 1")
    check(width > 0, f"width is {width}, but must be positive: 1 is the paper's network, 0.5 half of its channels")
    return max(1, round(channels * width))


def scaled_sizes(sizes: Sequence[int], width: float) -> tuple[int, ...]:
    """Returns the units of hidden layers under a width multiplier; raises UserError for a size below 1."""
    check(all(size > 0 for size in sizes), f"the hidden sizes are {tuple(sizes)}, but every size must be above 0")
    return tuple(scaled(size, width) for size in sizes)


# ---------------------------------------------------------------- keys and statistics that trace fast


class InitKeys:
    """Keys of initial parameters, one for each call of `params()`; layers take it instead of `nnx.Rngs`.

    It counts in Python. `nnx.Rngs` counts in an array, and under tracing every assignment `variable[...] = value`
    of Flax asks a tracer for its sharding, which costs time quadratic in the depth (ResNet-1202: 9 minutes).
    """

    def __init__(self, key: jax.Array):
        self.key = key
        self.count = 0

    def params(self) -> jax.Array:
        self.count += 1
        return jax.random.fold_in(self.key, self.count)


class Statistic(nnx.BatchStat):
    """A running average whose assignment does not ask for the sharding; see `InitKeys`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set_value(value)
