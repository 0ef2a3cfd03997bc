"""SqueezeNet 1.0 (Iandola et al. 2016); with `name`, 1.1.

    cnn_jax train --config=squeezenet1_0                bundled digits, enlarged to 32x32
    cnn_jax train --config=squeezenet1_0:imagenet2012   ImageNet, 224x224
    cnn_jax train --config=squeezenet1_0:cifar10        CIFAR-10, our recipe

The paper's own images are 227x227: add --config.data.image_size="(227,227)". It does not say how they are cropped; the
authors' files for Caffe take random crops of the whole 256x256 image and do not mirror them; ours crop the central
256x256 and do. Digits, medians of seeds 0, 1, 2 on two CPU cores (float32, November 2026): SqueezeNet 1.0 98.05% in 31
s, 1.1 97.21% in 24 s.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits", name: str = "squeezenet1_0") -> ConfigDict:
    config = fields.get_config(dataset, name)
    config.optim.schedule.name = "polynomial"
    config.optim.schedule.power = 1.0
    if dataset == "imagenet2012":
        # The paper: a learning rate of 0.04 that falls linearly. The rest is ours.
        config.recipe = "ours, after Iandola et al. 2016"
        config.data.train_crop = "random_central"
        config.data.train_resize = (256, 256)
        config.duration = "170000 steps"
        config.batch_size = 512
        config.optim.learning_rate = 0.04
        config.optim.weight_decay = 2e-4
        config.log.every = "100 steps"
        return config

    config.data.image_size = (32, 32)
    config.duration = "100 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.04
    config.optim.weight_decay = 2e-4
    config.optim.schedule.warmup = "2 epochs"
    if dataset == "digits":
        # The ReLU of head="conv" can leave a class without a gradient for good, and in such a short training it does.
        config.model.head = "gap"
        config.model.norm = "batch"
        config.model.width = 0.5
        config.data.augment = ("pad_crop:2",)
        config.duration = "20 epochs"
        config.batch_size = 64
        config.eval.every = "2 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "10 steps"
    return config
