"""A created network is stock JAX: derivatives of every mode and order, and vmap, on a CPU too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax.core.errors import UserError
from cnn_jax.nn import graph
from tiers import quick

# LLVM's optimizations and fused loops through MLIR do not pay off for one or two calls.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
NETWORKS = {
    "toy": {},
    "lenet5": dict(width=0.34, input_shape=(16, 16, 1), pool="max"),
    "lenet5_1998": {},
    "cifar_resnet": dict(depth=8, width=0.25, input_shape=(8, 8, 3), shortcut="B"),
    "conv1d": dict(width=0.25, input_shape=(16, 2), pool="conv"),
    "flattened": dict(width=0.05, input_shape=(8, 8, 3), channels=(96, 128)),
    "nin_cifar": dict(width=0.03, input_shape=(8, 8, 3), norm="lrn"),
}


def split(name, fields):
    """Returns (parameters, images) and the function from them to class scores."""
    network, params, stats = graph.split(cnn_jax.create(name, num_classes=4, **fields))
    shape = cnn_jax.models.fields(name) | fields
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *shape["input_shape"])), jnp.float32)
    return (params, x), lambda params, x: nnx.merge(network.eval, params, stats)(x)


def dot(one, other):
    return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def noise_like(tree, seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize("name", quick(NETWORKS, ("toy", "lenet5", "conv1d")))
def test_forward_and_reverse_derivatives_agree(name):
    point, scores = split(name, NETWORKS[name])
    directions = [noise_like(point, seed) for seed in (1, 2)]

    def loss(point):
        return jnp.sum(jnp.sin(scores(*point)))

    def forward_over_reverse(point, directions):
        return jax.vmap(lambda d: jax.jvp(jax.value_and_grad(loss), (point,), (d,)))(directions)

    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *directions)
    lowered = jax.jit(forward_over_reverse).lower(point, both)
    (_, gradients), (slopes, products) = lowered.compile(QUICKLY)(point, both)
    gradient = jax.tree.map(lambda leaf: leaf[0], gradients)
    np.testing.assert_allclose(slopes, [dot(gradient, direction) for direction in directions], rtol=1e-3, atol=1e-4)
    # The Hessian is symmetric.
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], products) for i in (0, 1))
    scale = float(jnp.sqrt(dot(first, first) * dot(directions[1], directions[1])))
    assert float(jnp.abs(slopes).min()) > 1e-6 and scale > 1e-6
    assert float(dot(first, directions[1])) == pytest.approx(float(dot(second, directions[0])), abs=1e-4 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_vmap_over_images_and_over_parameters(name):
    (params, x), scores = split(name, NETWORKS[name])
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)

    @jax.jit
    def run(params, both, x):
        single = jax.vmap(lambda image: scores(params, image[None])[0])(x)
        return scores(params, x), single, jax.vmap(scores, (0, None))(both, x)

    expected, single, several = run.lower(params, both, x).compile(QUICKLY)(params, both, x)
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(several[0], expected, rtol=1e-4, atol=1e-5)
    assert several.shape == (2, 3, 4) and not np.allclose(several[0], several[1])


def test_the_hessian_of_a_tiny_network():
    (params, x), scores = split("toy", dict(activation="tanh"))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = np.asarray(jax.jit(jax.hessian(lambda flat: jnp.sum(scores(unravel(flat), x) ** 2)))(flat))
    assert hessian.shape == (30 + 196, 30 + 196)  # conv1, and 48 values with a vote each for 4 classes
    assert np.all(np.isfinite(hessian))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-3 * np.abs(hessian).max())
    assert np.linalg.matrix_rank(hessian) > 4


# ---------------------------------------------------------------- the input


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("cifar_resnet", (8, 3, 32, 32), r"\[8, 3, 32, 32\], which looks like NCHW, .* NHWC, \[batch, 32, 32, 3\]"),
        (
            "cifar_resnet",
            (32, 32, 3),
            r"\[32, 32, 3\], but must be \[batch, .*\].*: add the batch axis, x\[None\]",
        ),
        ("cifar_resnet", (8, 32, 32, 1), r"\[8, 32, 32, 1\], but must be \[batch, 32, 32, 3\], channels last"),
        ("cifar_resnet", (2, 8, 32, 32, 3), r"\[2, 8, 32, 32, 3\], but must be"),
        ("conv1d", (128, 1), r"but must be \[batch, 128, 1\].*x\[None\]"),
        ("mlp", (2, 1, 28, 28), "which looks like NCHW"),
        ("googlenet", (2, 3, 96, 96), "which looks like NCHW"),
    ],
)
def test_an_input_of_another_layout_gets_one_message(name, shape, message):
    fields = dict(auxiliary=True, input_shape=(96, 96, 3)) if name == "googlenet" else {}
    model = nnx.view(nnx.eval_shape(lambda: cnn_jax.create(name, **fields)), deterministic=True)
    graphdef, state = nnx.split(model)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, jax.ShapeDtypeStruct(shape, jnp.float32))
