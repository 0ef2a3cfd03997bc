"""Trackers: programs that show runs while they train. config.log.trackers names them.

metrics.jsonl is the record. A tracker shows a copy of it: at each start it gets the records that it lacks, and an error
of a tracker never stops a run.
"""

import functools
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cnn_jax.config.fields import TRACKERS
from cnn_jax.core import imports
from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import read_json, write_text

TOOLS: dict[str, str] = dict(
    zip(TRACKERS, map("cnn_jax.tracking.tools:{}".format, ("TensorBoard", "Wandb", "MLflow", "Trackio")), strict=True)
)
IDS = "trackers.json"  # in the run's folder: the tracker's own name of the run


class Tracker(Protocol):
    """One tracker, opened with TOOL(folder, name=..., config=..., step=..., run_id=...).

    folder: of the run. name: what the user calls it. config: the configuration's fields by dotted names. step: of the
    checkpoint that the run resumes from, or 0. run_id: what `run_id` was at the start before, or None: a new run.
    """

    run_id: str  # empty: it needs none

    def last(self, name: str) -> int:
        """Returns the last step of a scalar that the tracker has already, or -1."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        ...

    def text(self, name: str, text: str) -> None: ...

    def flush(self) -> None:
        """Writes what is waiting: a checkpoint follows."""
        ...

    def finish(self, results: Mapping[str, float] | None) -> None:
        """Ends the run with its final metrics; None: it stopped before."""
        ...


def names(text: str) -> list[str]:
    """Returns the trackers that config.log.trackers names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_installed(text: str) -> None:
    """Raises UserError unless the packages of all trackers that config.log.trackers names are here."""
    for name in names(text):
        if name in TOOLS:
            missing = name != "tensorboard" and importlib.util.find_spec(name) is None
            check(
                not missing, f"config.log.trackers has {name!r}, which is not installed: pip install 'cnn-jax[{name}]'"
            )
        else:
            imports.load(name, field="config.log.trackers")


class Trackers:
    """All trackers of a run, while the block runs.

    Where one raises an error, `report` is called with a sentence, and the run continues without it. The next start
    gives it what it has missed.

    Args:
      text: config.log.trackers. step: of the checkpoint that the run resumes from, or 0: the trackers begin new runs.
      config: the configuration's fields by dotted names, as JSON has them.

    Raises:
      UserError: a tracker is not installed, or lacks a login.
    """

    def __init__(
        self,
        text: str,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        step: int,
        report: Callable[[str], Any] = lambda text: None,
    ):
        check_installed(text)
        self.report = report
        self.open: dict[str, Tracker] = {}
        self.results: Mapping[str, float] | None = None
        path = folder / IDS
        ids = _read_ids(path) if step else {}
        options = dict(name=name, config=config, step=step)
        for tool in names(text):
            opener = imports.load(TOOLS.get(tool, tool), field="config.log.trackers")
            tracker = self._try(tool, functools.partial(opener, folder, run_id=ids.get(tool), **options))
            if tracker is not None:
                self.open[tool] = tracker
                ids |= {tool: tracker.run_id} if tracker.run_id else {}
        if ids:
            write_text(path, json.dumps(ids, indent=2) + "\n")

    def record(self, record: Mapping[str, Any]) -> None:
        """Reports the numbers of one record of metrics.jsonl."""
        step, kind = record["step"], record["kind"]
        values = {
            f"{kind}/{name}": float(value)
            for name, value in record.items()
            if name not in ("kind", "step") and _is_number(value)
        }
        for tool, tracker in list(self.open.items()):
            new = {name: value for name, value in values.items() if step > tracker.last(name)}
            if new:
                self._try(tool, lambda tracker=tracker, new=new: tracker.scalars(step, new))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._all(lambda tracker: tracker.image(step, name, pixels))

    def text(self, name: str, text: str) -> None:
        """Shows a text."""
        self._all(lambda tracker: tracker.text(name, text))

    def flush(self) -> None:
        """Writes what is waiting."""
        self._all(lambda tracker: tracker.flush())

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: Any) -> None:
        self._all(lambda tracker: tracker.finish(self.results))
        self.open.clear()

    def _all(self, call: Callable[[Tracker], Any]) -> None:
        for tool, tracker in list(self.open.items()):
            self._try(tool, lambda tracker=tracker: call(tracker))

    def _try(self, tool: str, call: Callable[[], Any]) -> Any:
        """Returns what `call` returns; None after an error, which ends the reports to this tracker."""
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            self.open.pop(tool, None)
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            self.report(f"warning: {tool} gets no more of this start ({text}); metrics.jsonl has everything")
            return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_ids(path: Path) -> dict[str, str]:
    """Returns the trackers' names of the run; {} if there are none, or the file is damaged."""
    try:
        found = read_json(path) if path.exists() else {}
    except UserError:
        found = {}
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}


def grid(images: Sequence[np.ndarray] | np.ndarray, columns: int = 8) -> np.ndarray:
    """Returns images, uint8 [H, W, 1, 3 or 4], as one picture, uint8 [rows (H + 1) - 1, columns (W + 1) - 1, 3].

    A white line of one pixel is between them.
    """
    height, width, channels = images[0].shape
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        picture[top : top + height, left : left + width] = image[..., : 3 if channels > 2 else 1]
    return picture
