"""VGG-16, configuration D (Simonyan, Zisserman 2015), the base of A to E.

    cnn_jax train --config=vgg16                bundled digits, enlarged to 32x32, our recipe
    cnn_jax train --config=vgg16:imagenet2012   ImageNet, 224x224
    cnn_jax train --config=vgg16:cifar10        CIFAR-10, our recipe

Digits, medians of seeds 0, 1, 2 on two CPU cores (float32, November 2026): VGG-11 98.89% in 20 s, 11 with LRN 98.61%
in 22 s, 13 98.89% in 39 s, 16 (C) 98.61% in 45 s, 16 (D) 98.89% in 46 s, 19 98.05% in 56 s.
For ImageNet the shorter side has a random length between 256 and 512, and crops are mirrored at random, with
shifted colors: the best recipe of the paper's Table 3. For its fixed scale add
--config.data.train_resize="(256,256)", or "(384,384)".
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits", name: str = "vgg16") -> ConfigDict:
    config = fields.get_config(dataset, name)
    config.optim.weight_decay = 5e-4
    config.optim.learning_rate = 0.01
    if dataset == "imagenet2012":
        config.recipe = "Simonyan & Zisserman 2015, section 3.1"
        config.data.train_crop = "random"
        config.data.train_resize = (256, 512)
        config.data.augment = ("flip", "pca_color:0.1")
        config.duration = "74 epochs"
        config.batch_size = 256
        config.optim.schedule.name = "plateau"
        config.log.every = "100 steps"
        return config

    # Small images, trained from scratch: BatchNorm and one hidden layer are ours.
    config.data.image_size = (32, 32)  # with one position left after the fifth pooling
    if name != "vgg11_lrn":
        config.model.norm = "batch"
    config.model.fc_sizes = (512,)
    config.model.init = "he_fan_in"
    config.duration = "100 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.02 if name == "vgg11_lrn" else 0.05
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "2 epochs"
    if dataset == "digits":
        config.model.width = 0.25
        config.data.augment = ("pad_crop:2",)
        config.duration = "12 epochs"
        config.batch_size = 64
        config.eval.every = "2 epochs"
        config.checkpoint.every = "6 epochs"
        config.log.every = "10 steps"
    return config
