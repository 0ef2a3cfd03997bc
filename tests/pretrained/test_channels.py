"""Trained networks for images of other channels, and without their classifiers."""

from dataclasses import replace

import numpy as np
import pytest

import cnn_jax
from cnn_jax.config import recipes
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained.channels import first_kernel, with_channels
from cnn_jax.pretrained.predictor import Predictor
from cnn_jax.pretrained.source import Pretrained, open_source
from cnn_jax.training import finetuning
from cnn_jax.training.setup import build
from cnn_jax.training.state import States

GREY = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)


def test_three_equal_channels_give_what_one_gave():
    digits = cnn_jax.load("bundled:lenet5-digits")
    colored = cnn_jax.load("bundled:lenet5-digits", channels=3)
    np.testing.assert_allclose(colored(np.repeat(GREY, 3, axis=-1)), digits(GREY), rtol=1e-4, atol=1e-5)
    assert colored.channels == 3 and "conv1/conv/kernel for 3 instead of 1 channels" in colored.source.description


def test_one_channel_gives_what_three_equal_ones_gave():
    source = open_source("bundled:resnet20-cifar10")
    source = replace(source, input=dict(source.input) | {"mean": [0.45] * 3, "std": [0.25] * 3})
    grey = with_channels(source, 1)
    images = GREY[:, :, :, [0]]
    images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    scores = Predictor(grey)(images)
    np.testing.assert_allclose(scores, Predictor(source)(np.repeat(images, 3, axis=-1)), rtol=1e-3, atol=1e-4)
    assert grey.input["mean"] == [0.45] and "the sum over its channels" in grey.description


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_kernels_and_normalizations_are_those_of_timm(channels):
    helpers = pytest.importorskip("timm.models")
    import torch

    source = open_source("bundled:resnet20-cifar10")
    kernel = source.leaves["conv1/kernel"]
    theirs = helpers.adapt_input_conv(channels, torch.tensor(np.moveaxis(kernel, (-1, -2), (0, 1)).copy()))
    found = with_channels(source, channels)
    np.testing.assert_allclose(np.moveaxis(found.leaves["conv1/kernel"], (-1, -2), (0, 1)), theirs, rtol=1e-6)


def test_repeated_channels_keep_their_normalization():
    source = open_source("bundled:resnet20-cifar10")
    given = dict(source.input) | {"mean": [0.1, 0.2, 0.6], "std": [0.5]}
    four, one = (with_channels(replace(source, input=given), channels) for channels in (4, 1))
    assert (four.input["mean"], four.input["std"], four.input["channels"]) == ([0.1, 0.2, 0.6, 0.1], [0.5], 4)
    assert (one.input["mean"], one.input["std"]) == ([0.3], [0.5])
    kernel = source.leaves["conv1/kernel"]
    np.testing.assert_allclose(four.leaves["conv1/kernel"], 0.75 * kernel[:, :, [0, 1, 2, 0]], rtol=1e-6)
    assert with_channels(source, 3) is source


@pytest.mark.parametrize(
    ("name", "path"),
    [("resnet50", "conv1/kernel"), ("vgg11", "conv1_1/conv/kernel"), ("googlenet", "conv1/conv/kernel")],
)
def test_the_first_layer_is_found_in_every_family(name, path):
    given = dict(image_size=[224, 224], channels=3)
    assert first_kernel(Pretrained("x", "", {"name": name}, given, {path: np.zeros(1)})) == path


def test_a_network_without_a_first_convolution_is_refused():
    given = dict(image_size=[28, 28], channels=1)
    source = Pretrained("runs/mlp@9", "", {"name": "mlp"}, given, {"head/hidden/0/kernel": np.zeros((784, 100))})
    with pytest.raises(UserError, match=r"runs/mlp@9 takes images of 1 channels, .* which mlp does not"):
        with_channels(source, 3)


def test_without_a_classifier_a_network_returns_its_features():
    digits, features = cnn_jax.load("bundled:lenet5-digits"), cnn_jax.load("bundled:lenet5-digits", num_classes=0)
    np.testing.assert_allclose(features(GREY), digits.features(GREY), rtol=1e-5)
    np.testing.assert_array_equal(features(GREY), features.features(GREY))
    assert features(GREY).shape == (3, 84) and features.classes == []
    with pytest.raises(UserError, match="has features, but no classes"):
        features.probabilities(GREY)
    with pytest.raises(UserError, match=r"num_classes is 7, .* cnn_jax finetune bundled:lenet5-digits"):
        cnn_jax.load("bundled:lenet5-digits", num_classes=7)


def test_fine_tuning_adapts_the_first_layer_to_the_data():
    config = recipes.load("finetune", "resnet20,digits")
    config.data.image_size = (8, 8)
    source = open_source("bundled:resnet20-cifar10")
    config.data.channels = 1
    finetuning.adapt(config, source, {"data.channels", "data.image_size"})
    assert config.data.channels == 1 and len(config.data.mean) in (0, 1)
    states = States(build(config))
    assert states.surgery is not None and "conv1/kernel" in states.surgery.taken
    kernel = source.leaves["conv1/kernel"].sum(2, keepdims=True)
    np.testing.assert_allclose(states.create().params["conv1"]["kernel"], kernel, rtol=1e-6)
