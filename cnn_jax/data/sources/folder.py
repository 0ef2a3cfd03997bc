"""Folders of examples, one folder for each class, with or without folders for the parts:

DIR/train/ants/a.jpg, DIR/val/ants/b.jpg     the parts are named by their folders
DIR/ants/a.jpg                               the parts are shares of all examples

An image is a picture. A clip is a folder of pictures, its frames, or an array in a .npy file: DIR/train/ants/a/1.jpg
or DIR/train/ants/a.npy. A sequence is an array: DIR/train/ants/a.npy.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import StorageError, UserError, check, check_folder, near
from cnn_jax.core.files import cache_folder, expanded, make_folder, read_json, walk, write_text
from cnn_jax.data import arrays, shares
from cnn_jax.data.arrays import SUFFIX, StoredArray
from cnn_jax.data.dataset import KINDS, PARTS, Dataset, Example, check_disjoint
from cnn_jax.data.decode import SUFFIXES, Frames, Picture, UnreadableError, is_picture, opened

IGNORED = {"Thumbs.db", "desktop.ini"}  # besides names that begin with a dot
# Number of axes of an example, besides its channels -> how its files end.
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


def list_classes(folder: Path, class_names: list[str] | None = None, axes: int = 2) -> Listing:
    """Returns the examples in the class folders of `folder`; sub-folders of a class count as the class.

    Links are followed (`files.walk`). Classes are called by the NFC form of the names of their folders.

    Args:
      class_names: the classes that there may be; None: any. axes: 1 for sequences, 2 for images, 3 for clips.

    Raises:
      UserError: there is no class folder, one is empty, one is of no class of `class_names`, a link leads nowhere, or
        pictures lie in a class folder of clips.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        name = unicodedata.normalize("NFC", path.name)
        check(name not in found, f"{folder} has two folders {name!r}, which differ in their Unicode normal form only")
        found[name] = path
    check(bool(found), f"{folder} has no class folders: put the {KINDS[axes]} of each class in a folder of its own")
    names = class_names or list(found)
    for name, path in found.items():
        check(name in names, f"{path} is of no class of the train part{near(name, names)}")
    files: list[Path] = []
    labels: list[int] = []
    others = 0
    for name, root in found.items():
        before = len(files)
        for place, _, entries in walk(root):
            paths = [place / entry for entry in entries if not entry.startswith(".") and entry not in IGNORED]
            examples = [path for path in paths if (is_picture(path) if axes == 2 else path.suffix == arrays.SUFFIX)]
            frames = [path for path in paths if is_picture(path)] if axes == 3 else []
            for path in (*examples, *frames):
                check(
                    path.exists() or not path.is_symlink(),
                    f"{path} is a link to {os.path.realpath(path)}, which is not there",
                )
            if frames:
                check(
                    place != root,
                    f"{frames[0]} lies in the folder of a class: put the frames of each clip in a folder of their own",
                )
                examples.append(place)
            others += len(paths) - len(examples) - max(0, len(frames) - 1)
            files += sorted(examples)
            labels += [names.index(name)] * len(examples)
        check(
            len(files) > before,
            f"the class folder {root} has no {KINDS[axes]} ({ENDINGS[axes]}): fill it or remove it",
        )
    return Listing(files, np.array(labels, np.int32), names, others)


def list_parts(config: Any, names: tuple[str, ...]) -> tuple[dict[str, Listing], dict[str, str], int]:
    """Returns the examples of each part, what the parts are, and how many files of other kinds lie next to them.

    In config.data a part is "FOLDER", "FOLDER[:90%]" or "FOLDER[90%:]" where the parts have folders, else shares that
    add up to 100%. Shares are taken in one fixed random order, which depends on their number only.

    Raises:
      UserError: config.data.dir is not a folder, a part is not one of these, parts overlap, or see `list_classes`.
    """
    root, axes = expanded(config.dir), len(config.image_size)
    check_folder("config.data.dir", config.dir)
    check(bool(config.dir), f"name the folder of {KINDS[axes]}: --config.data.dir=FOLDER")
    check(root.is_dir(), f"config.data.dir is {str(root)!r}, but there is no such folder")
    written = _choose_parts(root, {part: config[part].strip() for part in names})
    ranges = shares.all_shares(written) or {part: _range(root, part, text) for part, text in written.items()}
    check_disjoint(written, {part: [one] for part, one in ranges.items()})
    listings: dict[str, Listing] = {}
    classes: list[str] | None = None
    found = {}
    for part, (folder, start, stop) in ranges.items():
        if folder not in listings:
            listings[folder] = list_classes(root / folder, classes, axes)
            classes = classes or listings[folder].class_names
        found[part] = _share(listings[folder], start, stop)
    return found, written, sum(listing.others for listing in listings.values())


