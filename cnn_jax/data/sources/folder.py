"""Folders of examples, one folder for each class, with or without folders for the parts:

DIR/train/ants/a.jpg, DIR/val/ants/b.jpg     the parts are named by their folders
DIR/ants/a.jpg                               the parts are shares of all examples

An image is a picture. A clip is a folder of pictures, its frames, or an array in a .npy file: DIR/train/ants/a/1.jpg
or DIR/train/ants/a.npy. A sequence is an array: DIR/train/ants/a.npy.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check, check_folder, near
from cnn_jax.data import arrays
from cnn_jax.data.arrays import SUFFIX, StoredArray
from cnn_jax.data.dataset import KINDS, PARTS, Dataset, Example, check_disjoint
from cnn_jax.data.decode import SUFFIXES, Frames, Picture, is_picture

IGNORED = {"Thumbs.db", "desktop.ini"}  # beside names that begin with a dot
# Number of axes of an example, beside its channels -> how its files end.
ENDINGS = {
    1: arrays.SUFFIX,
    2: ", ".join(SUFFIXES),
    3: f"folders of {', '.join(SUFFIXES)}, or {arrays.SUFFIX}",
}


@dataclass(frozen=True)
class Listing:
    """The examples in a folder of class folders: sorted paths, and which class each has."""

    files: list[Path]
    labels: np.ndarray  # int32 [N]
    class_names: list[str]
    others: int  # files of other kinds, which are left out


def list_classes(root: Path, folder: Path, class_names: list[str] | None = None, axes: int = 2) -> Listing:
    """Returns the examples in the class folders of `folder`; sub-folders of a class count as the class.

    Args:
      root: of the data set: links must not leave it. class_names: the classes that there may be; None: any.
      axes: 1 for sequences, 2 for images, 3 for clips.

    Raises:
      UserError: there is no class folder, one is empty, one is of no class of `class_names`, a link leaves `root`, or
        pictures lie in a class folder of clips.
    """
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for place in (folder, *(folder / name for name in found)):
        _check_inside(place, root)
    check(bool(found), f"{folder} has no class folders: put the {KINDS[axes]} of each class in a folder of its own")
    names = class_names or found
    for name in found:
        check(name in names, f"{folder / name} is of no class of the train part{near(name, names)}")
    files: list[Path] = []
    labels: list[int] = []
    others = 0
    for name in found:
        before = len(files)
        for place, folders, entries in os.walk(folder / name):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = []
            for entry in sorted([*entries, *(f for f in folders if (Path(place) / f).is_symlink())]):
                path = Path(place) / entry
                if entry.startswith(".") or entry in IGNORED:
                    continue
                if path.is_symlink():
                    _check_inside(path, root)
                    check(path.is_file(), f"{path} is a link to {os.path.realpath(path)}, which is no file")
                paths.append(path)
            examples = [path for path in paths if (is_picture(path) if axes == 2 else path.suffix == arrays.SUFFIX)]
            frames = [path for path in paths if is_picture(path)] if axes == 3 else []
            if frames:
                check(
                    Path(place) != folder / name,
                    f"{frames[0]} lies in the folder of a class: put the frames of each clip in a folder of their own",
                )
                examples.append(Path(place))
            others += len(paths) - len(examples) - max(0, len(frames) - 1)
            files += sorted(examples)
            labels += [names.index(name)] * len(examples)
        check(
            len(files) > before,
            f"the class folder {folder / name} has no {KINDS[axes]} ({ENDINGS[axes]}): fill it or remove it",
        )
    return Listing(files, np.array(labels, np.int32), names, others)


def _check_inside(path: Path, root: Path) -> None:
    """Raises UserError if a path leads out of the data set."""
    target = Path(os.path.realpath(path))
    check(
        target.is_relative_to(os.path.realpath(root)),
        f"{path} is a link to {target}: links must lead to files inside of {root}",
    )


SPLIT = re.compile(r"(?P<folder>[^\[\]%]*?)(?:\[(?:(?P<start>\d+)%)?:(?:(?P<stop>\d+)%)?\])?")


def list_parts(config: Any, names: tuple[str, ...]) -> tuple[dict[str, Listing], int]:
    """Returns the examples of each part of config.data, and how many files of other kinds lie beside them.

    A part is "FOLDER", "FOLDER[:90%]" or "FOLDER[90%:]" where the parts have folders, else shares that add up to
    100%. Shares are taken in one fixed random order, which depends on their number only.

    Raises:
      UserError: config.data.dir is no folder, a part is none of these, parts overlap, or see `list_classes`.
    """
    root, axes = Path(config.dir).expanduser(), len(config.image_size)
    check_folder("config.data.dir", config.dir)
    check(bool(config.dir), f"name the folder of {KINDS[axes]}: --config.data.dir=FOLDER")
    check(root.is_dir(), f"config.data.dir is {str(root)!r}, but there is no such folder")
    written = {part: config[part].strip() for part in names}
    if all(re.fullmatch(r"\d+%", text) for text in written.values()):
        shares = [int(text[:-1]) for text in written.values()]
        check(sum(shares) == 100, f"config.data has the shares {', '.join(written.values())}: they must add up to 100%")
        ends = np.cumsum([0, *shares])
        ranges = {part: ("", ends[i], ends[i + 1]) for i, part in enumerate(names)}
    else:
        ranges = {part: _range(root, part, text) for part, text in written.items()}
    check_disjoint(written, {part: [one] for part, one in ranges.items()})
    listings: dict[str, Listing] = {}
    classes: list[str] | None = None
    found = {}
    for part, (folder, start, stop) in ranges.items():
        if folder not in listings:
            listings[folder] = list_classes(root, root / folder, classes, axes)
            classes = classes or listings[folder].class_names
        found[part] = _share(listings[folder], start, stop)
    return found, sum(listing.others for listing in listings.values())


def _range(root: Path, part: str, text: str) -> tuple[str, int, int]:
    """Returns (folder, from %, to %) of a part."""
    match = SPLIT.fullmatch(text)
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    if match is None or not match["folder"] or not (root / match["folder"]).is_dir():
        near_name = near(match["folder"], folders) if match else ""
        raise UserError(
            f"config.data.{part} is {text!r}, but must name a folder in {root} ({', '.join(folders[:8])}), or a share "
            f"of one, such as 'train[:90%]'{near_name}. Where {root} has class folders only, give shares: "
            "--config.data.train=70% --config.data.validation=10% --config.data.test=20%"
        )
    start, stop = int(match["start"] or 0), int(match["stop"] or 100)
    check(0 <= start < stop <= 100, f"config.data.{part} is {text!r}, but must be from a lower to a higher share")
    return os.path.normpath(match["folder"]), start, stop


def _share(listing: Listing, start: int, stop: int) -> Listing:
    if (start, stop) == (0, 100):
        return listing
    count = len(listing.files)
    order = np.random.Generator(np.random.Philox(key=[2012, 0])).permutation(count)
    chosen = np.sort(order[round(count * start / 100) : round(count * stop / 100)])
    return Listing([listing.files[i] for i in chosen], listing.labels[chosen], listing.class_names, listing.others)


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


def open_dataset(config: Any, seed: int) -> Dataset:
    listings, others = list_parts(config, PARTS)
    axes = len(config.image_size)
    parts = {part: FolderSource(one.files, one.labels, config.channels, axes) for part, one in listings.items()}
    names = listings["train"].class_names
    left_out = f"; {others:,} files of other kinds are left out" if others else ""
    return Dataset(f"folder {Path(config.dir).name}", parts, names, f"{KINDS[axes]} in {config.dir}{left_out}")
