"""C3D (Tran et al. 2015).

    python -m cnn_jax.main --config=configs/c3d.py             drawn clips of moving digits, 16x16x16
    python -m cnn_jax.main --config=configs/c3d.py:synthetic   noise of the paper's size, for measuring speed

The recipe for moving digits is ours.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(dataset: str = "moving_digits") -> ConfigDict:
    config = base.get_config(dataset)
    config.model = dict(
        name="c3d",
        temporal_kernel=3,  # frames, odd; 1: every frame by itself up to the pools
        pool="max",  # or "average"
        activation="relu",
        head="fc",  # or "flatten", "gap", "conv"
        fc_sizes=(4096, 4096),  # of head="fc"
        dropout=0.5,
        width=1.0,
        init="he_fan_in",
    )
    config.optim.schedule.warmup = "1 epochs"
    config.optim.schedule.name = "cosine"
    config.model.width = 0.125
    config.duration = "10 epochs"
    config.batch_size = 32
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.eval.every = "2 epochs"
    config.checkpoint.every = "10 epochs"
    config.log.every = "20 steps"
    return config
