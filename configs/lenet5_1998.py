"""LeNet-5 as in 1998: trainable subsampling, Table I, scaled tanh, distances to fixed codes.

    python -m cnn_jax.main --config=configs/lenet5_1998.py           bundled digits, enlarged to 32x32
    python -m cnn_jax.main --config=configs/lenet5_1998.py:mnist     MNIST, enlarged to 32x32 (the paper pads)

The codes know ten digits: data sets of more classes need --config.model.output=linear. The recipe is ours: the paper's
optimiser (stochastic diagonal Levenberg-Marquardt, one image at a time, 20 epochs) is not plain SGD.
Digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 99.16, 98.89, 98.89% in about 17 s each.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields as base


def get_config(dataset: str = "digits") -> ConfigDict:
    config = base.get_config(dataset)
    config.model = dict(
        name="lenet5_1998",
        padding=0,  # of conv1: 0 for 32x32 images, 2 for 28x28
        activation="scaled_tanh",  # or "tanh", "sigmoid", "relu"
        pool="trainable",  # or "average", "max"
        norm="none",  # or "batch", "lrn"
        kernel_plan="single",  # or "stacked": two 3x3 convolutions in the place of each 5x5
        connections="table",  # or "full"
        output="rbf",  # distances to fixed codes; or "linear"
        c5="conv",  # or "linear": the same layer for this size
        head="fc",  # or "flatten", "gap"
        dropout=0.0,
        width=1.0,
        norm_decay=0.9,
        init="lecun_uniform_1998",
    )
    if config.data.image_size == (28, 28):
        config.data.image_size = (32, 32)

    config.duration = "20 epochs"
    config.batch_size = 128
    config.optim.learning_rate = 0.005
    config.optim.weight_decay = 0.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "1 epochs"
    if dataset == "digits":
        config.data.image_size = (32, 32)
        config.data.augment = ("pad_crop:2",)
        config.duration = "40 epochs"
        config.batch_size = 64
        config.eval.every = "5 epochs"
        config.checkpoint.every = "10 epochs"
        config.log.every = "1 epochs"
    return config
