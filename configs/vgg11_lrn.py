"""VGG-11, configuration A-LRN, with LRN: the recipes of `configs/vgg16.py`."""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    return recipes.get_config("vgg16", dataset, name="vgg11_lrn")
