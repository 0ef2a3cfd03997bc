"""The manifest of a checkpoint: step, validation error, size and SHA-256 of every file. It is written last."""

import hashlib
import json
import math
import os
from pathlib import Path

from cnn_jax.core import files

NAME = "manifest.json"


def write(folder: Path, *, step: int, error: float | None) -> None:
    """Writes the manifest of the files in `folder`; all of them are on the disk when it is.

    Args:
      error: the validation error, in [0, 1], or None if there is none.
    """
    contents = _files(folder)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path, sync=True)}
        for path in sorted(contents)
    }
    for inner in {folder, *(parent for path in contents for parent in path.parents if parent.is_relative_to(folder))}:
        files.sync_folder(inner)
    files.write_text(folder / NAME, json.dumps({"step": step, "error": error, "files": entries}, indent=1) + "\n")


def error(folder: Path) -> float:
    """Returns the validation error that a manifest records; infinity if it records none or cannot be read."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))["error"]
        return math.inf if found is None else float(found)
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf  # `damage` reports it


def damage(folder: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None if they are those that were saved."""
    try:
        entries = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"].items()
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    found = {path.relative_to(folder).as_posix() for path in _files(folder)}
    for name, (size, digest) in expected.items():
        path = folder / name
        try:
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} bytes, but had {size:,} when it was saved"
            if _digest(path) != digest:
                return f"{name} has changed since it was saved (its SHA-256 differs)"
        except FileNotFoundError:
            return f"{name} is missing"
    unknown = sorted(found - expected.keys())
    return f"{unknown[0]} does not belong to it" if unknown else None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path != folder / NAME]


def _digest(path: Path, *, sync: bool = False) -> str:
    """Returns the SHA-256 of a file, hexadecimal; with `sync` its data are on the disk afterwards."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
