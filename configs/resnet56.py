"""ResNet-56 for small images: the recipes of `configs/resnet20.py`."""

from ml_collections import ConfigDict

from configs import resnet20


def get_config(dataset: str = "digits") -> ConfigDict:
    return resnet20.get_config(dataset, name="resnet56")