def has_parts(root: Path) -> bool:
    """Returns whether a folder has one that is called as a part is, such as train, next to or instead of classes."""
    return any((root / name).is_dir() for names in shares.NAMES.values() for name in names)


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _choose_parts(root: Path, written: dict[str, str]) -> dict[str, str]:
    """Returns `shares.choose` for the names of the folders; raises UserError if a part has none."""
    folders = _folders(root)
    chosen = shares.choose(written, folders)
    if chosen is None:
        raise UserError(
            f"{root} has no folders train and val or test, but {', '.join(folders[:8])}. If these are the classes, say "
            f"how to split them: {shares.GIVE_SHARES}"
        )
    return chosen


def _range(root: Path, part: str, text: str) -> tuple[str, int, int]:
    """Returns (folder, from %, to %) of a part."""
    found = shares.parse(part, text)
    if found is None or not (root / found[0]).is_dir():
        folders = _folders(root)
        raise UserError(
            f"config.data.{part} is {text!r}, but must name a folder in {root} ({', '.join(folders[:8])}), or a share "
            f"of one, such as 'train[:90%]'{near(found[0], folders) if found else ''}. Where {root} has class folders "
            f"only, give shares: {shares.GIVE_SHARES}"
        )
    return os.path.normpath(found[0]), *found[1:]


def _share(listing: Listing, start: int, stop: int) -> Listing:
    chosen = shares.indices(len(listing.files), start, stop)
    return Listing([listing.files[i] for i in chosen], listing.labels[chosen], listing.class_names, listing.others)


@dataclass
class FolderSource:
    """Examples in files, which are opened when their values are asked for."""

    files: Sequence[Path]
    labels: np.ndarray  # int [N]
    channels: int
    axes: int  # besides the channels

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
    listings, chosen, others = list_parts(config, PARTS)
    axes, root = len(config.image_size), expanded(config.dir)
    parts = {part: FolderSource(one.files, one.labels, config.channels, axes) for part, one in listings.items()}
    description = [f"{KINDS[axes]} in {config.dir}", ", ".join(f"{part}: {text}" for part, text in chosen.items())]
    if others:
        description.append(f"{others:,} files of other kinds are left out")
    used = {Path(text.split("[")[0]).parts[:1] for text in chosen.values()}
    unused = [name for name in _folders(root) if (name,) not in used]
    if unused and not any(text.endswith("%") for text in chosen.values()):
        description.append(f"folders that are left out: {', '.join(unused)}")
    return Dataset(
        "folder",
        parts,
        listings["train"].class_names,
        "; ".join(description),
        chosen,
        digest=functools.partial(digest, root, [file for one in listings.values() for file in one.files]),
    )


# ---------------------------------------------------------------- what is read

MOST_READ = 16 * 2**30  # bytes of files whose content is compared; beyond, their names and sizes are
CACHE = "files"  # next to the compiled programs: the digests of files, by their time


def digest(root: Path, examples: Sequence[Path], names: Mapping[Path, str] | None = None) -> str:
    """Returns a SHA-256 of what files hold: of their names, sizes and contents.

    A copy of them in another folder has the same. Contents are read once, by several threads, and again where the time
    of a file has changed.

    Args:
      names: of the files; None: their paths below `root`.
    """
    found = sorted(
        {path for one in examples for path in (filter(is_picture, one.iterdir()) if one.is_dir() else (one,))}
    )
    status = {path: path.stat() for path in found}
    whole = hashlib.sha256()
    if sum(one.st_size for one in status.values()) > MOST_READ:
        contents = dict.fromkeys(found, "")
    else:
        contents = _contents(root, status)
    for path in found:
        name = os.fsencode(path.relative_to(root).as_posix() if names is None else names[path])
        whole.update(b"%s\0%d\0%s\n" % (name, status[path].st_size, contents[path].encode()))
    return whole.hexdigest()


def _contents(root: Path, status: dict[Path, os.stat_result]) -> dict[Path, str]:
    """Returns the SHA-256 of each file."""
    cache = cache_folder() / CACHE / f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.json"
    known: dict[str, Any] = {}
    if cache.is_file():
        with contextlib.suppress(UserError):
            known = dict(read_json(cache))
    stamps = {path: [one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino] for path, one in status.items()}

    def content(path: Path) -> str:
        stored = known.get(str(path))
        if isinstance(stored, list) and stored[:-1] == stamps[path] and isinstance(stored[-1], str):
            return stored[-1]
        try:
            with opened(path) as (file, _):
                return hashlib.file_digest(file, "sha256").hexdigest()
        except UnreadableError:  # it is reported where it is read, or skipped
            return "-"

    with concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as threads:
        found = dict(zip(status, threads.map(content, status), strict=True))
    with contextlib.suppress(OSError, StorageError):  # it saves time only
        make_folder(cache.parent)
        write_text(cache, json.dumps({str(path): [*stamps[path], found[path]] for path in found}))
    return found
