"""The same numbers as `jax.random`, bit for bit, without a compilation for each shape.

`jax.random.normal` compiles a program for every shape: ResNet-50 has 24, which take ten seconds on a CPU. Element i of
an array of random bits depends on the key and on i alone (`jax_threefry_partitionable`). So one program computes any
`CHUNK` elements, and arrays are put together from its results.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p

CHUNK = 1 << 16  # elements: about a millisecond


def key_words(key: jax.Array) -> tuple[int, int] | None:
    """Returns the two 32-bit words of a key; None while jax traces, and for keys of another kind."""
    if str(jax.random.key_impl(key)) != "threefry2x32" or not jax.config.values["jax_threefry_partitionable"]:
        return None
    words = jax.random.key_data(key)
    if isinstance(words, jax.core.Tracer) or words.shape != (2,):
        return None
    first, second = np.asarray(words).tolist()
    return first, second


def fold_in(words: tuple[int, int], number: int) -> jax.Array:
    """Returns `jax.random.fold_in(key, number)` for the words of a key."""
    folded: Any = np.array(threefry2x32(*words, 0, number), np.uint32)
    return jax.random.wrap_key_data(folded, impl="threefry2x32")


def threefry2x32(key0: int, key1: int, x0: int, x1: int) -> tuple[int, int]:
    """Returns the block cipher Threefry-2x32 with 20 rounds of (x0, x1) (Salmon et al. 2011)."""
    mask = 0xFFFFFFFF
    keys = (key0, key1, key0 ^ key1 ^ 0x1BD11BDA)
    x0, x1 = (x0 + key0) & mask, (x1 + key1) & mask
    for i in range(5):
        for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            x0 = (x0 + x1) & mask
            x1 = ((x1 << distance | x1 >> 32 - distance) & mask) ^ x0
        x0, x1 = (x0 + keys[(i + 1) % 3]) & mask, (x1 + keys[(i + 2) % 3] + i + 1) & mask
    return x0, x1


def normal(words: tuple[int, int], shape: Sequence[int], deviation: float) -> jax.Array:
    """Returns `jax.random.normal(key, shape) * deviation`, float32."""
    return _chunks(_normal, words, shape, deviation)


def uniform(words: tuple[int, int], shape: Sequence[int], low: float, high: float, factor: float = 1) -> jax.Array:
    """Returns `jax.random.uniform(key, shape, minval=low, maxval=high) * factor`, float32."""
    return _chunks(_uniform, words, shape, factor, np.float32(low), np.float32(high))


def _chunks(program: Any, words: tuple[int, int], shape: Sequence[int], factor: float, *limits: Any) -> jax.Array:
    """Returns an array of `shape`, put together from what a program computes of its elements, times `factor`."""
    size, key, scale = math.prod(shape), np.array(words, np.uint32), np.float32(factor)
    chunks = [program(key, np.uint32(start), *limits) for start in range(0, size, CHUNK)]  # they run in parallel
    values = np.empty(size, np.float32)
    for start, chunk in zip(range(0, size, CHUNK), chunks, strict=True):
        # Not in the program: XLA would multiply in another order.
        np.multiply(np.asarray(chunk)[: size - start], scale, out=values[start : start + CHUNK])
    return jax.device_put(values.reshape(shape))


def _between(key: jax.Array, start: jax.Array, low: Any, high: Any) -> jax.Array:
    """Returns the elements from `start` on of `jax.random.uniform`, by the same operations."""
    numbers = lax.iota(np.uint32, CHUNK) + start
    first, second = threefry2x32_p.bind(key[0], key[1], jnp.zeros_like(numbers), numbers)
    mantissa = lax.shift_right_logical(first ^ second, np.uint32(9)) | np.float32(1).view(np.uint32)
    return lax.max(low, (lax.bitcast_convert_type(mantissa, np.float32) - np.float32(1)) * (high - low) + low)


_uniform = jax.jit(_between)


@jax.jit
def _normal(key: jax.Array, start: jax.Array) -> jax.Array:
    low = np.nextafter(np.float32(-1), np.float32(0))
    return np.float32(np.sqrt(2)) * lax.erf_inv(_between(key, start, low, np.float32(1)))
