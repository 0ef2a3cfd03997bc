"""Where examples come from, one module for each kind of source; see `dataset.Source` for what a source is."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np

from cnn_jax.core import imports
from cnn_jax.core.errors import check
from cnn_jax.data.dataset import PARTS, STORED, Dataset, select_classes, with_fold
from cnn_jax.data.sources import custom, digits, drawn, folder, hf, synthetic, table, tfds

OPENERS = {
    "tfds": tfds.open_dataset,
    "folder": folder.open_dataset,
    "table": table.open_dataset,
    hf.NAME: hf.open_dataset,
    "digits": digits.open_dataset,
    "synthetic": synthetic.open_dataset,
    custom.GIVEN: custom.refuse_given,
    **dict.fromkeys(drawn.DESCRIPTIONS, drawn.open_dataset),
}


def open_dataset(
    config: Any,
    seed: int = 0,
    needed: Collection[str] = PARTS,
    opener: Callable[[Any, int], Dataset] | None = None,
) -> Dataset:
    """Opens the parts of the data set that config.data names.

    Args:
      seed: of synthetic images, and of config.data.images_per_class.
      needed: parts that must have examples; others are left out where they have none.
      opener: opens what config.data.source names; None: the one of `OPENERS`.

    Raises:
      UserError: the data set is not there (the message says how to get it), or does not have the classes or channels
        that the configuration says.
    """
    opener = opener or (custom.open_dataset if imports.is_path(config.source) else OPENERS[config.source])
    dataset = select_classes(with_fold(opener(config, seed), config, seed), config, seed)
    for part, source in dataset.parts.items():
        check(
            len(source) > 0 or part not in needed,
            f"the {part} part of {config.name!r} is empty: check config.data.{part}",
        )
    dataset = replace(dataset, parts={part: source for part, source in dataset.parts.items() if len(source) > 0})
    check(
        bool(config.classes) or config.num_classes in (0, len(dataset.class_names)),
        f"config.data.num_classes is {config.num_classes}, but {config.name!r} has {len(dataset.class_names)} classes",
    )
    if config.source not in STORED:  # those are checked when they are opened, or when they are read
        (first,) = next(iter(dataset.parts.values())).read([0])
        channels = config.channels if first is None else first["image"].shape[-1]
        check(
            channels == config.channels,
            f"config.data.channels is {config.channels}, but the images of {config.name!r} have {channels}",
        )
    return dataset


def linear_accuracy(dataset: Dataset, most: int = 4000) -> float:
    """Returns the test accuracy of scikit-learn's logistic regression on the values: what needs no network at all.

    It is fitted to the first `most` training examples.
    """
    from sklearn.linear_model import LogisticRegression

    def values(part: str) -> tuple[np.ndarray, np.ndarray]:
        source = dataset.parts[part]
        found = source.read(range(min(len(source), most) if part == "train" else len(source)))
        examples = [example for example in found if example is not None]
        images = np.stack([np.asarray(example["image"]).ravel() for example in examples]) / 255
        return images, np.array([example["label"] for example in examples])

    return float(LogisticRegression(max_iter=1000).fit(*values("train")).score(*values("test")))
