"""A trained network on data of your own; `cnn_jax finetune SOURCE --data=DATASET --regime=REGIME` does the same.

    cnn_jax finetune --config=finetune:resnet50,folder --checkpoint=SOURCE --config.data.dir=photos

NETWORK is any network with a recipe, DATASET any data set that --config=NETWORK:DATASET takes. The network's fields,
image size and normalization come from SOURCE. For small data sets, with the features of the images computed once:

    --config.trainable=head --config.cache_features=True --config.data.augment="()" --config.data.train_crop=resize
"""

from ml_collections import ConfigDict

from cnn_jax.config import finetune_recipe


def get_config(names: str = "resnet50,folder") -> ConfigDict:
    """Returns the recipe for "NETWORK,DATASET", or "NETWORK,DATASET,TRAINABLE".

    Raises:
      ValueError: `names` is not of that form, or there is no such network.
    """
    network, dataset, *trainable = [*names.split(","), *(["digits"] if "," not in names else [])]
    if len(trainable) > 1 or not network.isidentifier():
        raise ValueError(f"name a network and a data set, such as finetune:resnet50,folder: not {names!r}")
    return finetune_recipe.get_config(network, dataset, *trainable)
