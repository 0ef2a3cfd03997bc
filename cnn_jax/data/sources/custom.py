"""Data of the user's own, by the import path of a function: --config.data.source=mypackage.data:open_dataset.

The function gets config.data and returns a mapping of "train", "validation" and "test" to anything with `__len__` and
`__getitem__`, such as a list, a data set of torch, or a grain source. An example is (image, label) or {"image": ...,
"label": ...}: uint8 [H, W, C] or [H, W] of any size, or a picture of Pillow, and a class from 0. The entry "classes" of
the mapping names the classes, else the attribute `classes` of its "train", else their numbers do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check
from cnn_jax.data.dataset import PARTS, Dataset, Example


@dataclass
class Indexed:
    """Examples of an object with `__len__` and `__getitem__`."""

    examples: Any
    channels: int
    num_classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [self._example(int(index)) for index in indices]

    def _example(self, index: int) -> Example:
        found = self.examples[index]
        try:
            image, label = (found["image"], found["label"]) if isinstance(found, Mapping) else found
            image, label = np.asarray(image), int(label)
        except (TypeError, ValueError, KeyError):
            raise UserError(
                f"example {index} of config.data.source is a {type(found).__name__}, but must be (image, label) or a "
                "mapping of both"
            ) from None
        image = image[..., None] if image.ndim == 2 else image
        check(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == self.channels,
            f"the image of example {index} is {image.dtype} {list(image.shape)}, but must be uint8 [height, width, "
            f"{self.channels}]: config.data.channels is {self.channels}",
        )
        check(
            0 <= label < self.num_classes,
            f"the label of example {index} is {label}, but must be from 0 to {self.num_classes - 1}",
        )
        return {"image": image, "label": label}


def open_dataset(config: Any, seed: int) -> Dataset:
    """Returns the data that the function named by config.data.source opens.

    Raises:
      UserError: there is no such function, or it does not return the parts.
    """
    opened = imports.load(config.source, field="config.data.source")(config)
    check(
        isinstance(opened, Mapping) and all(part in opened for part in PARTS),
        f"config.data.source is {config.source!r}, which must return a mapping with {', '.join(PARTS)}",
    )
    for part in PARTS:
        check(
            hasattr(opened[part], "__len__") and hasattr(opened[part], "__getitem__"),
            f"config.data.source is {config.source!r}, whose {part} is a {type(opened[part]).__name__}, but must have "
            "__len__ and __getitem__",
        )
    classes = opened.get("classes", getattr(opened["train"], "classes", None)) or range(config.num_classes)
    names = [str(name) for name in classes]
    parts = {part: Indexed(opened[part], config.channels, len(names)) for part in PARTS}
    return Dataset(config.name, parts, names, f"data of {config.source}")
