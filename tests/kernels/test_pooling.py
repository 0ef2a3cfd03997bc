"""Max pooling by the kernels against XLA's own: the same values, and gradients that differ by rounding at most."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export, lax

from cnn_jax.kernels import build, pooling

TARGET = build.target()
needs_library = pytest.mark.skipif(TARGET is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")


def ours(x, kernel, strides, padding):
    return pooling.max_pool(x, kernel, strides, padding, target=TARGET)


def xlas(x, kernel, strides, padding):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def value_and_gradient(function, x, *window):
    y, pull = jax.vjp(lambda x: function(x, *window), x)
    weights = np.random.default_rng(9).normal(size=y.shape)
    return y, pull(jnp.asarray(weights, y.dtype))[0]


@st.composite
def pools(draw):
    dims = draw(st.integers(1, 3))

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, strides = axes(1, 4), axes(1, 4)
    padding = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    sizes = tuple(k + draw(st.integers(0, 6)) for k in kernel)
    shape = (draw(st.integers(1, 3)), *sizes, draw(st.sampled_from([1, 3, 8, 19])))
    # Few values, so that there are many ties; below zero, so that a zero in the padding would be the largest.
    return np.random.default_rng(0).integers(-4, -1, shape), kernel, strides, padding


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16]))
@needs_library
def test_any_pool_has_the_values_and_gradients_of_xlas_with_many_ties(case, dtype):
    x, *window = case
    x = jnp.asarray(x, dtype)
    (y, gradient), (expected, by_xla) = (value_and_gradient(f, x, *window) for f in (ours, xlas))
    np.testing.assert_array_equal(y, expected)
    gradient, by_xla = (np.asarray(array, np.float64) for array in (gradient, by_xla))
    np.testing.assert_allclose(gradient, by_xla, rtol=0, atol={jnp.float32: 1e-5, jnp.bfloat16: 5e-2}[dtype])


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_the_sum_of_shifts_is_xlas_gradient_with_many_ties(case, dtype):
    x, *window = case
    x = jnp.asarray(x, dtype)
    y, by_xla = value_and_gradient(xlas, x, *window)
    cotangent = jnp.asarray(np.random.default_rng(9).normal(size=y.shape), dtype)
    gradient = pooling._sum_of_shifts(x, cotangent, windows=pooling.Windows(*window), target="")
    gradient, by_xla = (np.asarray(array, np.float64) for array in (gradient, by_xla))
    np.testing.assert_allclose(gradient, by_xla, rtol=0, atol={jnp.float32: 1e-5, jnp.bfloat16: 5e-2}[dtype])


@pytest.mark.parametrize("target", [pytest.param(TARGET, marks=needs_library), ""])
def test_the_gradient_on_a_gpu_has_no_scatter(target):
    def gradient(x):
        return jax.grad(lambda x: pooling.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), target=target).sum())(x)

    traced = jax.jit(gradient).trace(jnp.zeros((1, 8, 8, 4)))
    has_scatter = {
        platform: "select_and_scatter" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cuda", "rocm", "tpu", "cpu")
    }
    assert has_scatter == {"cuda": False, "rocm": False, "tpu": True, "cpu": not target}


def test_a_large_window_on_a_gpu_has_xlas_scatter():
    def gradient(x):
        return jax.grad(lambda x: pooling.max_pool(x, (9, 9), (9, 9), ((0, 0), (0, 0)), target="").sum())(x)

    text = jax.jit(gradient).trace(jnp.zeros((1, 18, 18, 4))).lower(lowering_platforms=("cuda",)).as_text()
    assert "select_and_scatter" in text


@needs_library
def test_the_first_maximum_in_row_major_order_receives_the_gradient():
    x = jnp.asarray([[1, 5, 5], [5, 0, 5]], jnp.float32).reshape(1, 2, 3, 1)
    _, gradients = jax.vjp(lambda x: ours(x, (2, 3), (1, 1), ((0, 0), (0, 0))), x)
    np.testing.assert_array_equal(gradients(jnp.full((1, 1, 1, 1), 7.0))[0][0, :, :, 0], [[0, 7, 0], [0, 0, 0]])


@needs_library
def test_a_maximum_over_nan_is_nan():
    x = jnp.asarray([1, np.nan, 3, 4, 5, np.nan, np.nan, 2, -np.inf, -np.inf]).reshape(1, 10, 1)
    y = ours(x, (2,), (2,), ((0, 0),))[0, :, 0]
    np.testing.assert_array_equal(np.isnan(y), [True, False, True, True, False])
    assert y[4] == -np.inf


@pytest.mark.parametrize("window", [((3, 3), (2, 2), ((1, 1), (1, 1))), ((2, 2), (2, 2), ((0, 0), (0, 0)))])
@needs_library
def test_max_pooling_keeps_every_transformation(window):
    x, tangent = (jnp.asarray(np.random.default_rng(seed).normal(size=(2, 3, 6, 6, 2)), jnp.float32) for seed in (0, 1))

    def loss(function, x):
        return jnp.sin(jax.checkpoint(lambda x: function(x, *window))(x)).sum()

    def second(function, x, tangent):
        return jax.jvp(jax.vmap(jax.grad(lambda x: loss(function, x))), (x,), (tangent,))

    def third(function, x, tangent):
        return jax.grad(lambda x: sum(part.sum() for part in second(function, x, tangent)))(x)

    for derivative in (second, third):
        mine, theirs = (jax.jit(derivative, static_argnums=0)(f, x, tangent) for f in (ours, xlas))
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2])
@needs_library
def test_forward_mode_and_vmap_are_those_of_xlas(axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3, 5, 4)), jnp.float32)
    window = ((2, 3), (2, 1), ((0, 0), (1, 1)))
    for function in (ours, xlas):
        y, tangent = jax.vmap(lambda x, f=function: jax.jvp(lambda x: f(x, *window), (x,), (2 * x,)), axis)(x)
        np.testing.assert_array_equal(tangent, 2 * y)
    np.testing.assert_array_equal(*(jax.vmap(lambda x, f=f: f(x, *window), axis)(x) for f in (ours, xlas)))


@needs_library
def test_an_exported_pool_has_xlas_operations():
    def gradient(x):
        return jax.grad(lambda x: ours(x, (2, 2), (2, 2), ((0, 0), (0, 0))).sum())(x)

    x = jnp.zeros((1, 4, 4, 8))
    assert "cnn_jax_MaxPoolByX" in jax.jit(gradient).lower(x).as_text()
    text = export.export(jax.jit(gradient), platforms=["cpu"])(x).mlir_module()
    assert "custom_call" not in text and "select_and_scatter" in text
