"""Networks without a classifier return the features that it would get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax import models
from cnn_jax.analysis.introspection import class_activation_maps
from cnn_jax.core.errors import UserError
from cnn_jax.nn.hooks import capture
from small_models import EVAL, abstract, noise

# From the papers' tables: the width of the input of the last layer, which has weights for the classes.
WIDTHS = {
    "alexnet": 4096,
    "vgg16": 4096,
    "googlenet": 1024,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet20": 64,
    "squeezenet1_1": 512,
    "nin_cifar": 192,
    "lenet5": 84,
    "lenet5_1998": 84,
    "c3d": 4096,
}


def parameters(model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"resnet1202", "resnet152", "resnet110", "resnet56"}))
def test_without_classes_all_but_the_classifier_remains(name):
    full, model = abstract(name), abstract(name, num_classes=0)
    graphdef, state = nnx.split(nnx.view(model, **EVAL))
    images = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
    shape = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, images).shape
    assert len(shape) == 2 and shape[0] == 2
    assert shape[1] == WIDTHS.get(name, shape[1])
    assert parameters(full) - parameters(model) == parameters(full.head.classifier)
    assert model.head.classifier is None


@pytest.mark.parametrize(
    ("name", "fields", "shape"),
    [
        ("cifar_resnet", dict(depth=8, width=0.25, input_shape=(8, 8, 3)), (8, 8, 3)),
        ("nin_cifar", dict(width=0.1, input_shape=(32, 32, 3)), (32, 32, 3)),  # the classifier is a convolution
        ("vgg11", dict(width=0.05, input_shape=(32, 32, 3), fc_sizes=(16, 8)), (32, 32, 3)),
        ("vgg11", dict(width=0.05, input_shape=(32, 32, 3), fc_sizes=(16, 8)), (64, 96, 3)),  # 2x3 positions
    ],
)
def test_features_are_what_the_classifier_of_the_same_network_sees(name, fields, shape):
    x = noise(3, *shape)
    full = nnx.view(cnn_jax.create(name, num_classes=5, **fields), **EVAL)
    with capture() as calls:
        full(x)
    seen = next(np.asarray(y) for layer, y, _ in calls if layer is full.head.classifier)
    features = nnx.view(cnn_jax.create(name, num_classes=0, **fields), **EVAL)(x)
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, seen.mean(tuple(range(1, seen.ndim - 1))), rtol=1e-6, atol=1e-6)


def test_auxiliary_classifiers_need_classes():
    with pytest.raises(UserError, match="num_classes is 0, but auxiliary classifiers need classes"):
        abstract("googlenet", auxiliary=True, num_classes=0)


def test_class_activation_maps_need_classes():
    model = cnn_jax.create("cifar_resnet", depth=8, width=0.25, input_shape=(8, 8, 3), num_classes=0)
    with pytest.raises(UserError, match="num_classes is 0, but class activation maps need classes"):
        class_activation_maps(nnx.view(model, **EVAL), noise(1, 8, 8, 3))
