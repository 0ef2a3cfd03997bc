"""Where layers use the kernels, and where XLA's operations. The kernels themselves are tested in tests/kernels."""

import math
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cnn_jax
from cnn_jax.nn import cpu, graph

needs_kernels = pytest.mark.skipif(
    cpu.target() is None, reason="no kernels here: no C++ compiler, or CNN_JAX_KERNELS=0"
)
WINDOW = ((2, 2), (2, 2), ((0, 0), (0, 0)))


def noise(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(ours, xlas, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(xlas)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(xlas), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        one, other = (np.asarray(array, np.float64) for array in (one, other))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1e-30, np.abs(other).max(initial=0)))


def conv(x, kernel, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    options = dict(window_strides=(1, 1), padding=((0, 0), (0, 0))) | options
    return cpu.conv_general_dilated(x, kernel, dimension_numbers=layout, **options)


def primitives(function, *arrays, enabled=True) -> str:
    """Returns the operations of a function inside `fast`."""
    return str(jax.make_jaxpr(cpu.fast(enabled)(function))(*arrays))


@needs_kernels
def test_the_kernels_are_those_of_the_block_and_the_thread():
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


@needs_kernels
def test_a_jitted_function_is_traced_again_inside_fast():
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    seen = []

    @jax.jit
    def function(x):
        seen.append(cpu.use_fast_path())
        return conv(x, kernel)

    for _ in range(2):
        function(x)
        with cpu.fast():
            function(x)
    assert seen == [False, True]


@needs_kernels
@pytest.mark.parametrize("where", ["gpu", "switched off", "without a library", "cpu"])
def test_elsewhere_and_by_default_layers_use_xlas_operations(where, monkeypatch):
    if where == "gpu":
        monkeypatch.setattr(cpu.jax, "default_backend", lambda: "gpu")
    if where == "without a library":
        monkeypatch.setattr(cpu.build, "target", lambda: None)
    x, kernel = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 1, 3, 2))
    for function, xla, own in (
        (lambda x: conv(x, kernel), "conv_general_dilated[", "cnn_jax_convolution"),
        (lambda x: cpu.max_pool(x, *WINDOW), "reduce_window_max", "cnn_jax_max_pool"),
    ):
        inside = primitives(function, x, enabled=where != "switched off")
        # The program decides which operations pooling is on a GPU: see kernels/test_pooling.py.
        ours = where == "cpu" or (own == "cnn_jax_max_pool" and where != "switched off")
        assert (xla in inside, own in inside) == (not ours, ours)
        assert xla in str(jax.make_jaxpr(function)(x))


@needs_kernels
@pytest.mark.parametrize(
    ("x", "options"),
    [
        (noise(1, 4, 4, 3), dict(lhs_dilation=(2, 2))),
        (noise(1, 4, 4, 3), dict(batch_group_count=1)),
        (noise(1, 4, 4, 3), dict(padding="SAME")),
        (noise(1, 4, 4, 3).astype(jnp.bfloat16), dict(preferred_element_type=jnp.float32)),
        (noise(1, 4, 4, 3).astype(jnp.float16), {}),
        (noise(0, 4, 4, 3), {}),
    ],
)
def test_unsupported_inputs_are_left_to_xla(x, options):
    kernel = noise(1, 1, 3, 2).astype(x.dtype)
    with cpu.fast():
        ours = conv(x, kernel, **options)
    assert_close(ours, conv(x, kernel, **options), 0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("lenet5", dict(input_shape=(28, 28, 1), pool="max")),
        ("cifar_resnet", dict(depth=8, input_shape=(8, 8, 3), shortcut="B", width=0.5)),
    ],
)
@needs_kernels
def test_a_network_has_the_loss_and_gradients_of_its_stock_operations(name, fields):
    network, params, stats = graph.split(cnn_jax.create(name, num_classes=4, **fields))
    images, labels = noise(8, *fields["input_shape"]), jnp.arange(8) % 4

    def run():
        def loss(params, images):
            logits = nnx.merge(network.train, params, stats)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, images)

    forward = primitives(lambda images: nnx.merge(network.eval, params, stats)(images), images)
    assert "conv_general_dilated[" not in forward and "cnn_jax_convolution[" in forward
    with cpu.fast():
        ours = run()
    xlas = run()
    assert math.isfinite(ours[0])
    assert_close(ours, xlas, 1e-4)  # rounding grows through the layers
