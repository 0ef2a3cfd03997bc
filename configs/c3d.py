"""C3D (Tran et al. 2015).

    cnn_jax train --config=c3d             drawn clips of moving digits, 16x16x16
    cnn_jax train --config=c3d:folder      clips of your own, 16 frames of 112x112
    cnn_jax train --config=c3d:synthetic   noise of the paper's size, for measuring speed

Moving digits, seeds 0, 1, 2 on two CPU cores (float32, November 2026): 96.5, 97.7, 96.6% in about 170 s each. A
linear model reaches 26.8%.
The recipe for moving digits is ours. The recipe for a folder and for noise is the one with which the paper compares
smaller networks on UCF101 (section 3): batch 30, learning rate 0.003, divided by 10 after every 4 epochs, 16 epochs.
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields


def get_config(dataset: str = "moving_digits") -> ConfigDict:
    config = fields.get_config(dataset, "c3d")
    if dataset in ("folder", "synthetic"):
        config.recipe = "Tran et al. 2015, section 3 (UCF101)"
        config.data.image_size = (16, 112, 112)
        config.data.update(train_crop="resize", test_crop="resize", augment=())
        config.duration = "16 epochs"
        config.batch_size = 30
        config.optim.learning_rate = 0.003
        config.optim.schedule.name = "steps"
        config.optim.schedule.boundaries = ("4 epochs", "8 epochs", "12 epochs")
        config.log.every = "10 steps"
        return config

    config.model.width = 0.125
    config.model.norm = "batch"  # without it, the first large gradients end in dead units
    config.model.dropout = 0.0
    config.duration = "2 epochs"
    config.batch_size = 32
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup = "100 steps"
    config.eval.every = "0.5 epochs"
    config.checkpoint.every = "1 epochs"
    config.log.every = "50 steps"
    return config
