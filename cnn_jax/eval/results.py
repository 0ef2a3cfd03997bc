"""What an evaluation found, for people and for programs: tables, JSON, CSV, pictures, a page of the worst errors."""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cnn_jax.core import files
from cnn_jax.core.errors import check
from cnn_jax.core.text import csv_cell, printable, shortened
from cnn_jax.data import dataset
from cnn_jax.data.loader import Split
from cnn_jax.display import plots, tables, terminal
from cnn_jax.eval import gallery, metrics
from cnn_jax.eval.evaluation import NOTHING

MOST_CLASSES = 20  # in a table; if there are more, it has the worst ones only
WORST_CLASSES = 10
LONGEST_NAME = 40  # of a class in a table, characters
BINS = 15  # of a reliability diagram (Guo et al. 2017)


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for all examples of a part.

    network: its SOURCE. data: the data set or its folder. protocol: a description of the views.
    probabilities: float64 [N, K]. labels: int [N], -1 for an example that could not be read.
    """

    network: str
    data: str
    part: str
    protocol: str
    class_names: list[str]
    probabilities: np.ndarray
    labels: np.ndarray
    split: Split

    @functools.cached_property
    def read(self) -> np.ndarray:
        """The numbers of the examples that could be read, int [n]; raises UserError if there are none."""
        found = np.flatnonzero(self.labels >= 0)
        check(len(found) > 0, NOTHING)
        return found

    @functools.cached_property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """(labels int [n], probabilities float64 [n, K]) of these examples."""
        return self.labels[self.read], self.probabilities[self.read]

    def name(self, index: int) -> str:
        """Returns the file of an example, or "example" and its number."""
        return dataset.name(self.split.source, index)


class Results:
    """The metrics of predictions.

    Args:
      validation: predictions of the validation part, to fit the temperature to; None: no temperature is fitted.
    """

    def __init__(self, predictions: Predictions, validation: Predictions | None = None):
        self.predictions = predictions
        labels, shares = predictions.known
        self.confusion = metrics.confusion_matrix(labels, shares)
        self.classes = metrics.class_metrics(self.confusion)
        self.reliability = metrics.reliability(labels, shares, BINS)
        self.temperature: float | None = None
        self.calibrated_ece: float | None = None
        self.note = ""  # why there is no temperature
        if validation is None or validation.part == predictions.part:
            self.note = "no validation part to fit it to"
            return
        temperature = metrics.fit_temperature(*validation.known)
        if temperature == metrics.SHARPEST:
            self.note = "nearly all validation predictions are right"
        elif temperature == metrics.FLATTEST:
            self.note = "validation predictions are hardly better than chance"
        else:
            self.temperature = temperature
            calibrated = metrics.with_temperature(shares, temperature)
            self.calibrated_ece = metrics.reliability(labels, calibrated, BINS).ece

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """All numbers for JSON; None where a number is undefined, such as the recall of a class without examples."""
        predictions, classes = self.predictions, self.classes
        labels, shares = predictions.known
        names = predictions.class_names
        return {
            "network": predictions.network,
            "data": predictions.data,
            "part": predictions.part,
            "protocol": predictions.protocol,
            "examples": len(labels),
            "unreadable": len(predictions.labels) - len(labels),
            "top1_accuracy": metrics.accuracy(labels, shares),
            "top5_accuracy": metrics.accuracy(labels, shares, 5),
            "loss": metrics.log_loss(labels, shares),
            "balanced_accuracy": classes.balanced_accuracy,
            "macro": classes.macro,
            "calibration": {
                "bins": BINS,
                "ece": self.reliability.ece,
                "temperature": self.temperature,
                "temperature_fitted_to": None if self.temperature is None else "validation",
                "ece_with_temperature": self.calibrated_ece,
            },
            "classes": [
                {"name": name, "examples": int(classes.examples[k]), "predicted": int(classes.predicted[k])}
                | {field: _number(getattr(classes, field)[k]) for field in ("precision", "recall", "f1")}
                for k, name in enumerate(names)
            ],
            "most_confused": [
                {"true": names[one.true], "predicted": names[one.predicted], "count": one.count, "share": one.share}
                for one in metrics.most_confused(self.confusion)
            ],
        }

    # ------------------------------------------------------------ for people

    def print(self, console: Console) -> None:
        """Prints accuracy, the classes and the calibration."""
        found = self.summary
        metrics_of_part = {
            "error": 1 - found["top1_accuracy"],
            "top5_error": 1 - found["top5_accuracy"],
            **{name: found[name] for name in ("loss", "examples", "protocol")},
        }
        terminal.print_results({found["part"]: metrics_of_part}, console)
        if found["unreadable"]:
            terminal.say(console, f"{found['unreadable']:,} examples cannot be read, and are left out")
        self.print_classes(console)

    def print_classes(self, console: Console) -> None:
        """Prints the table of the classes, their means, and the calibration."""
        for line in (*self._class_lines(), *self._calibration()):
            terminal.say(console, line)

    def _class_lines(self) -> list[str]:
        found, part = self.summary, self.predictions.part
        rows = [row for row in found["classes"] if row["examples"]]
        many = len(rows) > MOST_CLASSES
        shown = sorted(rows, key=lambda row: row["f1"])[:WORST_CLASSES] if many else rows
        fields = ("precision", "recall", "f1")

        def share(value: float | None) -> tables.Share | None:
            return None if value is None else tables.Share(value)

        lines: list[list[Any]] = [
            [shortened(printable(row["name"]), LONGEST_NAME), row["examples"], *(share(row[field]) for field in fields)]
            for row in shown
        ]
        lines.append(["mean (macro)", found["examples"], *(share(found["macro"][field]) for field in fields)])
        title = f"\nclasses of the {part} part"
        if many:
            title += f": the {WORST_CLASSES} of {len(rows):,} with the lowest F1; --json has all"
        text = tables.render([tables.Sheet(title, ["class", "examples", "precision", "recall", "F1"], lines)], "text")
        without = len(found["classes"]) - len(rows)
        notes = [f"{without:,} classes have no examples: the means leave them out"] if without else []
        return [text.rstrip("\n"), *notes, f"balanced accuracy {found['balanced_accuracy']:.2%} (the mean recall)"]

    def _calibration(self) -> list[str]:
        found = self.summary["calibration"]
        if found["temperature"] is None:
            further = f"no temperature: {self.note}"
        else:
            further = (
                f"ECE {found['ece_with_temperature']:.2%} with the temperature {found['temperature']:.3f}, fitted to "
                "the validation part alone"
            )
        return [f"calibration: ECE {found['ece']:.2%} in {BINS} bins", f"             {further}"]

    # ------------------------------------------------------------ files

    def write_json(self, path: Path) -> None:
        """Writes `summary`; raises StorageError if it cannot be written."""
        with files.storage_errors(f"--json: {path} cannot be written"):
            files.write_text(path, json.dumps(self.summary, indent=2) + "\n")

    def write(self, folder: Path) -> None:
        """Writes confusion.csv, confusion.png, predictions.csv, reliability.png and errors.html into a folder.

        Raises:
          StorageError: the folder cannot be made or written.
        """
        names = self.predictions.class_names
        files.make_folder(folder, name=f"--output: {folder}")
        with files.storage_errors(f"--output: {folder} cannot be written"):
            rows = [[name, *map(int, row)] for name, row in zip(names, self.confusion, strict=True)]
            sheet = tables.Sheet("", ["true class / predicted class", *map(csv_cell, names)], rows)
            files.write_text(folder / "confusion.csv", tables.render([sheet], "csv"))
            files.write_text(folder / "predictions.csv", tables.render([self._examples()], "csv"))
            plots.plot_confusion(self.confusion, names, folder / "confusion.png")
            bins = self.reliability
            title = f"{self.predictions.network} on {self.predictions.data}: ECE {bins.ece:.2%}"
            path = folder / "reliability.png"
            plots.plot_reliability(bins.counts, bins.confidence, bins.accuracy, path, title=title)
            pictures = [folder / "confusion.png", path]
            files.write_text(folder / "errors.html", gallery.page(self.summary, self.worst_errors(), pictures))

    def _examples(self) -> tables.Sheet:
        """Returns a line for each example that could be read: its name, both classes, the five most probable ones."""
        names, (labels, shares) = self.predictions.class_names, self.predictions.known
        most = min(5, len(names))
        best = np.argsort(-shares, axis=1, kind="stable")[:, :most]
        further = [f"{what}_{rank}" for rank in range(2, most + 1) for what in ("class", "probability")]
        lines = [
            [self.predictions.name(int(index)), names[label]]
            + [value for k in order for value in (names[k], float(row[k]))]
            for index, label, order, row in zip(self.predictions.read, labels, best, shares, strict=True)
        ]
        return tables.Sheet("", ["name", "true", "predicted", "probability", *further], lines)

    def worst_errors(self, most: int = gallery.MOST) -> list[gallery.WrongExample]:
        """Returns the wrong predictions with the highest confidence, the highest first."""
        names, (labels, shares) = self.predictions.class_names, self.predictions.known
        predicted, confidence = shares.argmax(1), shares.max(1)
        wrong = np.flatnonzero(predicted != labels)
        chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
        return [
            gallery.WrongExample(
                name="/".join(Path(self.predictions.name(int(self.predictions.read[i]))).parts[-2:]),
                true=names[labels[i]],
                predicted=names[predicted[i]],
                confidence=float(confidence[i]),
                of_true=float(shares[i, labels[i]]),
                image=gallery.picture(self.predictions.split, int(self.predictions.read[i])),
            )
            for i in chosen
        ]


def report(
    found: Mapping[str, Predictions],
    part: str,
    console: Console,
    *,
    json_file: Path | None = None,
    folder: Path | None = None,
    accuracy: bool = True,
) -> Results:
    """Prints the results of a part and writes the files that are asked for; returns the results.

    Args:
      found: of the part, and of "validation", if there is one.
      accuracy: whether accuracy and loss are printed, too.
    """
    results = Results(found[part], found.get("validation"))
    (results.print if accuracy else results.print_classes)(console)
    if json_file is not None:
        results.write_json(json_file)
    if folder is not None:
        with terminal.waiting(console, "drawing"):
            results.write(folder)
        written = "errors.html, predictions.csv, confusion.csv, confusion.png, reliability.png"
        terminal.say(console, f"written to {folder}: {written}")
    return results


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
