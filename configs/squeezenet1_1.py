"""SqueezeNet 1.1: the recipes of `configs/squeezenet1_0.py`."""

from ml_collections import ConfigDict

from configs import squeezenet1_0


def get_config(dataset: str = "digits") -> ConfigDict:
    return squeezenet1_0.get_config(dataset, name="squeezenet1_1")
