"""ResNet-20 for small images (He et al. 2016, section 4.2), the base of other depths.

    cnn_jax train --config=resnet20            bundled digits, enlarged to 16x16
    cnn_jax train --config=resnet20:cifar10    CIFAR-10, the paper's recipe (8.75% error in the paper)

The paper chose its schedule on 45k/5k images and then trained on all 50k:
add --config.data.train_on=train+validation for that final run.
Digits, medians of seeds 0, 1, 2 on two CPU cores (float32, November 2026): ResNet-20 98.89% in 45 s, 32 98.33% in 72
s, 44 98.61% in 100 s, 56 97.21% in 127 s, 110 98.61% in 212 s, 1202 95.26% in 188 s.
CIFAR-10, seed 0 on two CPU cores, a schedule shortened from 182 to 6 epochs (--config.duration='6 epochs'
--config.batch_size=32 --config.optim.learning_rate=0.05 --config.optim.schedule.name=cosine): 81.56% in 27 minutes, the
plain twin 76.86%; 93 images of that copy of CIFAR-10 come from JPEG files. The paper's schedule was not run here.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits", name: str = "resnet20") -> ConfigDict:
    config = fields.get_config(dataset, name)
    config.batch_size = 128
    config.optim.weight_decay = 1e-4
    if dataset.startswith("cifar"):
        config.recipe = "He et al. 2016, section 4.2"
        config.duration = "64000 steps"
        config.data.normalize = "pixel"
        config.optim.learning_rate = 0.1
        config.optim.schedule.name = "steps"
        config.optim.schedule.boundaries = ("32000 steps", "48000 steps")
        config.log.every = "100 steps"
        if name in ("resnet110", "resnet1202"):  # 400 steps at 0.01, after which the training error is below 80%
            config.optim.schedule.warmup = "400 steps"
            config.optim.schedule.warmup_shape = "constant"
            config.optim.schedule.warmup_start = 0.1
        config.remat = name == "resnet1202"  # without it, a batch of 128 takes 18 GB
        return config

    config.duration = "40 epochs"
    config.optim.learning_rate = 0.1
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "2 epochs"
    if dataset == "digits":
        config.data.image_size = (16, 16)
        config.data.augment = ("pad_crop:1",)
        config.duration = "20 epochs"
        config.batch_size = 64
        config.eval.every = "2 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "10 steps"
        if name in ("resnet110", "resnet1202"):  # in so few steps, blocks that begin as the identity learn sooner
            config.model.zero_gamma = True
            config.duration = "12 epochs"
        if name == "resnet1202":
            config.model.width = 0.25
            config.data.image_size = (8, 8)
            config.data.augment = ()
            config.duration = "18 epochs"
    return config
