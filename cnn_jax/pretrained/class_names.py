"""Words for classes: those of ImageNet, where weights or data sets have numbers only."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

FILE = Path(__file__).with_name("imagenet_classes.txt")  # with its source and license


@functools.cache
def imagenet() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1,000 classes, in the order of their WordNet numbers."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def words(classes: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns what to call the classes of a network.

    1,000 classes without names, and 1,000 that are WordNet numbers in their order (n01440764, ...), get ImageNet's
    names; others without names get their numbers, from 0.
    """
    if is_imagenet(classes, num_classes):
        return list(imagenet())
    return [str(i) for i in range(num_classes)] if classes is None else list(classes)


def is_imagenet(classes: Sequence[str] | None, num_classes: int) -> bool:
    """Returns whether the classes of a network are taken for ImageNet's, see `words`."""
    if num_classes != len(imagenet()):
        return False
    if classes is None:
        return True
    return all(re.fullmatch(r"n\d{8}", name) for name in classes) and list(classes) == sorted(set(classes))
