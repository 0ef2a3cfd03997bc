"""Initial values are those of jax.random, to the bit, and need no compilation for each shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

import cnn_jax
from cnn_jax.nn import host_random
from cnn_jax.nn.init import INITS, InitKeys, constant

SIZES = [(1,), (7, 3), (host_random.CHUNK,), (host_random.CHUNK + 1,), (3, 5, 2 * host_random.CHUNK // 15 + 1)]
STOCK = {
    "he_fan_in": initializers.variance_scaling(2.0, "fan_in", "normal"),
    "he_fan_out": initializers.variance_scaling(2.0, "fan_out", "normal"),
    "glorot_normal": initializers.variance_scaling(1.0, "fan_avg", "normal"),
    "glorot_uniform": initializers.variance_scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": initializers.variance_scaling(1.0, "fan_in", "normal"),
    "lecun_uniform_1998": lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -2.4 / np.prod(shape[:-1]), 2.4 / np.prod(shape[:-1])
    ),
    "normal_0.01": initializers.normal(0.01),
}


def words(seed):
    found = host_random.key_words(jax.random.key(seed))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # the known answers of Random123 (Salmon et al. 2011), threefry2x32 with 20 rounds
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_has_its_known_answers(key, counter, expected):
    assert host_random.threefry2x32(*key, *counter) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_folded_keys_are_those_of_jax(seed):
    key = jax.random.key(seed)
    for number in (1, 2, 161, 2**32 - 1):
        folded = host_random.fold_in(words(seed), number)
        assert folded.dtype == key.dtype
        expected = jax.random.fold_in(key, np.uint32(number))
        np.testing.assert_array_equal(jax.random.key_data(folded), jax.random.key_data(expected))


@pytest.mark.parametrize("shape", SIZES)
def test_numbers_are_those_of_jax_to_the_bit(shape):
    key = jax.random.key(3)
    np.testing.assert_array_equal(host_random.normal(words(3), shape, 1.0), jax.random.normal(key, shape))
    limits = np.float32(-0.3), np.float32(1.7)
    np.testing.assert_array_equal(
        host_random.uniform(words(3), shape, *limits), jax.random.uniform(key, shape, jnp.float32, *limits)
    )


@pytest.mark.parametrize("name", INITS)
@pytest.mark.parametrize("shape", [(3, 3, 5, 7), (300, 400)])
def test_initial_values_are_those_of_jax_to_the_bit(name, shape):
    key = jax.random.key(11)
    values = INITS[name](key, shape, jnp.float32)
    assert isinstance(values, jax.Array) and values.dtype == jnp.float32
    np.testing.assert_array_equal(values, STOCK[name](key, shape, jnp.float32))


def test_other_keys_and_types_use_jax():
    for key in (jax.random.key(0, impl="rbg"), jax.random.split(jax.random.key(0), 2)):
        assert host_random.key_words(key) is None
    rbg = jax.random.key(5, impl="rbg")
    np.testing.assert_array_equal(
        INITS["normal_0.01"](rbg, (3, 4), jnp.float32), STOCK["normal_0.01"](rbg, (3, 4), jnp.float32)
    )
    assert InitKeys(rbg).params().dtype == rbg.dtype
    key = jax.random.key(0)
    half = INITS["he_fan_in"](key, (3, 4), jnp.bfloat16)
    np.testing.assert_array_equal(half, STOCK["he_fan_in"](key, (3, 4), jnp.bfloat16))
    with jax.threefry_partitionable(False):
        assert host_random.key_words(key) is None
    raw = jax.random.PRNGKey(7)
    np.testing.assert_array_equal(
        INITS["he_fan_in"](raw, (3, 4), jnp.float32), INITS["he_fan_in"](jax.random.key(7), (3, 4), jnp.float32)
    )


def test_nothing_is_drawn_while_jax_traces(monkeypatch):
    monkeypatch.setattr(host_random, "_chunks", lambda *_: pytest.fail("drawn on the host"))
    key = jax.random.key(0)
    for call in (
        lambda: INITS["he_fan_in"](key, (3, 4), jnp.float32),
        lambda: InitKeys(key).params(),
        lambda: cnn_jax.create("toy", seed=key),
        lambda: constant(1.0)(jax.random.key(0), (3,)),
    ):
        jax.eval_shape(call)
    jax.vmap(lambda key: INITS["he_fan_in"](key, (3, 4), jnp.float32))(jax.random.split(key, 2))


def test_a_network_of_other_shapes_compiles_nothing():
    compiled = []

    def listen(event, *_, **__):
        compiled.append(event) if event == "/jax/core/compile/backend_compile_duration" else None

    fields = dict(input_shape=(32, 32, 3), num_classes=7)
    cnn_jax.create("resnet18", width=0.125, **fields)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        cnn_jax.create("resnet18", width=0.25, **fields, shortcut="C", seed=1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []
