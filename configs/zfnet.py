"""ZFNet (Zeiler, Fergus 2013), with `variant` the same class as AlexNet.

    python -m cnn_jax.main --config=configs/zfnet.py                bundled digits, enlarged to 64x64, our recipe
    python -m cnn_jax.main --config=configs/zfnet.py:imagenet2012   ImageNet, 224x224

Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 97.21, 95.26, 98.33% in about 47 s each.
The recipe for ImageNet takes random crops of the central 256x256, where the paper takes those of the corners and of the
middle, and lacks the paper's rescaling of filters whose root mean square exceeds 0.1.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields as base
from configs import alexnet


def get_config(dataset: str = "digits") -> ConfigDict:
    config = base.get_config(dataset)
    config.model = dict(
        name="zfnet",
        variant="zfnet",  # or "zfnet_wide", "zfnet_unpadded", "grouped", "ungrouped", "unpadded", "one_tower"
        groups=0,  # of conv2, conv4, conv5; 0: the variant's
        kernel_plan="single",  # or "stacked": two 3x3 convolutions in the place of a 5x5, three in that of a 7x7
        norm="lrn",  # or "batch", "none"
        lrn_after_pool=True,
        activation="relu",
        pool="max",  # or "average", "conv"
        overlapping=True,  # pooling of 3x3 with stride 2; False: 2x2
        head="fc",  # or "gap", "flatten", "conv"
        fc_sizes=(4096, 4096),  # of head="fc"
        dropout=0.5,
        width=1.0,
        norm_decay=0.9,
        init="normal_0.01",
        initial_bias=0.0,  # of conv2, conv4, conv5 and the hidden linear layers
    )
    alexnet.recipe(config, dataset, image_size=(224, 224), small_image_size=(64, 64))
    if dataset == "imagenet2012":
        config.recipe = "ours, after Zeiler & Fergus 2013, section 3.1"
        config.data.augment = ("flip",)
        config.duration = "70 epochs"
        config.optim.weight_decay = 0.0  # the paper names none
    return config
