"""VGG-11 with a local response normalisation, configuration A-LRN: the recipes of `configs/vgg16.py`."""

from ml_collections import ConfigDict

from configs import vgg16


def get_config(dataset: str = "digits") -> ConfigDict:
    return vgg16.get_config(dataset, name="vgg11_lrn")
