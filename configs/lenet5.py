"""LeNet-5 (LeCun et al. 1998).

    cnn_jax train --config=lenet5           bundled digits, enlarged to 28x28
    cnn_jax train --config=lenet5:mnist     MNIST

Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 99.16, 99.16, 99.72% in about 12 s each. MNIST:
99.19, 99.14, 99.24% in about 2 minutes each.
The optimizer is ours: the paper's (stochastic diagonal Levenberg-Marquardt) is not plain SGD.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "digits") -> ConfigDict:
    config = fields.get_config(dataset, "lenet5")
    if config.data.image_size == (32, 32):
        config.model.padding = 0
    else:
        config.data.image_size = (28, 28)

    config.duration = "20 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "1 epochs"
    if dataset == "digits":
        config.data.augment = ("pad_crop:2",)
        config.duration = "40 epochs"
        config.batch_size = 64
        config.eval.every = "5 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "1 epochs"
    return config
