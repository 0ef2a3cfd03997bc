"""The manifest of a checkpoint: step, validation error, run, size and SHA-256 of every file. It is written last."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax.core import files
from cnn_jax.core.errors import UserError

NAME = "manifest.json"


def write(folder: Path, *, step: int, error: float | None, run: Mapping[str, str] | None = None) -> None:
    """Writes the manifest of the files in `folder`; all of them are on the disk when it is.

    Args:
      error: the validation error, in [0, 1], or None if there is none. run: see `run_folder.identity`.
    """
    contents = _files(folder)
    entries = {
        name: {"bytes": path.stat().st_size, "sha256": _digest(path, sync=True)} for name, path in contents.items()
    }
    inside = {parent for path in contents.values() for parent in path.parents if parent.is_relative_to(folder)}
    for inner in {folder, *inside}:
        files.sync_folder(inner)
    about = {"step": step, "error": error} | ({"run": dict(run)} if run else {}) | {"files": entries}
    files.write_text(folder / NAME, json.dumps(about, indent=1) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Returns a manifest: {"step", "error", "files", and "run" unless it is an older one}.

    Raises:
      UserError: it is missing or damaged; the message says how.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        raise UserError(f"{NAME} is missing")
    try:
        found = files.read_json(path)
        whole = found["error"] is None or (type(found["error"]) in (int, float) and math.isfinite(found["error"]))
        whole &= all(type(entry["bytes"]) is int for entry in found["files"].values())
        whole &= all(isinstance(entry["sha256"], str) for entry in found["files"].values())
        whole &= isinstance(found.get("run", {}), dict)
    except (UserError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{NAME} cannot be read")
    return found


def error(folder: Path) -> float:
    """Returns the validation error that a manifest records; infinity if it records none or cannot be read."""
    try:
        found = read(folder)["error"]
    except UserError:
        return math.inf  # `damage` reports it
    return math.inf if found is None else float(found)


def damage(folder: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, or None if they are those that were saved."""
    if not folder.is_dir():
        return "it is not a folder"
    try:
        expected = read(folder)["files"]
        found = _files(folder)
        for name, entry in expected.items():
            if name not in found:
                return f"{name} is missing"
            size = found[name].stat().st_size
            if size != entry["bytes"]:
                return f"{name} has {size:,} bytes, but had {entry['bytes']:,} when it was saved"
            if _digest(found[name]) != entry["sha256"]:
                return f"{name} has changed since it was saved (its SHA-256 differs)"
    except UserError as damaged:
        return str(damaged)
    except OSError as refusal:
        return f"{refusal.filename} cannot be read: {refusal.strerror}"
    unknown = sorted(found.keys() - expected.keys())
    return f"{unknown[0]} does not belong to it" if unknown else None


def _files(folder: Path) -> dict[str, Path]:
    """Returns what is in a checkpoint besides folders and its manifest, by the name in the manifest."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / NAME}


def _digest(path: Path, *, sync: bool = False) -> str:
    """Returns the SHA-256 of a file, hexadecimal; with `sync` its data are on the disk afterwards."""
    with open(path, "rb", opener=files.without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return "none: it is not a file"
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
