"""ResNet-56 for small images: the recipes of `configs/resnet20.py`."""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    return recipes.get_config("resnet20", dataset, name="resnet56")
