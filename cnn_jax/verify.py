"""Verification: do two pictures show the same person? By the distance between their features.

    python -m cnn_jax.verify a.png b.png --checkpoint=runs/faces --threshold=0.2
    python -m cnn_jax.verify faces --checkpoint=runs/faces --plot=roc.png
    python -m cnn_jax.verify faces.npz

The first decides: the same if the distance is at most the threshold. The others measure, on the pairs of pictures in
FOLDER/PERSON/... or of features that `cnn_jax.embed` wrote: how often each threshold errs, and where it errs either way
as often (EER), which is a threshold for the first. Persons should be others than those that the network learnt.
"""

import json
import math
from pathlib import Path
from typing import Any

from absl import flags

from cnn_jax import inference
from cnn_jax.commandline import launch
from cnn_jax.errors import UserError, check

flags.adopt_module_key_flags(inference)
_DISTANCE = flags.DEFINE_enum("distance", "cosine", ["cosine", "euclidean"], "Between features.")
_THRESHOLD = flags.DEFINE_float("threshold", None, "Largest distance of pictures of the same person.")
_PIXELS = flags.DEFINE_bool("pixels", False, "The values that the network is given in place of its features.")
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "What to print.")
_PLOT = flags.DEFINE_string("plot", None, "PNG file for the ROC curve.")

MOST = 10_000  # pictures, whose pairs fit into memory


def compare(a: str, b: str) -> tuple[dict[str, Any], str, int]:
    """Compares two pictures; returns what was found, the text that says it, and the exit code."""
    from cnn_jax import verification

    for word in (a, b):
        check(not Path(word).is_dir(), f"{word} is a folder: two pictures are compared, or the pictures of one folder")
    embedded = inference.embed(inference.network(), [a, b] if a != b else [a], pixels=_PIXELS.value)
    check(embedded.exit_code == 0, "two pictures are needed to compare")
    distance = float(verification.distances(embedded.features[:1], embedded.features[-1:], _DISTANCE.value)[0, 0])
    threshold = _THRESHOLD.value
    found = {"files": [a, b], "distance": distance, "kind": _DISTANCE.value, "source": embedded.source}
    if threshold is None:
        advice = "--threshold=T decides: python -m cnn_jax.verify FOLDER measures one on pictures of known persons"
        return found, f"{_DISTANCE.value} distance {distance:.4f}; {advice}", 0
    same = distance <= threshold
    found |= {"threshold": threshold, "same": same}
    sign, decision = ("<=", "the same person") if same else (">", "different persons")
    return found, f"{_DISTANCE.value} distance {distance:.4f} {sign} {threshold:g}: {decision}", 0


def measure(word: str) -> tuple[dict[str, Any], str, int]:
    """Measures verification on a folder of persons or on stored features; returns as `compare` does."""
    import numpy as np

    from cnn_jax import plots, verification

    embedded = inference.persons(word, pixels=_PIXELS.value)
    labels = np.unique(embedded.labels, return_inverse=True)[1]
    check(
        len(labels) <= MOST,
        f"{word} has {len(labels):,} pictures, but the pairs of at most {MOST:,} are compared: take a part of them",
    )
    between = verification.distances(embedded.features, embedded.features, _DISTANCE.value)
    distance, same = verification.pairs(between, labels)
    check(bool(same.any()), f"{word} has one picture of each person: the same person must be seen at least twice")
    check(bool((~same).any()), f"{word} has pictures of one person: at least two are needed")
    curve = verification.roc(distance, same)

    def error(measure: str) -> float | None:
        """Returns the standard error over persons, or None where leaving one out leaves no pairs of both kinds."""

        def without(left: np.ndarray) -> float:
            pairs = verification.pairs(between[np.ix_(left, left)], labels[left])
            return getattr(verification.roc(*pairs), measure) if 0 < pairs[1].sum() < len(pairs[1]) else math.nan

        found = verification.jackknife(without, labels)
        return None if math.isnan(found) else found

    at = curve.equal
    found = {
        "source": embedded.source,
        "kind": _DISTANCE.value,
        "pictures": len(labels),
        "persons": int(labels.max()) + 1,
        "same pairs": int(same.sum()),
        "different pairs": int((~same).sum()),
        "AUC": curve.auc,
        "AUC, standard error": error("auc"),
        "EER": curve.eer,
        "EER, standard error": error("eer"),
        "threshold": float(curve.thresholds[at]),
        "false accepts": float(curve.false_accepts[at]),
        "false rejects": float(curve.false_rejects[at]),
    }

    def plus(name: str) -> str:
        deviation = found[f"{name}, standard error"]
        return f"{found[name]:.2%}" + ("" if deviation is None else f" (standard error over persons {deviation:.2%})")

    text = (
        f"{word}: {found['pictures']:,} pictures of {found['persons']:,} persons, {found['same pairs']:,} pairs of the "
        f"same person, {found['different pairs']:,} of different ones; {_DISTANCE.value} distance, {embedded.source}\n"
        f"AUC        {plus('AUC')}\n"
        f"EER        {plus('EER')}\n"
        f"threshold  {found['threshold']:.6g}: accepts {found['false accepts']:.2%} of different persons, rejects "
        f"{found['false rejects']:.2%} of the same"
    )
    if _PLOT.value:
        title = f"{word}: {found['persons']} persons, {found['pictures']} pictures"
        path = plots.plot_roc(curve.false_accepts, 1 - curve.false_rejects, curve.eer, Path(_PLOT.value), title=title)
        text += f"\n{path}"
    return found, text, embedded.exit_code


def start(words: list[str]) -> int:
    """Runs what the command line says."""
    threshold = _THRESHOLD.value
    check(len(words) in (1, 2), "name two pictures to compare, or one folder of persons, FOLDER/PERSON/..., to measure")
    check(threshold is None or (math.isfinite(threshold) and threshold >= 0), "--threshold must be a number from 0 on")
    if len(words) == 2:
        check(_PLOT.value is None, "--plot draws what is measured on a folder of persons, not two pictures")
        found, text, code = compare(*words)
    else:
        check(threshold is None, "--threshold decides about two pictures; of a folder it is measured")
        if Path(words[0]).is_file() and Path(words[0]).suffix != ".npz":
            raise UserError(f"{words[0]} is one picture: name two to compare, or a folder of persons")
        if _PLOT.value:
            inference.check_output(Path(_PLOT.value), "--plot", ".png")
        found, text, code = measure(words[0])
    print(json.dumps(found, indent=1) if _FORMAT.value == "json" else text)
    return code


if __name__ == "__main__":
    launch(start, operands=True)
