"""torchvision's names and layout, against literals of its state dicts; torch is not needed."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

import torchvision_models
from cnn_jax import models
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import torchvision_weights
from tiers import quick

# (parameters and statistics in the state dict, without num_batches_tracked; some of them with their shapes)
EXPECTED = {
    "alexnet": (16, {"features.10.weight": (256, 256, 3, 3), "classifier.1.weight": (4096, 9216)}),
    "vgg11": (22, {"features.18.weight": (512, 512, 3, 3), "classifier.0.weight": (4096, 25088)}),
    "vgg13": (26, {"features.2.weight": (64, 64, 3, 3), "features.22.bias": (512,)}),
    "vgg16": (32, {"features.5.weight": (128, 64, 3, 3), "features.28.weight": (512, 512, 3, 3)}),
    "vgg19": (38, {"features.34.weight": (512, 512, 3, 3), "classifier.6.weight": (1000, 4096)}),
    "vgg11_bn": (54, {"features.25.weight": (512, 512, 3, 3), "features.26.running_var": (512,)}),
    "vgg13_bn": (66, {"features.31.weight": (512, 512, 3, 3), "features.32.running_mean": (512,)}),
    "vgg16_bn": (84, {"features.40.weight": (512, 512, 3, 3), "features.41.weight": (512,)}),
    "vgg19_bn": (102, {"features.49.weight": (512, 512, 3, 3), "features.50.bias": (512,)}),
    "googlenet": (
        305,
        {
            "conv3.conv.weight": (192, 64, 3, 3),
            "inception3a.branch2.0.conv.weight": (96, 192, 1, 1),
            "inception4e.branch3.1.bn.running_mean": (128,),
            "inception5b.branch4.1.conv.weight": (128, 832, 1, 1),
            "aux1.fc1.weight": (1024, 2048),
            "aux2.conv.conv.weight": (128, 528, 1, 1),
            "fc.weight": (1000, 1024),
        },
    ),
    "squeezenet1_0": (52, {"features.7.squeeze.weight": (32, 256, 1, 1), "features.12.expand3x3.bias": (256,)}),
    "squeezenet1_1": (52, {"features.6.squeeze.weight": (32, 128, 1, 1), "classifier.1.weight": (1000, 512, 1, 1)}),
    "resnet18": (102, {"layer1.1.conv2.weight": (64, 64, 3, 3), "layer2.0.downsample.0.weight": (128, 64, 1, 1)}),
    "resnet34": (182, {"layer3.5.bn2.running_var": (256,), "fc.weight": (1000, 512)}),
    "resnet50": (267, {"layer4.2.conv3.weight": (2048, 512, 1, 1), "layer1.0.downsample.1.bias": (256,)}),
    "resnet101": (522, {"layer3.22.conv2.weight": (256, 256, 3, 3), "bn1.running_mean": (64,)}),
    "resnet152": (777, {"layer3.35.bn3.weight": (1024,), "layer2.7.conv1.weight": (128, 512, 1, 1)}),
    "resnext50_32x4d": (267, {"layer1.0.conv2.weight": (128, 4, 3, 3), "layer4.0.conv1.weight": (1024, 1024, 1, 1)}),
    "wide_resnet50_2": (267, {"layer1.0.conv2.weight": (128, 128, 3, 3), "layer4.2.conv3.weight": (2048, 1024, 1, 1)}),
}  # fmt: skip
NARROW = dict(width=0.125, num_classes=7)


def shapes(name, **more):
    ours, fields = torchvision_weights.NETWORKS[name]
    return nnx.eval_shape(lambda: models.create(ours, **fields | more))


def leaves(model):
    return dict(trees.named_leaves(nnx.to_pure_dict(nnx.state(model))))


@functools.cache
def narrow(name):
    """Returns our network with an eighth of the channels and random weights."""
    return torchvision_models.random_weights(shapes(name, **NARROW))


def test_all_networks_are_expected():
    assert EXPECTED.keys() == torchvision_weights.NETWORKS.keys()


@pytest.mark.parametrize("name", quick(EXPECTED, ("alexnet", "vgg11_bn", "squeezenet1_1", "resnet18")))
def test_every_parameter_and_statistic_has_its_own_name(name):
    model, (count, some) = shapes(name), EXPECTED[name]
    names = torchvision_weights.names(model)
    assert names.keys() == leaves(model).keys()
    assert len(set(names.values())) == len(names) == count
    ours = {theirs: path for path, theirs in names.items()}
    for theirs, shape in some.items():
        own = leaves(model)[ours[theirs]].shape
        assert (own[::-1] if len(own) < 3 else (own[3], own[2], own[0], own[1])) == shape, theirs


# One of each layout; ResNet's narrow forms have groups of too few channels.
LAYOUTS = ("alexnet", "vgg11", "vgg16_bn", "googlenet", "squeezenet1_1", "resnet18", "resnet50")


@pytest.mark.parametrize("name", quick(LAYOUTS, ("squeezenet1_1", "resnet18")))
def test_both_ways_end_where_they_began(name):
    model = narrow(name)
    exported = torchvision_weights.export(model)
    again = torchvision_weights.load(shapes(name, **NARROW), exported)
    jax.tree.map(np.testing.assert_array_equal, leaves(again), leaves(model))
    once_more = torchvision_weights.export(again)
    assert exported.keys() == once_more.keys()
    jax.tree.map(np.testing.assert_array_equal, exported, once_more)


def test_layouts():
    """Element by element, as torch reads them: [out, in, row, column], and maps flattened as [C, row, column]."""
    model = narrow("googlenet")
    exported, own = torchvision_weights.export(model), leaves(model)
    conv, ours = exported["conv3.conv.weight"], own["conv2/conv/kernel"]
    assert conv.shape == (24, 8, 3, 3)
    assert all(conv[o, i, r, c] == ours[r, c, i, o] for o, i, r, c in np.ndindex(conv.shape) if o + i < 6)
    np.testing.assert_array_equal(exported["aux2.fc2.weight"].T, own["auxiliary_4d/head/classifier/kernel"])
    hidden, ours = exported["aux1.fc1.weight"], own["auxiliary_4a/head/hidden/0/kernel"]
    assert hidden.shape == (128, 16 * 4 * 4)
    for o, (channel, row, column) in zip(range(128), np.ndindex(16, 4, 4), strict=False):
        assert hidden[o, channel * 16 + row * 4 + column] == ours[(row * 4 + column) * 16 + channel, o]
    for theirs, kind in dict(weight="scale", bias="bias", running_mean="mean", running_var="var").items():
        np.testing.assert_array_equal(exported[f"conv1.bn.{theirs}"], own[f"conv1/norm/{kind}"])


def test_loaded_weights_do_not_share_memory():
    exported = {name: value.copy() for name, value in torchvision_weights.export(narrow("resnet18")).items()}
    loaded = torchvision_weights.load(shapes("resnet18", **NARROW), exported)
    for value in exported.values():
        value[:] = np.nan
    jax.tree.map(np.testing.assert_array_equal, leaves(loaded), leaves(narrow("resnet18")))


def test_counts_of_batches_are_ignored():
    exported = torchvision_weights.export(narrow("resnet18"))
    torchvision_weights.load(narrow("resnet18"), exported | {"bn1.num_batches_tracked": np.array(7)})


def test_one_message_lists_all_that_does_not_fit():
    exported = torchvision_weights.export(narrow("resnet18"))
    del exported["conv1.weight"], exported["layer2.0.bn1.running_var"]
    exported |= {"head.weight": np.zeros(3), "fc.weight": np.zeros((5, 64)), "layer1.0.conv1.weight": np.zeros(8)}
    with pytest.raises(UserError) as error:
        torchvision_weights.load(narrow("resnet18"), exported)
    for part in (
        "2 missing: conv1.weight, layer2.0.bn1.running_var;",
        "1 left over: head.weight;",
        "2 of another shape: ",
        "layer1.0.conv1.weight is [8], but conv2_x/0/conv1/kernel needs [8, 8, 3, 3]",
        "fc.weight is [5, 64], but head/classifier/kernel needs [7, 64]",
        "number of classes",
    ):
        assert part in str(error.value)


def test_parameters_that_torchvision_does_not_have():
    model = torchvision_models.random_weights(
        nnx.eval_shape(lambda: models.create("squeezenet1_1", bypass="complex", **NARROW))
    )
    with pytest.raises(UserError, match=r"has no fire2/projection/conv/bias, .*fire8/projection/conv/kernel"):
        torchvision_weights.export(model)
    with pytest.raises(UserError, match=r": 8 without a name in torchvision: fire2/projection/conv/bias, "):
        torchvision_weights.load(model, torchvision_weights.export(narrow("squeezenet1_1")))


def test_a_family_that_torchvision_does_not_have():
    model = nnx.eval_shape(lambda: models.create("lenet5"))
    with pytest.raises(UserError, match=r"torchvision has no LeNet5 .*: take one of alexnet, googlenet, resnet101, "):
        torchvision_weights.names(model)
