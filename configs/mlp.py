"""Multi-layer perceptron: the baseline that convolutional networks are compared with.

    cnn_jax train --config=mlp           bundled digits, enlarged to 16x16
    cnn_jax train --config=mlp:mnist     MNIST

The recipe is ours. Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 97.49, 97.77, 97.21% in about 7 s
each.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits") -> ConfigDict:
    config = fields.get_config(dataset, "mlp")
    config.duration = "20 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "1 epochs"
    config.data.augment = ()  # to a network without shared weights, a shifted image is a different one
    if dataset == "digits":
        config.data.image_size = (16, 16)
        config.duration = "40 epochs"
        config.batch_size = 64
        config.eval.every = "5 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "1 epochs"
    return config
