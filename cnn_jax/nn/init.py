"""Activations and initializers by name, widths, and the keys of initial parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import initializers

from cnn_jax.core.errors import check, check_choice
from cnn_jax.nn import host_random

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,  # slope 0.01 (Maas et al. 2013)
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "scaled_tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),  # LeCun et al. 1998, eq. 6 and appendix A
    "linear": lambda x: x,
}


# ---------------------------------------------------------------- initializers

Initializer = Callable[..., jax.Array]  # key, shape, dtype


def _initializer(traced: Initializer, drawn: Callable[[tuple[int, int], Sequence[int]], jax.Array]) -> Initializer:
    """Returns an initializer: `traced` inside jax's transformations; outside, `drawn`, which gives the same values."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **options: Any) -> jax.Array:
        words = host_random.key_words(key) if jnp.dtype(dtype) == jnp.float32 and not options else None
        return traced(key, tuple(shape), dtype, **options) if words is None else drawn(words, shape)

    return init


def variance_scaling(
    scale: float, mode: Literal["fan_in", "fan_out", "fan_avg"], distribution: Literal["normal", "uniform"]
) -> Initializer:
    """Returns `jax.nn.initializers.variance_scaling`: variance `scale` / fan, distribution "normal" or "uniform"."""

    def drawn(words: tuple[int, int], shape: Sequence[int]) -> jax.Array:
        positions = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * positions, shape[-1] * positions
        variance = np.float32(scale / {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode])
        if distribution == "normal":
            return host_random.normal(words, shape, np.sqrt(variance))
        return host_random.uniform(words, shape, -1, 1, np.sqrt(np.float32(3) * variance))

    return _initializer(initializers.variance_scaling(scale, mode, distribution), drawn)


def normal(deviation: float) -> Initializer:
    """Returns an initializer with N(0, deviation**2)."""
    return _initializer(
        initializers.normal(deviation), lambda words, shape: host_random.normal(words, shape, deviation)
    )


def _lecun_limit(shape: Sequence[int]) -> float:
    return 2.4 / math.prod(shape[:-1])


def _lecun_uniform_1998(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    return jax.random.uniform(key, tuple(shape), dtype, -_lecun_limit(shape), _lecun_limit(shape))


# U(-2.4/n, 2.4/n) with n the fan-in (LeCun et al. 1998, appendix A).
lecun_uniform_1998 = _initializer(
    _lecun_uniform_1998,
    lambda words, shape: host_random.uniform(words, shape, -_lecun_limit(shape), _lecun_limit(shape)),
)


def constant(value: float) -> Initializer:
    """Returns an initializer with one value; it compiles nothing outside of jax's transformations."""

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32, **_: Any) -> jax.Array:
        traced = isinstance(key, jax.core.Tracer)
        return jnp.full(shape, value, dtype) if traced else jax.device_put(np.full(shape, value, dtype))

    return init


ZEROS, ONES = constant(0.0), constant(1.0)

# Name -> initializer of convolution and linear kernels. Biases start at zero.
INITS: dict[str, Initializer] = {
    "he_fan_in": variance_scaling(2.0, "fan_in", "normal"),  # He et al. 2015, eq. 10
    "he_fan_out": variance_scaling(2.0, "fan_out", "normal"),  # He et al. 2015, eq. 14
    "glorot_normal": variance_scaling(1.0, "fan_avg", "normal"),  # Glorot & Bengio 2010
    "glorot_uniform": variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": variance_scaling(1.0, "fan_in", "normal"),
    "lecun_uniform_1998": lecun_uniform_1998,
    "normal_0.01": normal(0.01),  # Krizhevsky et al. 2012, section 5
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation function called `name`; raises UserError for an unknown one."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def get_init(name: str) -> Callable[..., jax.Array]:
    """Returns the kernel initializer called `name`; raises UserError for an unknown one."""
    check_choice("init", name, INITS)
    return INITS[name]


def scaled(channels: int, width: float) -> int:
    """Returns a layer's channels, or hidden units, under a width multiplier, at least 1."""
    check(channels > 0, f"a layer would have {channels} channels or units (fc_sizes, maps), but must have at least 1")
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
        self.key, self.words = key, host_random.key_words(key)
        self.count = 0

    def params(self) -> jax.Array:
        """Returns the next key."""
        self.count += 1
        if self.words is None:
            return jax.random.fold_in(self.key, self.count)
        return host_random.fold_in(self.words, self.count)


class Statistic(nnx.BatchStat):
    """A running average whose assignment does not ask for the sharding; see `InitKeys`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.set_value(value)
