"""ResNet-152: the recipes of `configs/resnet50.py`."""

from ml_collections import ConfigDict

from configs import resnet50


def get_config(dataset: str = "digits") -> ConfigDict:
    return resnet50.get_config(dataset, name="resnet152")
