"""Our recipe for fine-tuning: a trained network on another data set."""

from typing import Any

from ml_collections import ConfigDict

from cnn_jax.config import fields, recipes


def get_config(network: str, dataset: str = "digits", trainable: str = "full") -> ConfigDict:
    """Returns the recipe for a network that has a recipe of its own, on a data set that it takes.

    Args:
      trainable: config.trainable.

    Raises:
      UserError: there is no recipe for this network.
    """
    recipe = recipes.get_config(network, dataset)
    config: Any = fields.get_config(dataset)
    config.model, config.data = recipe.model, recipe.data
    config.duration = "20 epochs"
    config.batch_size = 32
    config.trainable = trainable
    # What is new learns faster than what is there.
    config.optim.learning_rate = 0.01 if config.trainable == "full" else 0.05
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.log.every = "10 steps"
    config.checkpoint.every = "5 epochs"
    return config
