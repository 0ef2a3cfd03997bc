"""The forms for CPUs against XLA's own: both compute the same sums, so only rounding may differ."""

import math
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import cnn_jax
from cnn_jax.nn import cpu, graph

ROUNDING = {jnp.float32: 1e-5, jnp.bfloat16: 2e-2}  # relative to the largest number


def noise(*shape: int, seed: int = 0, dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(ours, xlas, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(xlas)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(xlas), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1e-30, np.abs(other).max(initial=0)))


def value_and_gradients(function, *arrays):
    """Returns the value and the gradients of a weighted sum of it, all weights different."""

    def loss(*arrays):
        y = function(*arrays)
        return jnp.sum(y.astype(jnp.float32) * noise(*y.shape, seed=9)), y

    gradients, y = jax.jit(jax.grad(loss, argnums=tuple(range(len(arrays))), has_aux=True))(*arrays)
    return y, gradients


def both(function, *arrays):
    """Returns its values and gradients in our form and in XLA's."""
    with cpu.fast():
        ours = value_and_gradients(function, *arrays)
    return ours, value_and_gradients(function, *arrays)


def primitives(function, *arrays) -> str:
    """Returns the operations of a function in our form."""
    return str(jax.make_jaxpr(cpu.fast()(function))(*arrays))


# ---------------------------------------------------------------- which path


def test_fast_forms_are_those_of_the_block_and_the_thread():
    assert not cpu.use_fast_path()
    with cpu.fast(), cpu.fast():
        assert cpu.use_fast_path()
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(cpu.use_fast_path()))
        thread.start()
        thread.join()
        assert elsewhere == [False]
    with pytest.raises(RuntimeError), cpu.fast():
        raise RuntimeError
    assert not cpu.use_fast_path()


def test_a_jitted_function_is_traced_again_inside_fast():
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    seen = []

    @jax.jit
    def function(x):
        seen.append(cpu.use_fast_path())
        return conv(x, kernel, (1, 1), ((0, 0), (0, 0)))

    for _ in range(2):
        function(x)
        with cpu.fast():
            function(x)
    assert seen == [False, True]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_other_platforms_and_the_default_have_xlas_operations(elsewhere, monkeypatch):
    if elsewhere:
        monkeypatch.setattr(cpu.jax, "default_backend", lambda: "gpu")
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    window = ((2, 2), (2, 2), ((0, 0), (0, 0)))
    for function, name in (
        (lambda x: conv(x, kernel, (1, 1), ((0, 0), (0, 0))), "conv_general_dilated["),
        (lambda x: cpu.max_pool(x, *window), "reduce_window_max"),
    ):
        if elsewhere:
            assert name in primitives(function, x)
        else:
            assert name not in primitives(function, x)
            assert name in str(jax.make_jaxpr(function)(x))


# ---------------------------------------------------------------- convolution


