"""SqueezeNet 1.1: the recipes of `configs/squeezenet1_0.py`."""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    return recipes.get_config("squeezenet1_0", dataset, name="squeezenet1_1")
