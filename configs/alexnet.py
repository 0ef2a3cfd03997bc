"""AlexNet (Krizhevsky et al. 2012).

    python -m cnn_jax.main --config=configs/alexnet.py                bundled digits, enlarged to 67x67, our recipe
    python -m cnn_jax.main --config=configs/alexnet.py:imagenet2012   ImageNet, 227x227

Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 98.05, 96.38, 96.94% in about 43 s each.
For ImageNet the crops come from the central 256x256, mirrored or not, with shifted colours, as in section 4.1 of the
paper. They are 227x227, which its layers need, where the paper says 224x224; colours are normalised per channel, where
the paper subtracts the mean image.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields as base


def get_config(dataset: str = "digits") -> ConfigDict:
    config = base.get_config(dataset)
    config.model = dict(
        name="alexnet",
        variant="grouped",  # or "ungrouped", "unpadded", "one_tower", "zfnet", "zfnet_wide", "zfnet_unpadded"
        groups=0,  # of conv2, conv4, conv5; 0: the variant's
        kernel_plan="single",  # or "stacked": two 3x3 convolutions in the place of a 5x5, three in that of a 7x7
        norm="lrn",  # or "batch", "none"
        lrn_after_pool=False,
        activation="relu",
        pool="max",  # or "average", "conv"
        overlapping=True,  # pooling of 3x3 with stride 2; False: 2x2
        head="fc",  # or "gap", "flatten", "conv"
        fc_sizes=(4096, 4096),  # of head="fc"
        dropout=0.5,
        width=1.0,
        norm_decay=0.9,
        init="normal_0.01",
        initial_bias=1.0,  # of conv2, conv4, conv5 and the hidden linear layers; Caffe's network: 0.1
    )
    return recipe(config, dataset, image_size=(227, 227), small_image_size=(67, 67))


def recipe(
    config: ConfigDict, dataset: str, *, image_size: tuple[int, int], small_image_size: tuple[int, int]
) -> ConfigDict:
    """Sets the recipe of the paper for ImageNet, ours for the other data sets."""
    config.batch_size = 128
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    if dataset == "imagenet2012":
        config.recipe = "Krizhevsky et al. 2012, sections 4.1 and 5"
        config.data.image_size = image_size
        config.data.train_crop = "random_central"
        config.data.train_resize = (256, 256)
        config.data.augment = ("flip", "pca_color:0.1")
        config.duration = "90 epochs"
        config.optim.schedule.name = "plateau"
        config.log.every = "100 steps"
        return config

    # The paper's initial values are for its width and images: small ones start from those of He et al. 2015.
    config.data.image_size = small_image_size  # the smallest images leave one position after the last pooling
    config.model.init = "he_fan_in"
    config.model.initial_bias = 0.0
    config.duration = "60 epochs"
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "1 epochs"
    if dataset == "digits":
        config.model.width = 0.25
        config.data.augment = ("pad_crop:4",)
        config.duration = "14 epochs"
        config.batch_size = 64
        config.eval.every = "2 epochs"
        config.checkpoint.every = "7 epochs"
        config.log.every = "10 steps"
    return config
