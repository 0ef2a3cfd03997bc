"""Data of the user's own, by the import path of a function: --config.data.source=mypackage.data:open_dataset.

The function gets config.data and returns a mapping of "train", "test" and, if there is one, "validation" to (images,
labels), two arrays, or to anything with `__len__` and `__getitem__`, such as a list, a data set of torch, or a grain
source. Their examples are (image, label) or {"image": ..., "label": ...}. An image is uint8 [H, W, C] or [H, W] of any
size, or a picture of Pillow; a label is a class from 0. The entry "classes" of the mapping names the classes, else the
attribute `classes` of its "train", else their numbers do. `cnn_jax.train(..., data=...)` gets such a mapping itself.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check
from cnn_jax.data import shares
from cnn_jax.data.dataset import PARTS, ArraySource, Dataset, Example, Source
from cnn_jax.data.decode import converted, to_array

GIVEN = "given"  # config.data.source of a run whose data are an argument of `cnn_jax.train`
MOST_READ = 1000  # examples of a part that are compared when a run resumes


@dataclass
class Indexed:
    """Examples of an object with `__len__` and `__getitem__`; indices: which of them."""

    examples: Any
    indices: np.ndarray
    channels: int
    num_classes: int
    given_by: str  # for messages

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [self._example(int(self.indices[index])) for index in indices]

    def name(self, index: int) -> str:
        return f"example {self.indices[index]}"

    def _example(self, index: int) -> Example:
        found = self.examples[index]
        try:
            image, label = (found["image"], found["label"]) if isinstance(found, Mapping) else found
            if isinstance(image, Image.Image):
                image = to_array(converted(image, self.channels))
            image, label = np.asarray(image), int(label)
        except (TypeError, ValueError, KeyError):
            raise UserError(
                f"example {index} of {self.given_by} is a {type(found).__name__}, but must be (image, label) or a "
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


def as_arrays(part: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (images [N, H, W, C], labels [N]) if a part is a pair of such arrays, else None."""
    is_pair = isinstance(part, (tuple, list)) and len(part) == 2 and all(hasattr(array, "shape") for array in part)
    if not is_pair or len(part[0].shape) not in (3, 4) or len(part[1].shape) != 1:
        return None
    images, labels = (np.asarray(array) for array in part)
    return images[..., None] if images.ndim == 3 else images, labels


def channels(data: Mapping[str, Any]) -> int:
    """Returns how many channels the first training image has.

    Raises:
      UserError: there is none.
    """
    train = data.get("train")
    try:
        arrays = as_arrays(train)
        first: Any = arrays[0][0] if arrays else train[0]  # pyright: ignore[reportOptionalSubscript]
        image = first if arrays else first["image"] if isinstance(first, Mapping) else first[0]
        shape = np.asarray(image).shape
        _, _, count = shape if len(shape) == 3 else (*shape, 1)
    except (TypeError, ValueError, KeyError, IndexError):
        raise UserError('data["train"] must be (images [N, H, W, C], labels [N]), or have (image, label)') from None
    return count


def _checked(arrays: tuple[np.ndarray, np.ndarray], config: Any, num_classes: int, where: str) -> ArraySource:
    images, labels = arrays
    check(
        images.dtype == np.uint8 and images.shape[-1] == config.channels,
        f"{where} has images {images.dtype} {list(images.shape)}, but must have uint8 [N, height, width, "
        f"{config.channels}]: config.data.channels is {config.channels}",
    )
    check(
        len(images) == len(labels) and labels.dtype.kind in "iu",
        f"{where} has {len(images):,} images and labels {labels.dtype} {list(labels.shape)}, but must have a whole "
        "number for each image",
    )
    lowest, highest = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    check(
        lowest >= 0 and highest < num_classes,
        f"{where} has labels from {lowest} to {highest}, but they must be from 0 to {num_classes - 1}",
    )
    return ArraySource(images, labels)


