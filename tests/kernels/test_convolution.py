"""Convolutions by the kernels against XLA's own: both compute the same sums, so only rounding may differ."""

import hashlib
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from cnn_jax.kernels import build, convolution

TARGET = build.target()
pytestmark = pytest.mark.skipif(TARGET is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0")

ROUNDING = {jnp.float32: 1e-5, jnp.bfloat16: 1e-2}  # relative to the largest number


def noise(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def ours(x, kernel, strides, padding, dilation=None, groups=1):
    dilation = dilation or (1,) * len(strides)
    return convolution.convolve(x, kernel, strides, padding, dilation=dilation, groups=groups, target=TARGET)


def xlas(x, kernel, strides, padding, dilation=None, groups=1):
    letters = "DHW"[-len(strides) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, rhs_dilation=dilation, feature_group_count=groups, dimension_numbers=layout
    )


def value_and_gradients(function, x, kernel):
    """Returns the value and both gradients of a weighted sum of it, all weights different."""
    y, pull = jax.vjp(function, x, kernel)
    return (y, *pull(noise(*y.shape, seed=9, dtype=y.dtype)))


def assert_close(results, expected, tolerance):
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1e-30, np.abs(other).max(initial=0)))


# ---------------------------------------------------------------- values and gradients


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, strides, dilation = axes(1, 4), axes(1, 3), axes(1, 2)
    padding = tuple(zip(axes(0, 2), axes(0, 2), strict=True))
    sizes = tuple(
        max(1, rate * (k - 1) + 1 - sum(pads)) + draw(st.integers(0, 9 if dims < 3 else 4))
        for rate, k, pads in zip(dilation, kernel, padding, strict=True)
    )
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    channels, outputs = draw(st.sampled_from([1, 3, 8, 17, 40])), draw(st.sampled_from([1, 5, 8, 16, 35]))
    if draw(st.integers(0, 4)) == 0:  # each channel by itself
        groups, channels, outputs = draw(st.sampled_from([2, 8, 19])), 1, 1
    x = noise(draw(st.integers(1, 3)), *sizes, channels * groups)
    return x, noise(*kernel, channels, outputs * groups, seed=1), (strides, padding, dilation, groups)


@given(convolutions(), st.sampled_from([jnp.float32, jnp.float32, jnp.bfloat16]))
def test_any_convolution_has_the_values_and_gradients_of_xlas(case, dtype):
    x, kernel, options = case
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    results = value_and_gradients(lambda *arrays: ours(*arrays, *options), x, kernel)
    assert {array.dtype for array in results} == {jnp.dtype(dtype)}
    wide = (array.astype(jnp.float32) for array in (x, kernel))
    assert_close(results, value_and_gradients(lambda *arrays: xlas(*arrays, *options), *wide), ROUNDING[dtype])


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides", "padding", "groups"),
    [
        ((3, 34, 31, 16), (3, 3, 16, 16), 1, 1, 1),  # several boxes of lines
        ((2, 7, 7, 320), (3, 3, 320, 72), 1, 1, 1),  # sums in several chunks, several blocks of outputs
        ((70, 4, 4, 64), (3, 3, 64, 32), 2, 1, 1),  # boxes of several images
        ((2, 40, 40, 3), (7, 7, 3, 64), 2, 3, 1),  # few channels
        ((1, 400, 1, 130), (1, 1, 130, 70), 1, 0, 1),  # pointwise
        ((5, 1, 1, 64), (3, 3, 64, 72), 1, 1, 1),  # the same, by the middle of the kernel: the rest sees padding only
        ((2, 17, 18, 64), (1, 1, 64, 40), 3, 0, 1),  # strides larger than the kernel
        ((9, 32, 32, 64), (3, 3, 4, 64), 1, 1, 16),  # groups
        ((9, 32, 32, 36), (3, 3, 1, 36), 2, 1, 36),  # each channel by itself, in several boxes
        ((2, 9, 40, 40, 8), (3, 3, 3, 8, 8), 1, 1, 1),  # planes
        ((30000, 1), (9, 1, 6), 2, -1, 1),  # negative padding, one long line
    ],
)
def test_large_convolutions_have_the_values_and_gradients_of_xlas(x_shape, kernel_shape, strides, padding, groups):
    x_shape = x_shape if len(x_shape) > 2 else (1, *x_shape)
    axes = len(x_shape) - 2
    x, kernel, options = (
        noise(*x_shape),
        noise(*kernel_shape, seed=1),
        ((strides,) * axes, ((padding, padding),) * axes),
    )
    mine, theirs = (
        value_and_gradients(lambda *a, f=f: f(*a, *options, groups=groups), x, kernel) for f in (ours, xlas)
    )
    assert_close(mine, theirs, 2e-5)


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides", "padding"),
    [
        ((64, 14, 14, 2), (5, 5, 2, 6), 1, 2),
        ((32, 9, 9, 12), (3, 3, 12, 8), 2, 1),
        ((8, 7, 7, 64), (1, 1, 64, 16), 1, 0),
        ((8, 9, 9, 16), (3, 3, 1, 16), 1, 1),
    ],
)
def test_bfloat16_rounds_no_more_often_than_in_xlas_convolutions(x_shape, kernel_shape, strides, padding):
    groups = x_shape[-1] // kernel_shape[-2]
    options = ((strides, strides), ((padding, padding),) * 2, None, groups)
    arrays = noise(*x_shape, dtype=jnp.bfloat16), noise(*kernel_shape, seed=1, dtype=jnp.bfloat16)
    wide = tuple(array.astype(jnp.float32) for array in arrays)
    exact = value_and_gradients(lambda *a: xlas(*a, *options), *wide)

    def errors(function):
        found = value_and_gradients(lambda *a: function(*a, *options), *arrays)
        return np.array([float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(found, exact, strict=True)])

    mine, theirs = errors(ours), errors(xlas)
    assert (mine <= 1.3 * theirs).all(), (mine, theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_numbers_pass_through(value):
    x, kernel = noise(1, 6, 6, 3).at[0, 2, 2, 1].set(value), noise(3, 3, 3, 20, seed=1)
    options = ((1, 1), ((1, 1), (1, 1)))
    mine, theirs = (value_and_gradients(lambda *a, f=f: f(*a, *options), x, kernel) for f in (ours, xlas))
    assert not np.isfinite(mine[0]).all() and np.isfinite(mine[1]).all() and not np.isfinite(mine[2]).all()
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))


