"""Statistics of BatchNorm over groups of a batch, against a BatchNorm of each group."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnn_jax.nn.init import InitKeys
from cnn_jax.nn.layers import BatchNorm
from small_models import noise


def norm(group=0):
    layer = BatchNorm(3, rngs=InitKeys(jax.random.key(0)))
    layer.scale.set_value(np.float32([0.5, 2, -1]))
    layer.bias.set_value(np.float32([1, 0, -2]))
    layer.group = group
    return nnx.view(layer, use_running_average=False)


def averages(layer):
    return np.stack([layer.mean[...], layer.var[...]])


@pytest.mark.parametrize("group", [2, 3, 6])
def test_each_group_is_normalized_by_itself(group):
    x = 3 * noise(12, 5, 4, 3) + 1
    grouped, parts = norm(group), [norm() for _ in range(12 // group)]
    expected = [layer(part) for layer, part in zip(parts, np.split(x, len(parts)), strict=True)]
    np.testing.assert_allclose(grouped(x), np.concatenate(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(averages(grouped), np.mean([averages(part) for part in parts], 0), rtol=1e-5)


def test_one_group_is_the_whole_batch():
    x = noise(12, 5, 4, 3)
    whole, one = norm(), norm(12)
    np.testing.assert_allclose(one(x), whole(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(averages(one), averages(whole), rtol=1e-6)


def test_running_averages_do_not_depend_on_groups():
    layer = nnx.view(norm(4), use_running_average=True)
    np.testing.assert_array_equal(
        layer(noise(3, 2, 2, 3)), nnx.view(norm(), use_running_average=True)(noise(3, 2, 2, 3))
    )