def conv(x, kernel, strides, padding, dilation=None, **options):
    letters = "DHW"[-len(strides) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    groups = x.shape[-1] // kernel.shape[-2]
    options = dict(rhs_dilation=dilation, feature_group_count=groups, dimension_numbers=layout) | options
    return cpu.conv_general_dilated(x, kernel, strides, padding, **options)


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides", "padding", "dilation", "convolutions"),
    [  # the number of XLA's convolutions in our forward and backward pass
        ((2, 17, 6, 12), (1, 1, 12, 4), (1, 1), 0, (1, 1), 0),  # pointwise, at any size, to fewer channels
        ((2, 17, 6, 4), (1, 1, 4, 12), (1, 1), 0, (1, 1), 0),  # and to more
        ((2, 17, 18, 12), (1, 1, 12, 4), (2, 3), 0, (1, 1), 0),
        ((2, 17, 18, 4), (1, 1, 4, 12), (2, 2), 1, (1, 1), 0),
        ((2, 2, 2, 12), (3, 3, 12, 4), (1, 1), 1, (1, 1), 0),  # a small map
        ((2, 4, 4, 12), (3, 3, 12, 4), (2, 2), 1, (1, 1), 0),
        ((2, 6, 5, 12), (3, 2, 12, 4), (2, 3), 1, (2, 3), 0),
        ((2, 7, 6, 12), (3, 3, 12, 4), (1, 1), 1, (1, 1), 3),  # an ordinary layer
        ((2, 15, 16, 12), (3, 3, 12, 4), (2, 2), 1, (1, 1), 2),  # strides
        ((2, 17, 18, 12), (2, 3, 12, 4), (3, 4), 1, (1, 1), 2),  # larger than the kernel
        ((2, 9, 41, 3), (5, 5, 3, 4), (1, 1), 2, (1, 1), 2),  # few channels
        ((2, 9, 8, 3), (5, 5, 3, 4), (1, 1), 2, (1, 1), 0),  # and a narrow map
        ((2, 9, 8, 2), (3, 2, 2, 4), (2, 3), 1, (2, 2), 0),
        ((2, 40, 5), (7, 5, 4), (2,), 3, (1,), 0),  # 1-D
        ((2, 40, 9), (7, 9, 4), (2,), 3, (1,), 2),
        ((2, 4, 5, 6, 3), (2, 3, 3, 3, 4), (1, 2, 1), 1, (1, 1, 2), 0),
        ((2, 4, 5, 6, 9), (2, 3, 3, 9, 4), (1, 2, 1), 1, (1, 1, 2), 2),  # 3-D
        ((2, 7, 6, 12), (3, 3, 6, 4), (1, 1), 1, (1, 1), 3),  # two groups
        ((2, 7, 6, 12), (3, 3, 1, 12), (2, 1), 1, (1, 2), 0),  # each channel by itself
        ((2, 7, 6, 12), (5, 1, 1, 12), (1, 1), 2, (1, 1), 0),
        ((2, 9, 9, 4), (6, 6, 1, 4), (1, 1), 1, (1, 1), 3),  # by a large kernel
        ((2, 7, 6, 6), (3, 3, 1, 12), (1, 1), 1, (1, 1), 3),  # twice
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_forms_for_cpus_have_the_values_and_gradients_of_xlas_convolutions(
    x_shape, kernel_shape, strides, padding, dilation, convolutions, dtype
):
    x, kernel = noise(*x_shape, dtype=dtype), noise(*kernel_shape, seed=1, dtype=dtype)

    def function(x, kernel):
        return conv(x, kernel, strides, [(padding, padding)] * len(strides), dilation)

    used = primitives(jax.grad(lambda *a: function(*a).astype(jnp.float32).sum(), argnums=(0, 1)), x, kernel)
    assert used.count("conv_general_dilated[") == convolutions
    assert_close(*both(function, x, kernel), ROUNDING[dtype])


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "strides", "padding"),
    [
        ((64, 14, 14, 2), (5, 5, 2, 6), 1, 2),  # bands
        ((64, 4, 4, 16), (3, 3, 16, 16), 2, 1),  # a small map
        ((32, 9, 9, 12), (3, 3, 12, 8), 2, 1),  # strides
        ((8, 7, 7, 64), (1, 1, 64, 16), 1, 0),  # pointwise
        ((8, 9, 9, 16), (3, 3, 1, 16), 1, 1),  # each channel by itself
    ],
)
def test_bfloat16_rounds_no_more_often_than_in_xlas_convolutions(x_shape, kernel_shape, strides, padding):
    def function(x, kernel):
        return conv(x, kernel, (strides, strides), ((padding, padding),) * 2)

    arrays = noise(*x_shape, dtype=jnp.bfloat16), noise(*kernel_shape, seed=1, dtype=jnp.bfloat16)
    exact = value_and_gradients(function, *(array.astype(jnp.float32) for array in arrays))

    def errors(results):
        pairs = zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True)
        return np.array([float(jnp.abs(one - other).max() / jnp.abs(other).max()) for one, other in pairs])

    ours, xlas = map(errors, both(function, *arrays))
    assert (ours <= 1.3 * xlas).all(), (ours, xlas)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))

    def axes(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, strides, dilation = axes(1, 3), axes(1, 3), axes(1, 2)
    padding = tuple(zip(axes(0, 2), axes(0, 2), strict=True))
    sizes = tuple(
        max(1, rate * (k - 1) + 1 - sum(pads)) + draw(st.integers(0, 4))
        for rate, k, pads in zip(dilation, kernel, padding, strict=True)
    )
    return sizes, draw(st.sampled_from([1, 9])), draw(st.integers(1, 3)), kernel, strides, padding, dilation


@given(convolutions())
def test_any_convolution_has_the_values_and_gradients_of_xlas(case):
    sizes, channels_in, channels_out, kernel, strides, padding, dilation = case
    x, weights = noise(2, *sizes, channels_in), noise(*kernel, channels_in, channels_out, seed=1)
    assert_close(*both(lambda x, weights: conv(x, weights, strides, padding, dilation), x, weights))


@pytest.mark.parametrize("options", [dict(lhs_dilation=(2, 2)), dict(batch_group_count=1)])
def test_what_layers_do_not_use_is_left_to_xla(options):
    x, kernel = noise(1, 4, 4, 3), noise(1, 1, 3, 2)
    assert_close(*both(lambda x, kernel: conv(x, kernel, (1, 1), ((0, 0), (0, 0)), **options), x, kernel), 0)


def test_patches_are_laid_out_again_for_the_gradient_and_not_kept():
    # Nine times the input would be kept otherwise.
    x, kernel = jnp.zeros((2, 4, 4, 16)), jnp.zeros((3, 3, 16, 4))
    with cpu.fast():
        kept = jax.eval_shape(lambda *a: jax.vjp(lambda *a: conv(*a, (2, 2), ((1, 1), (1, 1))), *a)[1], x, kernel)
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) <= max(x.size, kernel.size)


# ---------------------------------------------------------------- pooling

