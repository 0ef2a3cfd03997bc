"""A trained network on data of your own, our recipe.

    python -m cnn_jax.finetune --config=configs/finetune.py:resnet50,folder --checkpoint=SOURCE --config.data.dir=photos

The network is one that has a file here, the data set one that --config=configs/NETWORK.py:DATASET takes. The network's
fields, image size and normalization come from SOURCE. For few data, with the features of the images computed once:

    --config.trainable=head --config.cache_features=True --config.data.augment="()" --config.data.train_crop=resize
"""

from ml_collections import ConfigDict

from cnn_jax.config import fields, recipes


def get_config(names: str = "resnet50,folder") -> ConfigDict:
    """Returns the recipe for "NETWORK,DATASET", or "NETWORK,DATASET,TRAINABLE".

    Raises:
      ValueError: `names` is not of that form, or there is no such network.
    """
    network, dataset, *trainable = [*names.split(","), *(["digits"] if "," not in names else [])]
    if len(trainable) > 1 or network not in recipes.names():
        raise ValueError(
            f"name a network that has a file in configs/ and a data set, as configs/finetune.py:resnet50,folder does: "
            f"not {names!r}"
        )
    recipe = recipes.get_config(network, dataset)
    config = fields.get_config(dataset)
    config.model, config.data = recipe.model, recipe.data
    config.duration = "20 epochs"
    config.batch_size = 32
    config.trainable = trainable[0] if trainable else "full"
    # What is new learns faster than what is there.
    config.optim.learning_rate = 0.01 if config.trainable == "full" else 0.05
    config.optim.weight_decay = 1e-4
    config.optim.schedule.name = "cosine"
    config.log.every = "10 steps"
    config.checkpoint.every = "5 epochs"
    return config
