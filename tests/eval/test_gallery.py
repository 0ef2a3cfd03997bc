"""The page of errors shows an example as the network sees it."""

import numpy as np

from cnn_jax.config import recipes
from cnn_jax.data.splits import Splits
from cnn_jax.eval.gallery import picture


def part(recipe, **fields):
    config = recipes.get_config(recipe).data
    config.update(fields)
    return Splits(config, 0).parts["test"]


def test_an_image_has_the_size_that_the_network_sees():
    split = part("lenet5")
    image = picture(split, 7)
    assert image.shape == (28, 28, 1)
    assert np.array_equal(image, split.resident["image"][7])


def test_the_middle_frame_of_a_clip_is_shown():
    split = part("c3d", num_images=(8, 8, 8))
    assert np.array_equal(picture(split, 3), split.resident["image"][3][8])


def test_nothing_is_shown_of_a_sequence():
    assert picture(part("conv1d", num_images=(8, 8, 8)), 0) is None