POOLS = [
    ((2, 8, 6, 3), (2, 2), (2, 2), 0),  # windows tile the input
    ((2, 9, 7, 3), (2, 2), (2, 2), 0),  # or leave a rest
    ((2, 7, 8, 3), (3, 3), (2, 2), 1),  # overlap
    ((2, 7, 8, 3), (3, 3), (1, 1), 1),
    ((2, 7, 8, 3), (2, 3), (1, 2), 1),
    ((2, 9, 8, 3), (2, 1), (3, 4), 0),  # strides larger than the kernel
    ((2, 9, 3), (3,), (2,), 1),
    ((2, 4, 5, 4, 3), (2, 3, 2), (2, 1, 2), 1),
]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("shape", "kernel", "strides", "padding"), POOLS)
def test_max_pooling_has_the_values_and_gradients_of_xlas_with_many_ties(shape, kernel, strides, padding, dtype):
    x = jnp.asarray(
        np.random.default_rng(0).integers(-4, -1, shape), dtype
    )  # a zero in the padding would be the maximum
    ours, xlas = both(lambda x: cpu.max_pool(x, kernel, strides, [(padding, padding)] * len(kernel)), x)
    if strides >= kernel:
        assert_close(ours, xlas, 0)  # one window, one gradient: no sum
    assert_close(ours, xlas, ROUNDING[dtype])


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])  # a chain of comparisons, and tiles
def test_the_first_maximum_in_row_major_order_receives_the_gradient(strides):
    x = jnp.asarray([[1, 5, 5], [5, 0, 5]], jnp.float32).reshape(1, 2, 3, 1)
    with cpu.fast():
        _, gradients = jax.vjp(lambda x: cpu.max_pool(x, (2, 3), strides, ((0, 0), (0, 0))), x)
    np.testing.assert_array_equal(gradients(jnp.full((1, 1, 1, 1), 7.0))[0][0, :, :, 0], [[0, 7, 0], [0, 0, 0]])


def test_a_maximum_with_not_a_number_is_not_a_number():
    x = jnp.asarray([1, np.nan, 3, 4, 5, np.nan, np.nan, 2]).reshape(1, 8, 1)
    with cpu.fast():
        y = cpu.max_pool(x, (2,), (2,), ((0, 0),))
    np.testing.assert_array_equal(np.isnan(y[0, :, 0]), [True, False, True, True])


@pytest.mark.parametrize("window", [((3, 3), (2, 2), ((1, 1), (1, 1))), ((2, 2), (2, 2), ((0, 0), (0, 0)))])
def test_max_pooling_keeps_every_transformation(window):
    x, tangent = noise(2, 3, 6, 6, 2), noise(2, 3, 6, 6, 2, seed=1)

    def function(x):
        return jnp.sin(jax.checkpoint(lambda x: cpu.max_pool(x, *window))(x))

    def second(x, tangent):
        return jax.jvp(jax.vmap(jax.grad(lambda x: function(x).sum())), (x,), (tangent,))

    with cpu.fast():
        ours = jax.jit(second)(x, tangent)
    assert_close(ours[0], jax.vmap(jax.grad(lambda x: function(x).sum()))(x))
    # A directional derivative of the gradient, by differences.
    step_size = 1e-2
    with cpu.fast():
        ahead, behind = (second(x + sign * step_size * tangent, tangent)[0] for sign in (1, -1))
    assert np.median(np.abs(ours[1] - (ahead - behind) / (2 * step_size))) < 1e-3


def test_a_convolution_keeps_vmap_checkpoint_and_second_gradients():
    x, kernel = noise(3, 2, 4, 4, 9), noise(3, 3, 9, 2, seed=1)

    def penalty(x, kernel):  # of the gradient's norm, as in adversarial training
        def loss(x):
            return jnp.sum(jnp.sin(jax.checkpoint(lambda x: conv(x, kernel, (2, 2), ((1, 1), (1, 1))))(x)))

        return jnp.sum(jax.grad(loss)(x) ** 2)

    assert_close(*both(lambda x, kernel: jax.vmap(penalty, (0, None))(x, kernel), x, kernel))


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet5", dict(input_shape=(28, 28, 1), pool="max")),
        ("cifar_resnet", dict(depth=8, input_shape=(8, 8, 3), shortcut="B", width=0.5)),
    ],
)
def test_a_network_has_the_loss_and_gradients_of_its_stock_operations(name, fields):
    network, params, stats = graph.split(cnn_jax.create(name, num_classes=4, **fields))
    images, labels = noise(8, *fields["input_shape"]), jnp.arange(8) % 4

    def run():
        def loss(params, images):
            logits = nnx.merge(network.train, params, stats)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, images)

    forward = primitives(lambda images: nnx.merge(network.eval, params, stats)(images), images)
    # Layers do reach the forms for CPUs.
    assert "conv_general_dilated[" not in forward if name == "lenet5" else "custom_vjp_call" in forward
    with cpu.fast():
        ours = run()
    xlas = run()
    assert math.isfinite(ours[0])
    assert_close(ours, xlas, 1e-4)  # rounding grows through the layers