def open_parts(
    opened: Any, config: Any, *, given_by: str, description: str, needed: Sequence[str] = ("train", "test")
) -> Dataset:
    """Returns the data set of a mapping of parts; without "validation", the last tenth of "train" is it.

    Args:
      given_by: what gave the mapping, for messages. description: for the header. needed: parts that it must have.

    Raises:
      UserError: it is no such mapping, or its arrays are not images with their classes.
    """
    check(
        isinstance(opened, Mapping) and all(part in opened for part in needed),
        f"{given_by} must be a mapping with {', '.join(needed)}",
    )
    given: dict[str, Any] = {part: opened[part] for part in PARTS if part in opened}
    arrays = {part: found for part, value in given.items() if (found := as_arrays(value)) is not None}
    for part, value in given.items():
        check(
            hasattr(value, "__len__") and hasattr(value, "__getitem__"),
            f"{given_by} has a {type(value).__name__} as its {part}, but that must have __len__ and __getitem__, or be "
            "a pair of arrays (images, labels)",
        )
    classes = opened.get("classes", getattr(given.get("train"), "classes", None)) or range(config.num_classes)
    names = [str(name) for name in classes]
    if not names and len(arrays) == len(given):
        names = [str(k) for k in range(1 + max(int(labels.max()) for _, labels in arrays.values() if len(labels)))]
    check(len(names) > 0, f"{given_by} does not name its classes: give them as its entry 'classes'")
    every = {part: np.arange(len(arrays[part][0] if part in arrays else value)) for part, value in given.items()}
    if "train" in given and "validation" not in given:
        count = len(every["train"])
        every |= {"train": shares.indices(count, 0, 90), "validation": shares.indices(count, 90, 100)}
        description += "; train: train[:90%], validation: train[90%:]"
    parts: dict[str, Source] = {}
    for part in (part for part in PARTS if part in every):
        of = part if part in given else "train"
        if of in arrays:
            source = _checked(arrays[of], config, len(names), f"{of} of {given_by}")
            some = every[part]
            parts[part] = source if len(some) == len(source) else ArraySource(source.images[some], source.labels[some])
        else:
            parts[part] = Indexed(given[of], every[part], config.channels, len(names), given_by)
    return Dataset(config.name, parts, names, description, digest=functools.partial(_digest, parts))


def _digest(parts: Mapping[str, Source]) -> str:
    """Returns a SHA-256 of all arrays, and of examples of other parts: of all, or of `MOST_READ` at equal distances.

    "" where an example is another one whenever it is read: then nothing can be compared.
    """
    whole = hashlib.sha256()
    for part, source in parts.items():
        whole.update(f"{part} {len(source)}\n".encode())
        if isinstance(source, ArraySource):
            whole.update(f"{source.images.shape}\n".encode())
            whole.update(np.ascontiguousarray(source.images).data)
            whole.update(np.ascontiguousarray(source.labels, np.int64).data)
            continue
        for index in np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST_READ)).astype(int)):
            (example,) = source.read([index])
            assert example is not None
            if index == 0 and not np.array_equal(example["image"], source.read([index])[0]["image"]):  # pyright: ignore
                return ""
            whole.update(f"{example['label']} {example['image'].shape}\n".encode())
            whole.update(np.ascontiguousarray(example["image"]).data)
    return whole.hexdigest()


def open_dataset(config: Any, seed: int) -> Dataset:
    """Returns the data that the function named by config.data.source opens.

    Raises:
      UserError: there is no such function, or it does not return the parts.
    """
    opened = imports.load(config.source, field="config.data.source")(config)
    given_by = f"what config.data.source {config.source!r} returns"
    return open_parts(opened, config, given_by=given_by, description=f"data of {config.source}")


def open_given(data: Any, needed: Sequence[str], config: Any, seed: int) -> Dataset:
    """Returns a mapping of parts that a call in Python got as its argument `data`; see `open_parts`."""
    check(
        config.source == GIVEN,
        f"data are given, but config.data.source is {config.source!r}: make the configuration for the data set 'given'",
    )
    return open_parts(data, config, given_by="data", description="data given in Python", needed=needed)


def refuse_given(config: Any, seed: int) -> Dataset:
    """Raises UserError: the data of a run of `cnn_jax.train(..., data=...)` are in no file."""
    raise UserError(
        "config.data.source is 'given', so the data are an argument of cnn_jax.train(..., data=...): call it in "
        "Python. A command takes a function of your own, --config.data.source=mypackage.data:open_dataset"
    )
