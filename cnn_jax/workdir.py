"""The folder of a run: its configuration, stored as data, and what may change when the run goes on."""

import json
import os
from pathlib import Path
from typing import Any

from cnn_jax.errors import UserError

# Fields that may change when a run goes on: what is printed and kept, not what is computed.
CHANGEABLE = ("log.", "checkpoint.", "data.dir", "data.workers", "eval.confusion_matrix")


def prepare(config: Any, workdir: Path) -> None:
    """Makes `workdir` and writes config.json, or checks that the one there computes the same.

    Raises:
      UserError: the folder cannot be written, or holds a run of another configuration; the message shows what differs.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from None
    if not os.access(workdir, os.W_OK):
        raise UserError(f"--workdir={workdir} cannot be written")
    path = workdir / "config.json"
    new = json.loads(config.to_json())
    if path.exists():
        differing = differences(json.loads(path.read_text(encoding="utf-8")), new)
        if differing:
            raise UserError(
                f"{workdir} holds a run of another configuration:\n" + "\n".join(differing) + "\n"
                "Give these fields as they were to go on with it, or another --workdir for a new run."
            )
    write_text(path, json.dumps(new, indent=2) + "\n")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each field that differs between two stored configurations and is not CHANGEABLE."""
    before, after = flat(old), flat(new)
    return [
        f"  config.{field}: {before.get(field, 'absent')!r} in the folder, {after.get(field, 'absent')!r} now"
        for field in sorted(before | after)
        if before.get(field) != after.get(field) and not field.startswith(CHANGEABLE)
    ]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dicts as one, with dotted names."""
    fields = {}
    for name, value in tree.items():
        fields |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return fields


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: readers see the old text or the new, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
