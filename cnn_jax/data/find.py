"""From the words of a command line to examples: files, folders of them, patterns such as 'photos/**/*.jpg'."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.data.arrays import SUFFIX
from cnn_jax.data.dataset import KINDS
from cnn_jax.data.decode import is_picture, natural
from cnn_jax.data.sources.folder import ENDINGS


@dataclass(frozen=True)
class Found:
    """An example: a file, or a folder of frames. group: the folder below the one that was named, or ""."""

    file: Path
    group: str = ""


def find(words: list[str], axes: int = 2) -> list[Found]:
    """Returns the examples that `words` name, in their order and each once; those of a folder in natural order.

    A file counts whatever its name; of folders and patterns those that end as examples do and are not hidden.

    Args:
      axes: 1 for sequences, 2 for images, 3 for clips.

    Raises:
      UserError: a word names nothing, or a folder or pattern has no example.
    """
    found: dict[Path, Found] = {}
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            examples = _in_folder(path, axes)
            check(bool(examples), f"{word} has no {KINDS[axes]} ({ENDINGS[axes]})")
        elif path.exists():
            examples = [Found(path)]
        else:
            check(glob.has_magic(word), f"there is no file or folder {word!r}{_near(path)}")
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural)
            check(bool(matches), f"no file matches {word!r}")
            examples = []
            for match in matches:
                examples += _in_folder(match, axes) if match.is_dir() else [Found(match)] * _is_example(match, axes)
            check(
                bool(examples), f"no {KINDS[axes]} ({ENDINGS[axes]}) are among the {len(matches)} that match {word!r}"
            )
        for example in examples:
            found.setdefault(example.file, example)
    return list(found.values())


def _in_folder(folder: Path, axes: int) -> list[Found]:
    """Returns the examples in a folder and all folders below it; a folder of frames is one itself."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    files = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(place) / name for name in names]
        if axes == 3 and any(map(is_picture, paths)):
            files.append(Path(place))
            folders.clear()
        files += [path for path in paths if _is_example(path, axes)]
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
