"""Protocols have the names of the papers, describe their views, and refuse settings that do not fit."""

import pytest

from cnn_jax.config import recipes
from cnn_jax.config.compare import flat
from cnn_jax.core.errors import UserError
from cnn_jax.eval import protocols
from cnn_jax.training.config_check import check_config


def photographs(**fields):
    config = recipes.get_config("resnet50", "imagenet2012")
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize(
    ("fields", "words", "view"),
    [
        ({}, "shorter side to 256, center crop of 224x224", "1 crop"),
        ({"data.test_crop": "resize"}, "whole", "whole image"),
        ({"eval.protocol": "flip"}, "shorter side to 256, center crop of 224x224 and flipped", "1 crop, flipped"),
        ({"eval.protocol": "10-crop"}, "10-crop of 224x224, shorter side to 256", "10 crops"),
        (
            {"eval.protocol": "144-crop"},
            "144-crop of 224x224, shorter side to 256, 288, 320, 352",
            "144 crops",
        ),
        (
            {"eval.protocol": "dense"},
            "dense and flipped, shorter side to 256, longer side cut to a multiple of 32",
            "dense",
        ),
        (
            {"eval.protocol": "dense", "eval.scales": (256, 384, 512)},
            "dense and flipped, shorter side to 256, 384, 512, longer side cut to a multiple of 32",
            "multi-scale",
        ),
    ],
)
def test_a_protocol_names_its_views_and_comparable_results(fields, words, view):
    config = photographs(**fields)
    check_config(config)
    assert protocols.describe(flat(config.to_dict())) == words
    assert protocols.view(flat(config.to_dict())) == view


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval.protocol": "10crop"}, "did you mean '10-crop'"),
        ({"eval.protocol": "10-crop", "data.placement": "device", "data.train_crop": "resize"}, "placement=stream"),
        ({"eval.scales": (256, 384)}, "for protocol 'dense', but config.eval.protocol is 'single'"),
        ({"eval.protocol": "dense", "eval.scales": (192, 256)}, "set config.eval.scales to at least 224"),
        ({"eval.protocol": "10-crop", "data.test_crop": "resize", "data.test_resize": 200}, "config.data.test_resize"),
        ({"eval.protocol": "144-crop", "data.image_size": (299, 299), "data.test_resize": 320}, "begin at 256 pixels"),
        ({"eval.protocol": "dense", "eval.scales": (256.5,)}, "whole numbers"),
    ],
)
def test_a_protocol_that_does_not_fit_is_an_error(fields, message):
    with pytest.raises(UserError, match=message):
        check_config(photographs(**fields))


def test_resident_images_can_be_mirrored_but_sequences_cannot():
    config = recipes.get_config("lenet5")
    config.eval.protocol = "flip"
    check_config(config)
    config = recipes.get_config("conv1d")
    config.eval.protocol = "flip"
    with pytest.raises(UserError, match="which is for images"):
        check_config(config)
