"""A residual network for small images of any depth 6n+2: the recipes of `configs/resnet20.py`.

python -m cnn_jax.main --config=configs/cifar_resnet.py --config.model.depth=14
"""

from ml_collections import ConfigDict

from configs import resnet20


def get_config(dataset: str = "digits") -> ConfigDict:
    config = resnet20.get_config(dataset, name="cifar_resnet")
    config.model.depth = 20
    return config
