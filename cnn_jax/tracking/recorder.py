"""What a run records: metrics.jsonl, and a copy of it for trackers."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError
from cnn_jax.core.files import read_text, write_text
from cnn_jax.tracking.trackers import Trackers

FINAL = ("test", "train_part")  # kinds of records of the final evaluation


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a line cut off by a crash at the end is left out.

    Raises:
      UserError: it cannot be read, or has another line that is not a record.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Returns (records, whether the last line is cut off)."""
    lines = (read_text(path) if path.exists() else "").split("\n")
    last = lines.pop()
    records = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None:
            raise UserError(
                f"{path} is damaged: line {number} is not a record, {line[:80]!r}. Remove the line, or move the file "
                "away: records are lost with it, nothing else"
            )
        records.append(record)
    record = _record(last)
    return (records, bool(last)) if record is None else ([*records, record], False)


def _record(line: str) -> dict[str, Any] | None:
    """Returns the record in a line, or None if it has none."""
    try:
        found = json.loads(line)
        whole = isinstance(found["kind"], str) and type(found["step"]) is int
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if whole else None


class Recorder:
    """Appends records to a file in WORKDIR, metrics.jsonl, and reports their numbers to trackers.

    A record is a flat dict: "kind" ("train", "validation", and at the end those of `FINAL`), "step", "epoch", then
    metrics. Records after `step`, left by a run that went further than its last checkpoint, are dropped, and so are the
    final ones: the resumed run writes them again.

    Args:
      step: of the checkpoint. report: is called with a sentence if records before it are missing, or one is cut off.
      trackers: get the records that they lack.

    Raises:
      UserError: see `read_jsonl`.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        step: int,
        trackers: Trackers | None = None,
        report: Callable[[str], Any] = lambda text: None,
        name: str = "metrics.jsonl",
    ):
        self.path = workdir / name
        if step and not self.path.exists():
            report(f"{name} is missing: the records up to step {step:,} are lost, training is not")
        records, cut = _read(self.path)
        if cut:
            report(f"the last line of {name} was cut off: it is removed")
        kept = [record for record in records if record["step"] <= step and record["kind"] not in FINAL]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("ab")
        self.trackers = trackers
        if trackers is not None:
            for record in kept:
                trackers.record(record)

    def write(self, kind: str, step: int, epoch: float, **metrics: Any) -> None:
        """Writes one record."""
        record = {"kind": kind, "step": step, "epoch": round(epoch, 6)} | metrics
        self.file.write((json.dumps(jsonable(record)) + "\n").encode())
        self.file.flush()
        if self.trackers is not None:
            self.trackers.record(record)

    def sync(self) -> None:
        """Returns when all records are on the disk, so that a checkpoint never outlives the records before it."""
        os.fsync(self.file.fileno())
        if self.trackers is not None:
            self.trackers.flush()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


def jsonable(value: Any) -> Any:
    """Returns nested dicts and lists with numbers that are not finite as strings, because JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, list) else value


def scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns what a record holds of an evaluation: its numbers and the accuracy of each class, without confusion."""
    return {
        name: [round(float(x), 6) for x in value] if isinstance(value, np.ndarray) else value
        for name, value in metrics.items()
        if name != "confusion"
    }