# ---------------------------------------------------------------- transformations

WINDOW = ((2, 1), ((1, 1), (0, 1)), (1, 2), 2)  # strides, padding, dilation, groups
X, KERNEL = noise(2, 5, 6, 6), noise(3, 2, 3, 4, seed=1)


def test_forward_mode_has_the_derivatives_of_xlas():
    tangents = noise(*X.shape, seed=2), noise(*KERNEL.shape, seed=3)
    mine, theirs = (jax.jvp(lambda *a, f=f: f(*a, *WINDOW), (X, KERNEL), tangents) for f in (ours, xlas))
    assert_close(mine, theirs, 1e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 2), (1, 0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap_of_values_and_gradients_is_that_of_xlas(axes, groups):
    x = X if axes[0] is None else noise(*np.insert(X.shape, axes[0], 3))
    kernel = noise(3, 2, 6 // groups, 4, seed=1)
    kernel = kernel if axes[1] is None else noise(*np.insert(kernel.shape, axes[1], 3), seed=1)

    def batched(function):
        one = partial(value_and_gradients, lambda *a: function(*a, *WINDOW[:3], groups))
        return jax.vmap(one, axes)(x, kernel)

    assert_close(batched(ours), batched(xlas), 1e-5)


def test_a_hessian_is_that_of_xlas():
    def hessian(function):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(function(x, kernel, (1, 1), ((1, 1), (0, 0)))))

        return jax.jit(jax.hessian(loss, argnums=(0, 1)))(noise(1, 2, 2, 2), noise(2, 1, 2, 1, seed=1))

    assert_close(hessian(ours), hessian(xlas), 1e-5)


def test_vmap_checkpoint_and_second_gradients_are_those_of_xlas():
    x, kernel = noise(3, 2, 4, 4, 9), noise(3, 3, 9, 2, seed=1)

    def penalty(function, x, kernel):  # of the gradient's norm, as in adversarial training
        def loss(x):
            return jnp.sum(jnp.sin(jax.checkpoint(lambda x: function(x, kernel, (2, 2), ((1, 1), (1, 1))))(x)))

        return jnp.sum(jax.grad(loss)(x) ** 2)

    def total(function):
        each = jax.vmap(partial(penalty, function), (0, None))
        return jax.jit(jax.value_and_grad(lambda *arrays: each(*arrays).sum(), argnums=(0, 1)))(x, kernel)

    assert_close(total(ours), total(xlas), 1e-5)


def test_shapes_are_known_without_computing():
    shape = jax.eval_shape(lambda x, kernel: ours(x, kernel, *WINDOW), X, KERNEL)
    assert (shape.shape, shape.dtype) == (xlas(X, KERNEL, *WINDOW).shape, X.dtype)


def test_gradients_keep_the_operands_and_nothing_else():
    kept = jax.eval_shape(lambda *a: jax.vjp(lambda *a: ours(*a, *WINDOW), *a)[1], X, KERNEL)
    assert sorted(leaf.size for leaf in jax.tree.leaves(kept)) == sorted([X.size, KERNEL.size])


# ---------------------------------------------------------------- where the kernels run


def gradient(x, kernel):
    return jax.grad(lambda *a: ours(*a, *WINDOW).sum(), argnums=(0, 1))(x, kernel)


def test_a_program_for_this_cpu_calls_the_library():
    text = jax.jit(gradient).lower(X, KERNEL).as_text()
    assert text.count(f"cnn_jax_Convolve_{TARGET}") == 2


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_an_exported_program_has_xlas_operations(platform):
    text = export.export(jax.jit(gradient), platforms=[platform])(X, KERNEL).mlir_module()
    assert "custom_call" not in text and "stablehlo.convolution" in text


def test_a_program_for_another_platform_has_xlas_operations():
    text = jax.jit(gradient).trace(X, KERNEL).lower(lowering_platforms=("tpu",)).as_text()
    assert "cnn_jax" not in text and "stablehlo.convolution" in text


def test_a_program_for_several_devices_has_xlas_operations():
    batch = NamedSharding(AbstractMesh((2,), ("data",)), PartitionSpec("data"))
    x = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=batch)
    text = jax.jit(gradient).trace(x, KERNEL).lower(lowering_platforms=("cpu",)).as_text()
    assert "cnn_jax" not in text and "stablehlo.convolution" in text


def digest() -> str:
    """Returns a hash of the bits of a convolution and its gradients, on the cores of this process."""
    x, kernel = noise(40, 20, 20, 24), noise(3, 3, 24, 40, seed=1)
    results = value_and_gradients(lambda *a: ours(*a, (2, 1), ((1, 1), (1, 1))), x, kernel)
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in results)).hexdigest()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_results_have_the_same_bits_on_any_number_of_threads():
    code = (
        "import os, runpy; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        f"print(runpy.run_path({__file__!r})['digest']())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest()
