"""What a data set is: parts, each a source of examples by random access.

source.read([i, ...]) -> [{"image": uint8 [H, W, C], "label": int}, ...]

The same holds for sequences [L, C] and clips [T, H, W, C]. An "image" may also be what reads one when its values are
asked for (`decode.Picture`, `decode.Frames`, `arrays.StoredArray`); it then raises UnreadableError if it cannot.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cnn_jax.core.errors import check, check_choice

Example = dict[str, Any]
PARTS = ("train", "validation", "test")
INTERPOLATIONS = ("bilinear", "bicubic")  # Pillow's, antialiased
# Fields of config.data that say what a network sees of an image in a test.
SEEN = ("image_size", "channels", "test_crop", "test_resize", "interpolation")
# Number of axes of an example, besides its channels -> what it is, and what config.data.image_size says.
KINDS = {1: "sequences", 2: "images", 3: "clips"}
AXES = {1: "(length,)", 2: "(height, width)", 3: "(time, height, width)"}
# config.data.source -> that number; None: any.
SOURCES = {
    **{"tfds": 2, "folder": None, "table": 2, "hf": 2, "digits": 2, "xo": 2, "sequences": 1, "moving_digits": 3},
    **{"synthetic": None, "given": 2},
}
# Those of stored pictures, which are decoded when they are read, and may be damaged.
STORED = ("tfds", "folder", "table", "hf")
FILES = ("folder", "table")  # those that config.data.dir names
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
    sizes_only: bool = False  # no example can be read
    digest: Callable[[], str] = str  # of what is stored, the same for a copy elsewhere; "": not known


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


def check_num_images(config: Any) -> None:
    """Raises UserError unless config.data.num_images has a size for each part."""
    check(
        len(config.num_images) == len(PARTS) and min(config.num_images) > 0,
        f"config.data.num_images is {config.num_images}, but must have three sizes: train, validation, test",
    )


# ---------------------------------------------------------------- sources of sources


@dataclass
class ArraySource:
    """Examples from arrays in memory."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int [N]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [{"image": self.images[i], "label": int(self.labels[i])} for i in indices]


@dataclass
class Concatenated:
    """Two sources, one after the other."""

    first: Source
    second: Source

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, indices: Sequence[int]) -> list[Example | None]:
        border = len(self.first)
        first = iter(self.first.read([i for i in indices if i < border]))
        second = iter(self.second.read([i - border for i in indices if i >= border]))
        return [next(first if i < border else second) for i in indices]

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([labels_of(self.first), labels_of(self.second)])

    def name(self, index: int) -> str:
        border = len(self.first)
        return name(self.first, index) if index < border else name(self.second, index - border)


@dataclass
class Subset:
    """Some examples of a source, with labels of their own."""

    source: Source
    indices: np.ndarray  # int [N]
    labels: np.ndarray  # int [N]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> list[Example | None]:
        found = self.source.read([int(self.indices[i]) for i in indices])
        return [
            None if example is None else example | {"label": int(self.labels[i])}
            for example, i in zip(found, indices, strict=True)
        ]

    def name(self, index: int) -> str:
        return name(self.source, int(self.indices[index]))


@dataclass
class Relabeled:
    """A source whose labels are numbered in another way."""

    source: Source
    new_label: np.ndarray  # int [K], of each old label

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> list[Example | None]:
        return [
            None if example is None else example | {"label": int(self.new_label[example["label"]])}
            for example in self.source.read(indices)
        ]

    @property
    def labels(self) -> np.ndarray:
        labels = labels_of(self.source)
        return np.where(labels < 0, -1, self.new_label[labels])

    def name(self, index: int) -> str:
        return name(self.source, index)


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all examples, int [N]; -1 of one that cannot be read."""
    known = getattr(source, "labels", None)
    if known is not None:
        return np.asarray(known)
    blocks = [source.read(range(start, min(start + 1024, len(source)))) for start in range(0, len(source), 1024)]
    return np.array([-1 if example is None else example["label"] for block in blocks for example in block], np.int64)


def fold_of(text: str, seed: int) -> tuple[int, int]:
    """Returns (which fold, from 0, of how many) config.data.fold names."""
    number, _, count = text.partition("/")
    return (seed % int(count) if number == "seed" else int(number) - 1), int(count)


def fold_size(examples: int, number: int, count: int) -> int:
    """Returns how many of so many examples are in a fold."""
    return len(range(number, examples, count))


def with_fold(dataset: Dataset, config: Any, seed: int) -> Dataset:
    """Returns a data set whose validation part is the fold that config.data.fold names; the other folds train.

    The folds are cut from the training and validation parts together, in a fixed random order within each class: a
    class has as many examples in each fold as in any other, or one more (Kohavi 1995).
    """
    if not config.fold:
        return dataset
    number, count = fold_of(config.fold, seed)
    pool = Concatenated(dataset.parts["train"], dataset.parts["validation"])
    labels = labels_of(pool)
    shuffled = np.random.Generator(np.random.Philox(key=[2012, 1])).permutation(len(pool))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = [np.sort(by_class[i::count]) for i in range(count)]
    others = np.sort(np.concatenate([fold for i, fold in enumerate(folds) if i != number]))
    parts = {
        "train": Subset(pool, others, labels[others]),
        "validation": Subset(pool, folds[number], labels[folds[number]]),
    }
    return replace(
        dataset,
        parts=dict(dataset.parts) | parts,
        description=f"{dataset.description}; fold {number + 1} of {count} of train and validation validates",
    )


def select_classes(dataset: Dataset, config: Any, seed: int) -> Dataset:
    """Returns what config.data.classes and images_per_class leave of a data set.

    Raises:
      UserError: no such class, fewer than two, or a class with fewer examples than are asked for.
    """
    if not config.classes and not config.images_per_class:
        return dataset
    names = list(config.classes or dataset.class_names)
    for wanted in names:
        check_choice("config.data.classes has a class that", wanted, dataset.class_names)
    check(
        len(set(names)) == len(names) >= 2,
        f"config.data.classes is {tuple(names)}, but must name at least two classes, none of them twice",
    )
    new_label = np.array([names.index(old) if old in names else -1 for old in dataset.class_names] + [-1])
    parts: dict[str, Source] = {}
    for part, source in dataset.parts.items():
        labels = new_label[labels_of(source)]  # the last entry is that of -1
        chosen = np.flatnonzero(labels >= 0)
        if part == "train" and config.images_per_class:
            order = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, 2])).permutation(chosen)
            few = [order[labels[order] == label][: config.images_per_class] for label in range(len(names))]
            fewest = min(range(len(names)), key=lambda label: len(few[label]))
            check(
                len(few[fewest]) == config.images_per_class,
                f"config.data.images_per_class is {config.images_per_class}, but class {names[fewest]!r} has "
                f"{len(few[fewest])} in the train part",
            )
            chosen = np.sort(np.concatenate(few))
        parts[part] = Subset(source, chosen, labels[chosen])
    return replace(dataset, parts=parts, class_names=names)
