"""The picture of training examples: as the test sees them, then as training does in the first epochs."""

from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.data import crops
from cnn_jax.data.splits import Splits
from cnn_jax.display import plots
from cnn_jax.training import diagnostics
from cnn_jax.training.config_check import check_config

EXAMPLES, EPOCHS = 6, 5  # rows, and columns besides the first


def data(config: Any, path: Path) -> str:
    """Draws the first examples of a run in `path` and returns what the picture shows.

    Raises:
      UserError: an impossible value, a data set that is not there or has no images.
    """
    check_config(config)
    given = config.data.copy_and_resolve_references()
    with given.unlocked():
        given.sampling = "uniform"  # each example once an epoch; it decides how often one is seen, not how
    check(len(given.image_size) == 2, f"the examples of {given.name!r} are not images, which alone are augmented")
    opened = Splits(given, config.seed)
    part = opened.parts["train"]
    size = len(part)
    count = min(EXAMPLES, size)
    chosen = part.order.indices(np.arange(count))
    examples = part.source.read(chosen.tolist())
    for index, example in zip(chosen, examples, strict=True):
        check(example is not None, f"example {index} of the train part cannot be read: leave config.data.on_error out")
    tested = [crops.crop(example["image"], given, train=False) for example in examples if example]

    # The position of each of them in every epoch.
    epochs = [np.arange(epoch * size, (epoch + 1) * size) for epoch in range(EPOCHS)]
    positions = np.stack([epoch[np.argsort(part.order.indices(epoch))[chosen]] for epoch in epochs], axis=1)
    images, labels, shares = diagnostics.as_trained(config, part, positions.ravel())
    names = opened.class_names
    captions = [
        "" if share == 1 else f"{share:.0%} {names[own]}, {1 - share:.0%} {names[other]}"
        for (own, other), share in zip(labels, shares, strict=True)
    ]
    sides = f" {tuple(given.train_resize)}" if given.train_crop in ("random", "random_central") else ""
    title = f"{opened.name}: {', '.join([f'train_crop {given.train_crop}{sides}', *given.augment])}"
    plots.plot_images(
        [[first, *images[i * EPOCHS : (i + 1) * EPOCHS]] for i, first in enumerate(tested)],
        path,
        title=title,
        columns=["as tested", *(f"epoch {epoch + 1}" for epoch in range(EPOCHS))],
        names=[names[labels[i * EPOCHS][0]] for i in range(count)],
        captions=[["", *captions[i * EPOCHS : (i + 1) * EPOCHS]] for i in range(count)],
    )
    return f"{count} examples of {title}"
