"""What a data set is: parts, each a source of examples by random access.

source.read([i, ...]) -> [{"image": uint8 [H, W, C], "label": int}, ...]

The same holds for sequences [L, C] and clips [T, H, W, C]. An "image" may also be what reads one when its values are
asked for (`images.Picture`, `images.Frames`, `arrays.StoredArray`); it then raises UnreadableError if it cannot.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cnn_jax.core.errors import check

Example = dict[str, Any]
PARTS = ("train", "validation", "test")
# Number of axes of an example, beside its channels -> what it is, and what config.data.image_size says.
KINDS = {1: "sequences", 2: "images", 3: "clips"}
AXES = {1: "(length,)", 2: "(height, width)", 3: "(time, height, width)"}
# config.data.source -> that number; None: any.
SOURCES = {"tfds": 2, "folder": None, "digits": 2, "xo": 2, "sequences": 1, "moving_digits": 3, "synthetic": None}
# config.data.source -> the fields that say how far its examples vary.
VARIATIONS = {
    "xo": ("noise", "shift", "rotation", "scale", "thickness"),
    "sequences": ("noise", "drift"),
    "moving_digits": ("noise",),
}


class Source(Protocol):
    """Examples by random access; None is one that cannot be read and is skipped.

    A source whose examples have names for messages, such as files, has `name(index)`, too.
    """

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Sequence[Example | None]: ...


@dataclass
class Dataset:
    """The parts of a data set and the names of its classes."""

    name: str  # with its version, if it has one
    parts: Mapping[str, Source]
    class_names: list[str]
    description: str
    chosen: Mapping[str, str] = field(default_factory=dict)  # part -> what it is, where config.data leaves it open


def name(source: Source, index: int) -> str:
    """Returns what a message calls an example: its file, where it has one."""
    named = getattr(source, "name", None)
    return f"example {index}" if named is None else named(index)


def check_disjoint(written: Mapping[str, str], ranges: Mapping[str, Sequence[tuple[str, int, int]]]) -> None:
    """Raises UserError if two parts share examples.

    Args:
      written: part -> its text in config.data. ranges: part -> what it has: (name, from, to), without the last.
    """
    for one, other in itertools.combinations(ranges, 2):
        for (a, start, stop), (b, other_start, other_stop) in itertools.product(ranges[one], ranges[other]):
            check(
                a != b or stop <= other_start or other_stop <= start,
                f"config.data.{one} {written[one]!r} and config.data.{other} {written[other]!r} share examples: the "
                "parts must be disjoint (to train on both, set config.data.train_on=train+validation)",
            )
