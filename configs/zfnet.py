"""ZFNet (Zeiler, Fergus 2013): the class of AlexNet with another `variant`.

    cnn_jax train --config=zfnet                bundled digits, enlarged to 64x64, our recipe
    cnn_jax train --config=zfnet:imagenet2012   ImageNet, 224x224

Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 97.21, 95.26, 98.33% in about 47 s each.
The recipe for ImageNet takes random crops of the central 256x256, while the paper takes those at the corners and in the
middle. It lacks the paper's rescaling of filters whose root mean square exceeds 0.1.
"""

from ml_collections import ConfigDict

from cnn_jax.config import recipes


def get_config(dataset: str = "digits") -> ConfigDict:
    config = recipes.get_config("alexnet", dataset, name="zfnet", image_size=(224, 224), small_image_size=(64, 64))
    if dataset == "imagenet2012":
        config.recipe = "ours, after Zeiler & Fergus 2013, section 3.1"
        config.data.augment = ("flip",)
        config.duration = "70 epochs"
        config.optim.weight_decay = 0.0  # the paper names none
    return config
