"""A ResNet for small images, of any depth 6n+2: the recipes of `configs/resnet20.py`.

cnn_jax train --config=cifar_resnet --config.model.depth=14
"""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    return recipes.get_config("resnet20", dataset, name="cifar_resnet")
