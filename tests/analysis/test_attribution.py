"""Attributions against PyTorch's gradients, closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax.analysis import attribution
from small_models import EVAL, filled, noise


@pytest.fixture(scope="module")
def lenet():
    fields = dict(activation="tanh", pool="average", input_shape=(14, 14, 1), padding=2, num_classes=3)
    return nnx.view(filled("lenet5", **fields), **EVAL)


def linear(weights):
    """A network of one linear layer; weights [H, W, C, K]."""
    return lambda x: jnp.einsum("bhwc,hwck->bk", x, weights)


@pytest.mark.slow
def test_saliency_is_the_gradient_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    kernel, dense = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 2, 4), (4, 5)))
    x = rng.normal(size=(2, 6, 6, 2)).astype(np.float32)

    def network(x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y).mean((1, 2)) @ dense

    classes = np.array([[4, 0], [1, 2]])
    found = attribution.saliency(network, jnp.asarray(x), jnp.asarray(classes))
    inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    weights = torch.tensor(kernel.transpose(3, 2, 0, 1))
    scores = torch.nn.functional.conv2d(inputs, weights).relu().mean((2, 3)) @ torch.tensor(dense)
    for column in range(2):
        own = scores[torch.arange(2), torch.tensor(classes[:, column])].sum()
        (gradient,) = torch.autograd.grad(own, inputs, retain_graph=True)
        np.testing.assert_allclose(found[..., column], gradient.abs().amax(1).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_integrated_gradients_are_complete(lenet):
    x, baseline = jnp.asarray(noise(2, 14, 14, 1)), jnp.full((1, 14, 14, 1), -0.4)
    classes = jnp.array([[0, 2], [1, 0]])
    found = attribution.integrated_gradients(lenet, x, classes, baseline)
    falls = np.asarray(lenet(x) - lenet(baseline))
    wanted = np.take_along_axis(falls, np.asarray(classes), axis=1)
    np.testing.assert_allclose(found.sum((1, 2)), wanted, atol=2e-3 * np.abs(falls).max())


def test_attributions_of_a_linear_network_are_its_weights():
    rng = np.random.default_rng(1)
    weights, x = rng.normal(size=(5, 4, 2, 3)), rng.normal(size=(2, 5, 4, 2))
    baseline, classes = rng.normal(size=(1, 5, 4, 2)), np.array([[0], [2]])
    of_class = np.moveaxis(weights[..., classes[:, 0]], -1, 0)  # [B, H, W, C]
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(classes)
    model = linear(jnp.asarray(weights, jnp.float32))
    path = attribution.integrated_gradients(model, *arrays, jnp.asarray(baseline, jnp.float32), steps=3)
    np.testing.assert_allclose(path[..., 0], (of_class * (x - baseline)).sum(-1), rtol=1e-4, atol=1e-5)
    smooth = attribution.smoothgrad(model, *arrays, jax.random.key(0), samples=3)
    np.testing.assert_allclose(smooth[..., 0], np.abs(of_class).max(-1), rtol=1e-5)


def test_smoothgrad_averages_gradients_under_the_noise():
    # The gradient of half the sum of squares is the noisy image itself.
    x, classes = jnp.linspace(2.0, 6.0, 2500).reshape(1, 50, 50, 1), jnp.array([[0]])
    found = attribution.smoothgrad(
        lambda x: 0.5 * (x**2).sum((1, 2, 3))[:, None], x, classes, jax.random.key(1), samples=16, noise=0.2
    )
    rest = np.asarray(found - x)
    assert rest.std() == pytest.approx(0.2 * 4.0 / 4, rel=0.05) and abs(rest.mean()) < 0.02


def test_occlusion_is_the_mean_fall_over_patches_that_hide(lenet):
    x, classes = np.asarray(noise(2, 14, 14, 1)), np.array([[2, 0], [1, 1]])
    found = attribution.occlusion(lenet, jnp.asarray(x), jnp.asarray(classes), jnp.float32(-0.5), patch=6, stride=5)
    whole = np.take_along_axis(np.asarray(lenet(x)), classes, axis=1)
    starts = (0, 5, 8)  # the last patch ends at the border
    total, count = np.zeros((2, 14, 14, 2)), np.zeros((14, 14))
    for top in starts:
        for left in starts:
            hidden = x.copy()
            hidden[:, top : top + 6, left : left + 6] = -0.5
            fall = whole - np.take_along_axis(np.asarray(lenet(hidden)), classes, axis=1)
            total[:, top : top + 6, left : left + 6] += fall[:, None, None]
            count[top : top + 6, left : left + 6] += 1
    np.testing.assert_allclose(found, total / count[..., None], atol=1e-4)
