"""Where examples come from; see `dataset.Source` for what a source is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import check, check_choice
from cnn_jax.data import generated, tfds
from cnn_jax.data.arrays import SUFFIX, StoredArray
from cnn_jax.data.dataset import KINDS, PARTS, Dataset, Example, Source, name
from cnn_jax.data.folder import list_parts
from cnn_jax.data.images import Frames, Picture


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
class NoiseSource:
    """Noise images with random labels: example i depends on (seed, i) only."""

    num_images: int
    shape: tuple[int, ...]
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return self.num_images

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [self._example(i) for i in indices]

    def _example(self, index: int) -> Example:
        random = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        image = random.integers(0, 256, self.shape, np.uint8)
        return {"image": image, "label": int(random.integers(self.num_classes))}


@dataclass
class FolderSource:
    """Examples in files, which are opened when their values are asked for."""

    files: Sequence[Path]
    labels: np.ndarray  # int [N]
    channels: int
    axes: int  # beside the channels

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [{"image": self._open(self.files[i]), "label": int(self.labels[i])} for i in indices]

    def name(self, index: int) -> str:
        return str(self.files[index])

    def _open(self, file: Path) -> Picture | Frames | StoredArray:
        if self.axes != 2 and file.suffix == SUFFIX:
            return StoredArray(file, self.channels, self.axes)
        return (Picture if self.axes == 2 else Frames)(file, self.channels)


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


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all examples, int [N]; -1 of one that cannot be read."""
    known = getattr(source, "labels", None)
    if known is not None:
        return np.asarray(known)
    blocks = [source.read(range(start, min(start + 1024, len(source)))) for start in range(0, len(source), 1024)]
    return np.array([-1 if example is None else example["label"] for block in blocks for example in block], np.int64)


def choose(dataset: Dataset, config: Any, seed: int) -> Dataset:
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


def load(config: Any, seed: int = 0) -> Dataset:
    """Opens the parts of the data set that config.data names.

    Args:
      seed: of synthetic images, and of config.data.images_per_class.

    Raises:
      UserError: the data set is not there (the message says how to get it), or does not have the classes or channels
        that the configuration says.
    """
    openers = {"tfds": tfds.open_dataset, "digits": _digits, "synthetic": _synthetic, "folder": _folder}
    dataset = choose(openers.get(config.source, _generated)(config, seed), config, seed)
    for part, source in dataset.parts.items():
        check(len(source) > 0, f"the {part} part of {config.name!r} is empty: check config.data.{part}")
    check(
        bool(config.classes) or config.num_classes in (0, len(dataset.class_names)),
        f"config.data.num_classes is {config.num_classes}, but {config.name!r} has {len(dataset.class_names)} classes",
    )
    if config.source not in ("folder", "tfds"):  # those are checked when they are opened, or when they are read
        (first,) = dataset.parts["train"].read([0])
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


def _digits(config: Any, seed: int) -> Dataset:
    arrays = _scans(config)
    parts = {part: ArraySource(*arrays[part]) for part in PARTS}
    return Dataset("digits", parts, [str(digit) for digit in range(10)], "scikit-learn's handwritten digits")


def _scans(config: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {part: (images uint8 [N, 8, 8, 1], labels int [N])} of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    images = images.repeat(3, axis=-1) if config.channels == 3 else images  # grey, for a network of colour pictures
    # A fixed shuffle, so that every part has every class; the split does not depend on the run's seed.
    order = np.random.Generator(np.random.Philox(key=[1797, 0])).permutation(len(images))
    images, labels = images[order], bunch.target[order]
    written = [config[part] for part in PARTS]
    shares = [float(share[:-1]) / 100 for share in written if re.fullmatch(r"\d+(\.\d+)?%", share)]
    check(
        len(shares) == len(PARTS) and min(shares) > 0 and abs(sum(shares) - 1) < 1e-9,
        f"config.data.train, validation and test are {written}, but of the digits they must be shares above zero "
        "that add up to 100%, such as 70%, 10%, 20%",
    )
    ends = [0, *(round(len(images) * share) for share in np.cumsum(shares))]
    return {
        part: (images[start:end], labels[start:end])
        for part, start, end in zip(PARTS, ends[:-1], ends[1:], strict=True)
    }


def _check_num_images(config: Any) -> None:
    check(
        len(config.num_images) == len(PARTS) and min(config.num_images) > 0,
        f"config.data.num_images is {config.num_images}, but must have three sizes: train, validation, test",
    )


def _generated(config: Any, seed: int) -> Dataset:
    _check_num_images(config)
    generated.check_size(config)
    names = generated.class_names(config)
    scans = _scans(config) if config.source == "moving_digits" else {}
    parts = {
        part: generated.Drawn(config, part, len(names), size, scans.get(part))
        for part, size in zip(PARTS, config.num_images, strict=True)
    }
    return Dataset(config.source, parts, names, generated.DESCRIPTIONS[config.source])


def _synthetic(config: Any, seed: int) -> Dataset:
    _check_num_images(config)
    shape = (*config.image_size, config.channels)
    parts = {
        part: NoiseSource(size, shape, config.num_classes, seed * len(PARTS) + i)
        for i, (part, size) in enumerate(zip(PARTS, config.num_images, strict=True))
    }
    names = [str(i) for i in range(config.num_classes)]
    return Dataset("synthetic", parts, names, "noise with random labels: nothing can be learnt from it")


def _folder(config: Any, seed: int) -> Dataset:
    listings, others = list_parts(config, PARTS)
    axes = len(config.image_size)
    parts = {part: FolderSource(one.files, one.labels, config.channels, axes) for part, one in listings.items()}
    names = listings["train"].class_names
    left_out = f"; {others:,} files of other kinds are left out" if others else ""
    return Dataset(f"folder {Path(config.dir).name}", parts, names, f"{KINDS[axes]} in {config.dir}{left_out}")
