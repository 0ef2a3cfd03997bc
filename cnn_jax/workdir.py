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
    check_same(config, workdir)
    write_text(workdir / "config.json", json.dumps(json.loads(config.to_json()), indent=2) + "\n")


def check_same(config: Any, workdir: Path, *, may_differ: tuple[str, ...] = ()) -> None:
    """Checks that `workdir` holds no run, or one of the same configuration but for fields that may differ.

    Raises:
      UserError: it holds another one, and the message shows what differs; or its config.json is damaged.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a folder")
    # Without a checkpoint there is nothing to go on from, and nothing to lose.
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        differing = differences(old, json.loads(config.to_json()), may_differ=(*CHANGEABLE, *may_differ))
    except (json.JSONDecodeError, AttributeError):
        raise UserError(f"{path} is damaged: remove it, or give another --workdir") from None
    if differing:
        raise UserError(
            f"{workdir} holds a run of another configuration:\n" + "\n".join(differing) + "\n"
            "Give these fields as they were to go on with it, or another --workdir for a new run."
        )


def differences(old: dict[str, Any], new: dict[str, Any], *, may_differ: tuple[str, ...] = CHANGEABLE) -> list[str]:
    """Returns a line for each field that differs between two stored configurations, without those that may."""
    before, after = flat(old), flat(new)
    return [
        f"  config.{field}: {before.get(field, 'absent')!r} in the folder, {after.get(field, 'absent')!r} now"
        for field in sorted(before | after)
        if before.get(field) != after.get(field) and not field.startswith(may_differ)
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
