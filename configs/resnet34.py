"""ResNet-34: the recipes of `configs/resnet50.py`."""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    return recipes.get_config("resnet50", dataset, name="resnet34")
