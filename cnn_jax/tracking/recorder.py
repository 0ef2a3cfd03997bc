"""What a run records: metrics.jsonl (the record) and TensorBoard files."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.files import write_text

FINAL = ("test", "train_part")  # kinds of records of the final evaluation


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a line cut off by a crash at the end is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON: {line[:80]!r}") from None
    return records


class Recorder:
    """Appends records to WORKDIR/metrics.jsonl and writes their numbers as TensorBoard scalars.

    A record is a flat dict: "kind" ("train", "validation", and at the end those of `FINAL`), "step", "epoch", then
    metrics. Records after `step`, left by a run that went further than its last checkpoint, are dropped, and so are the
    final ones: the run that goes on writes them again.
    """

    def __init__(self, workdir: Path, *, step: int, tensorboard: bool):
        self.path = workdir / "metrics.jsonl"
        kept = [record for record in read_jsonl(self.path) if record["step"] <= step and record["kind"] not in FINAL]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = self.path.open("ab")
        self.writer = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, epoch: float, **metrics: Any) -> None:
        """Writes one record."""
        record = {"kind": kind, "step": step, "epoch": round(epoch, 6)} | metrics
        self.file.write((json.dumps(jsonable(record)) + "\n").encode())
        self.file.flush()
        if self.writer is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    self.writer.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Returns when all records are on the disk, so that a checkpoint never outlives the records before it."""
        os.fsync(self.file.fileno())

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


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
