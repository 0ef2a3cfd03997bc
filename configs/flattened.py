"""Flattened convolutions (Jin et al. 2014); with separable=False, the dense twin.

    cnn_jax train --config=flattened           bundled digits, enlarged to 16x16
    cnn_jax train --config=flattened:cifar10   CIFAR-10
    cnn_jax train --config=flattened --config.model.separable=False

The recipe is ours. Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 98.33, 97.77, 98.89% in about 82
s each.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits") -> ConfigDict:
    config = fields.get_config(dataset, "flattened")
    config.duration = "20 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "1 epochs"
    if dataset == "digits":
        config.data.image_size = (16, 16)
        config.data.augment = ("pad_crop:1",)
        config.duration = "16 epochs"
        config.batch_size = 64
        config.eval.every = "5 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "1 epochs"
    return config
