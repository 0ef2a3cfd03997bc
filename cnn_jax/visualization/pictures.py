"""The pictures that a trained network is shown: files, folders, test examples of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import check
from cnn_jax.data.decode import is_picture, natural
from cnn_jax.data.splits import Splits
from cnn_jax.pretrained.predictor import Predictor
from cnn_jax.training.config_check import check_config


@dataclass(frozen=True)
class Pictures:
    """Images as the network sees them, uint8 [B, H, W, C], their names, and the names of their classes."""

    images: np.ndarray
    names: list[str]
    classes: list[str]


def check_images(predictor: Predictor) -> None:
    """Raises UserError if the network takes something else than images."""
    axes = {1: "sequences", 3: "clips"}.get(len(predictor.image_size))
    check(axes is None, f"{predictor.source.name} is a network for {axes}: only those for images can be drawn")


def from_files(predictor: Predictor, operands: Sequence[str]) -> Pictures:
    """Returns the pictures in the given files and folders; the class of each is its folder.

    Raises:
      UserError: there is no such file, no picture in a folder, or one cannot be read.
    """
    files: list[Path] = []
    for operand in operands:
        path = Path(operand)
        check(path.exists(), f"there is no picture and no folder {operand!r}")
        found = [path] if path.is_file() else sorted(filter(is_picture, path.rglob("*")), key=natural_path)
        check(bool(found), f"there are no pictures in {operand!r}: none ends in .jpg, .jpeg or .png")
        files += found
    images = predictor.prepare(files)
    return Pictures(images, [file.name for file in files], [file.absolute().parent.name for file in files])


def natural_path(path: Path) -> list[Any]:
    """Returns the key that sorts whole paths in natural order."""
    return [natural(Path(part)) for part in path.parts]


def from_data(predictor: Predictor, config: Any, numbers: Sequence[int] | None, default: int) -> Pictures:
    """Returns test examples of a configuration's data set: those of `numbers`, or the first `default`.

    Raises:
      UserError: the data set is not there or has no images, or no example has that number.
    """
    check_config(config)
    opened = Splits(config.data, config.seed)
    source = opened.parts["test"].source
    if numbers is None:
        numbers = range(min(default, len(source)))
    wrong = [number for number in numbers if not 0 <= number < len(source)]
    check(not wrong, f"--examples: there is no example {wrong and wrong[0]}: the test part has 0 to {len(source) - 1}")
    examples = source.read(list(numbers))
    for number, example in zip(numbers, examples, strict=True):
        check(example is not None, f"example {number} of the test part cannot be read")
    read = [example for example in examples if example is not None]
    images = predictor.prepare([np.asarray(example["image"]) for example in read])
    classes = [opened.class_names[example["label"]] for example in read]
    return Pictures(images, [f"{opened.name} test {number}" for number in numbers], classes)
