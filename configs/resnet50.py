"""ResNet-50; with `name`, the other networks of Table 1 (He et al. 2016).

    cnn_jax train --config=resnet50                bundled digits, enlarged to 16x16
    cnn_jax train --config=resnet50:imagenet2012   ImageNet, 224x224
    cnn_jax train --config=resnet50:cifar10        CIFAR-10, our recipe

Digits, medians of seeds 0, 1, 2 on two CPU cores (float32, November 2026): ResNet-18 97.77% in 49 s, 34 98.89% in 78
s, 50 98.33% in 87 s, 101 97.49% in 184 s, 152 98.61% in 243 s.
The recipes for ImageNet and CIFAR-10 were not run to the end here. For ImageNet, crops are those of Goyal et al. and
GoogLeNet; for those of the ResNet paper (section 3.4) add --config.data.train_crop=random
--config.data.train_resize="(256,480)" --config.data.augment="('flip','pca_color:0.1')".
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits", name: str = "resnet50") -> ConfigDict:
    config = fields.get_config(dataset, name)
    config.model.zero_gamma = True
    config.optim.schedule.warmup = "5 epochs"
    if dataset == "imagenet2012":
        # Batch 256 and 90 epochs: the recipe of the ResNet paper with fixed drops, warm-up and zero-gamma.
        config.recipe = "Goyal et al. 2017, section 5.1"
        config.duration = "90 epochs"
        config.batch_size = 256
        config.optim.learning_rate = 0.1
        config.optim.weight_decay = 1e-4
        config.optim.decay_rule = "(?!.*norm).*"  # not the scales and offsets of BatchNorm
        config.optim.schedule.name = "steps"
        config.optim.schedule.boundaries = ("30 epochs", "60 epochs", "80 epochs")
        config.precision = "bfloat16"
        config.log.every = "100 steps"
        return config

    config.duration = "60 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "cosine"
    if dataset == "digits":
        config.data.image_size = (16, 16)
        config.data.augment = ("pad_crop:1",)
        config.duration = "14 epochs"
        config.batch_size = 64
        config.optim.weight_decay = 1e-4
        config.optim.schedule.warmup = "3 epochs"
        config.eval.every = "2 epochs"
        config.checkpoint.every = "7 epochs"
        config.log.every = "10 steps"
    return config
