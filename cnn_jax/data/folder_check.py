"""Reads every picture of a folder of class folders, and says what is there and what is wrong."""

import concurrent.futures
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cnn_jax.core.errors import UserError, check
from cnn_jax.data.decode import Picture, UnreadableError
from cnn_jax.data.shares import NAMES
from cnn_jax.data.sources.folder import list_classes

PARTS = [name for names in NAMES.values() for name in names]  # a folder of one of these names is a part, not a class


@dataclass(frozen=True)
class ClassReport:
    """A class of a part. smallest, largest: (height, width) by area of the pictures that can be read."""

    part: str
    name: str
    pictures: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None


@dataclass
class FolderReport:
    """What is there. wrong: what training would refuse or measure wrongly. notes: what only looks unusual."""

    classes: list[ClassReport] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect(root: Path, progress: Callable[[int], None] = lambda pictures: None) -> FolderReport:
    """Reads the pictures in DIR/PART/CLASS/... or DIR/CLASS/....

    Wrong are pictures that cannot be read, empty class folders, classes that the train part lacks, links that lead
    nowhere, and equal files in two parts. Notes name equal files in one part, names that two parts share, classes
    that a part lacks, and files of other kinds.

    Args:
      progress: is called with 1 for each picture that was read.

    Raises:
      UserError: there is no folder, or nothing in it.
    """
    check(root.is_dir(), f"there is no folder {str(root)!r}")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    check(bool(folders), f"{root} has no folders: DIR/PART/CLASS/... or DIR/CLASS/... is expected")
    parts = sorted(folders, key=lambda name: (name != "train", name)) if set(folders) & set(PARTS) else [""]
    report, classes = FolderReport(), None
    seen: dict[str, list[Path]] = defaultdict(list)  # hash -> files
    names: dict[str, set[str]] = defaultdict(set)  # CLASS/NAME -> parts
    for part in parts:
        try:
            listing = list_classes(root / part, classes)
        except UserError as error:
            report.wrong.append(str(error))
            continue
        classes = classes or listing.class_names
        if listing.others:
            report.notes.append(f"{root / part}: files of other kinds, which are not used: {listing.others:,}")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda file: _read(file, progress), listing.files))
        sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in listing.class_names}
        counts = dict.fromkeys(listing.class_names, 0)
        for file, label, one in zip(listing.files, listing.labels, found, strict=True):
            name = listing.class_names[label]
            counts[name] += 1
            if isinstance(one, UnreadableError):
                report.wrong.append(str(one))
                continue
            digest, size = one
            sizes[name].append(size)
            seen[digest].append(file)
            names[f"{name}/{file.name}"].add(part)
        for name, count in counts.items():
            by_area = sorted(sizes[name], key=lambda size: size[0] * size[1])
            smallest, largest = (by_area[0], by_area[-1]) if by_area else (None, None)
            if not count:
                report.notes.append(f"{root / part} has no pictures of {name}")
            report.classes.append(ClassReport(part or "all", name, count, smallest, largest))
    _compare(report, root, seen, names, parts)
    return report


def _read(file: Path, progress: Callable[[int], None]) -> tuple[str, tuple[int, int]] | UnreadableError:
    """Returns (hash, (height, width)) of a picture, or why it cannot be read."""
    try:
        picture = Picture(file, 3)
        height, width, _ = picture.shape
        _ = picture.pixels
        return hashlib.sha256(file.read_bytes()).hexdigest(), (height, width)
    except UnreadableError as error:
        return error
    finally:
        progress(1)


def _compare(
    report: FolderReport, root: Path, seen: dict[str, list[Path]], names: dict[str, set[str]], parts: list[str]
) -> None:
    """Adds files that are there more than once to a report, and names that parts share."""

    def part_of(file: Path) -> str:
        return file.relative_to(root).parts[0] if parts != [""] else ""

    for files in seen.values():
        if len(files) > 1:
            across = len({part_of(file) for file in files}) > 1
            where = " and ".join(str(file.relative_to(root)) for file in files[:3])
            note = f"{where} are the same picture" + (", in two parts" if across else "")
            (report.wrong if across else report.notes).append(note)
    shared = sorted(name for name, among in names.items() if len(among) > 1)
    if shared:
        report.notes.append(f"names in more than one part: {len(shared):,}, such as {shared[0]}")
