"""Data sets of which only the sizes are known: a step can be compiled without an example."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from cnn_jax.core.errors import NotPreparedError, UserError, check
from cnn_jax.data import sources
from cnn_jax.data.dataset import PARTS, Dataset, check_disjoint, fold_of, fold_size
from cnn_jax.data.sources import tfds


@dataclass(frozen=True)
class Published:
    """Sizes of a data set, as its authors give them. splits: by TFDS's names."""

    classes: int
    channels: int
    splits: dict[str, int]
    source: str


_CIFAR = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
SIZES = {
    "mnist": Published(10, 1, {"train": 60_000, "test": 10_000}, "LeCun et al. 1998, Gradient-Based Learning"),
    "fashion_mnist": Published(10, 1, {"train": 60_000, "test": 10_000}, "Xiao et al. 2017, arXiv:1708.07747"),
    "cifar10": Published(10, 3, {"train": 50_000, "test": 10_000}, _CIFAR),
    "cifar100": Published(100, 3, {"train": 50_000, "test": 10_000}, _CIFAR),
    "svhn_cropped": Published(
        *(10, 3, {"train": 73_257, "test": 26_032, "extra": 531_131}),
        "Netzer et al. 2011, Reading Digits in Natural Images",
    ),
    "imagenette": Published(10, 3, {"train": 9_469, "validation": 3_925}, "github.com/fastai/imagenette, version 2"),
    "oxford_flowers102": Published(
        102, 3, {"train": 1_020, "validation": 1_020, "test": 6_149}, "Nilsback and Zisserman 2008"
    ),
    "oxford_iiit_pet": Published(37, 3, {"train": 3_680, "test": 3_669}, "Parkhi et al. 2012, Cats and Dogs"),
    "food101": Published(101, 3, {"train": 75_750, "validation": 25_250}, "Bossard et al. 2014, Food-101"),
    "cars196": Published(196, 3, {"train": 8_144, "test": 8_041}, "Krause et al. 2013, 3D Object Representations"),
    "stl10": Published(10, 3, {"train": 5_000, "test": 8_000, "unlabelled": 100_000}, "Coates et al. 2011"),
    "imagenet2012": Published(
        *(1000, 3, {"train": 1_281_167, "validation": 50_000, "test": 100_000}),
        "Russakovsky et al. 2015, arXiv:1409.0575, table 2",
    ),
}


@dataclass(frozen=True)
class Unread:
    """A part of a data set of which the number of examples is known, and nothing else."""

    count: int
    dataset: str

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int]) -> NoReturn:
        raise UserError(f"{self.dataset!r} cannot be read: only its sizes are known here")


@dataclass(frozen=True)
class Split:
    """What TFDS needs to know of a split to cut it."""

    name: str
    num_examples: int


def open_sizes(config: Any, seed: int = 0) -> Dataset:
    """Returns the sizes of the data set that config.data names, those of `SIZES` where it is there.

    Of any other data set they are counted, so it must be on this machine. Nothing can be read from what is returned.
    Where config.data selects classes, those of `SIZES` count as equally large.

    Raises:
      UserError: see `sources.open_dataset`.
    """
    known = SIZES.get(config.name) if config.source == "tfds" else None
    if known is None:
        found = sources.open_dataset(config, seed)
        unread = {part: Unread(len(source), found.name) for part, source in found.parts.items()}
        return replace(found, parts=unread, sizes_only=True)
    check(
        config.channels in (known.channels, 3),
        f"config.data.channels is {config.channels}, but the images of {config.name!r} have {known.channels}",
    )
    chosen, counts = part_sizes(config, known.splits)
    if config.fold:
        pool = counts["train"] + counts["validation"]
        size = fold_size(pool, *fold_of(config.fold, seed))
        counts |= {"train": pool - size, "validation": size}
    names = [str(i) for i in range(known.classes)]
    if config.classes:
        counts = {part: count * len(config.classes) // known.classes for part, count in counts.items()}
        names = list(config.classes)
    check(
        bool(config.classes) or config.num_classes in (0, known.classes),
        f"config.data.num_classes is {config.num_classes}, but {config.name!r} has {known.classes} classes",
    )
    if config.images_per_class:
        counts["train"] = min(counts["train"], config.images_per_class * len(names))
    return Dataset(
        config.name,
        {part: Unread(count, config.name) for part, count in counts.items()},
        names,
        f"sizes as published ({known.source}); no example is read",
        chosen,
        sizes_only=True,
    )


def open_or_sizes(config: Any, seed: int = 0) -> Dataset:
    """Opens the data set that config.data names or, where it is not prepared here and `SIZES` has it, its sizes.

    Raises:
      UserError: see `sources.open_dataset`.
    """
    try:
        return sources.open_dataset(config, seed)
    except NotPreparedError as error:
        if config.name not in SIZES:
            raise
        found = open_sizes(config, seed)
        way = str(error).splitlines()[-1].strip()
        return replace(found, description=f"not prepared here ({way}); {found.description}")


def part_sizes(config: Any, splits: dict[str, int]) -> tuple[dict[str, str], dict[str, int]]:
    """Returns (what each part is, how many examples it has) where a data set has `splits`.

    Raises:
      UserError: config.data names another split, or two parts share examples.
    """
    infos = {name: Split(name, count) for name, count in splits.items()}
    chosen = tfds.choose_parts(config, infos)
    pieces = {}
    for part, split in chosen.items():
        try:
            pieces[part] = tfds.pieces(split, infos)
        except (ValueError, AssertionError) as error:
            raise UserError(f"config.data.{part} is {split!r}, which TFDS does not read: {error}") from None
    check_disjoint(chosen, pieces)
    return chosen, {part: sum(stop - start for _, start, stop in pieces[part]) for part in PARTS}
