"""From the words of a command line to examples: files, folders of them, patterns such as 'photos/**/*.jpg'."""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.core.errors import check, near
from cnn_jax.core.files import expanded, walk
from cnn_jax.data.arrays import SUFFIX
from cnn_jax.data.dataset import KINDS
from cnn_jax.data.decode import is_picture, natural
from cnn_jax.data.sources.folder import ENDINGS, IGNORED


@dataclass(frozen=True)
class Found:
    """An example: a file, or a folder of frames. group: the folder below the one that was named, or ""."""

    file: Path
    group: str = ""


@dataclass(frozen=True)
class Examples:
    """What words name. left_out: other files, such as notes.txt."""

    found: list[Found]
    left_out: list[Path]

    @property
    def note(self) -> str:
        """What is left out, in words; "" if nothing is."""
        if not self.left_out:
            return ""
        count, names = len(self.left_out), ", ".join(path.name for path in self.left_out[:3])
        return f"left out: {count:,} file{'s' if count > 1 else ''} of other kinds ({names}{', ...' * (count > 3)})"


def find(words: Sequence[str], axes: int = 2) -> Examples:
    """Returns the examples that `words` name, in their order and each once; those of a folder in natural order.

    A file counts whatever its name; of folders and patterns those that end as examples do and are not hidden. Links are
    followed, and loops of them end.

    Args:
      axes: 1 for sequences, 2 for images, 3 for clips.

    Raises:
      UserError: a word names nothing, or a folder or pattern has no example.
    """
    found: dict[Path, Found] = {}
    left_out: dict[Path, None] = {}
    for word in words:
        path = expanded(word)
        others: list[Path] = []
        if path.is_dir():
            examples = _in_folder(path, axes, others)
            check(bool(examples), f"{word} has no {KINDS[axes]} ({ENDINGS[axes]})")
        elif path.exists():
            examples = [Found(path)]
        else:
            check(glob.has_magic(word), f"there is no file or folder {word!r}{_near(path)}")
            matches = sorted(dict.fromkeys(_matches(Path(path.anchor), path.parts[bool(path.anchor) :])), key=_natural)
            check(bool(matches), f"no file matches {word!r}")
            examples = []
            for match in matches:
                if match.is_dir():
                    examples += _in_folder(match, axes, others)
                elif _is_example(match, axes):
                    examples.append(Found(match))
                else:
                    others.append(match)
            check(
                bool(examples), f"no {KINDS[axes]} ({ENDINGS[axes]}) are among the {len(matches)} that match {word!r}"
            )
        for example in examples:
            found.setdefault(example.file, example)
        left_out |= dict.fromkeys(others)
    return Examples(list(found.values()), [path for path in left_out if path not in found])


def _matches(base: Path, pattern: Sequence[str]) -> Iterator[Path]:
    """Yields what matches the parts of a pattern below `base`, as `glob.glob` does, but in a loop of links once."""
    if not pattern:
        yield base
        return
    first, *rest = pattern
    if first == "**":
        for place, _, names in walk(base) if base.is_dir() else ():
            yield from _matches(place, rest)
            if not rest:
                yield from (place / name for name in names if not name.startswith("."))
    elif not glob.has_magic(first):
        if os.path.lexists(base / first):
            yield from _matches(base / first, rest)
    elif base.is_dir():
        for name in sorted(os.listdir(base)):
            if fnmatch.fnmatchcase(name, first) and (first.startswith(".") or not name.startswith(".")):
                yield from _matches(base / name, rest)


def _in_folder(folder: Path, axes: int, others: list[Path]) -> list[Found]:
    """Returns the examples in a folder and all folders below it; a folder of frames is one itself.

    Args:
      others: gets the files that are not examples.
    """
    files = []
    for place, folders, names in walk(folder):
        paths = [place / name for name in names if not name.startswith(".") and name not in IGNORED]
        frames = axes == 3 and any(map(is_picture, paths))
        if frames:
            files.append(place)
            folders.clear()
        examples = [path for path in paths if _is_example(path, axes)]
        files += examples
        others += [path for path in paths if not _is_example(path, axes) and not (frames and is_picture(path))]
    files.sort(key=lambda file: _natural(file.relative_to(folder)))
    parts = [file.relative_to(folder).parts for file in files]
    return [Found(file, names[0] if len(names) > 1 else "") for file, names in zip(files, parts, strict=True)]


def _is_example(path: Path, axes: int) -> bool:
    return is_picture(path) if axes == 2 else path.suffix == SUFFIX and not path.name.startswith(".")


def _natural(path: Path) -> list:
    return [natural(Path(part)) for part in path.parts]


def _near(path: Path) -> str:
    try:
        return near(str(path), map(str, path.parent.iterdir()))
    except OSError:
        return ""
