"""Verification: do two pictures show the same person? Answered by the distance between their features.

    python -m experiments.faces.verify a.png b.png --checkpoint=runs/faces --threshold=0.2
    python -m experiments.faces.verify a.png gallery --claim=ann --checkpoint=runs/faces --threshold=0.2
    python -m experiments.faces.verify faces --checkpoint=runs/faces --plot=roc.png
    python -m experiments.faces.verify faces.npz

The first two decide: it is the same person if the distance is at most the threshold. For a claimed person, the distance
is that to the nearest of the person's pictures in GALLERY/PERSON/... or in an .npz file. The others measure, on the
pairs of pictures in FOLDER/PERSON/... or of features that `cnn_jax predict --features` wrote: how often each threshold
errs, and the threshold at which both errors are equally frequent (EER), which suits the first two. Use persons that the
network was not trained on.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.pretrained.features import Features
from experiments.faces import figures, metrics
from experiments.faces.command import Found, Parser, call, check, embed, persons

MOST = 10_000  # pictures, so that their pairs fit into memory


def compare(embedded: Features, kind: str, threshold: float | None) -> tuple[dict[str, Any], str]:
    """Compares two pictures by their features; returns what was found, and the text that says it."""
    distance = float(metrics.distances(embedded.features[:1], embedded.features[-1:], kind)[0, 0])
    found = {"source": embedded.source, "kind": kind, "files": embedded.files, "distance": distance}
    if threshold is None:
        advice = (
            "--threshold=T decides: python -m experiments.faces.verify FOLDER measures one on pictures of known persons"
        )
        return found, f"{kind} distance {distance:.4f}; {advice}"
    same = distance <= threshold
    sign, decision = ("<=", "the same person") if same else (">", "different persons")
    text = f"{kind} distance {distance:.4f} {sign} {threshold:g}: {decision}"
    return found | {"threshold": threshold, "same": same}, text


def measure(embedded: Features, word: str, kind: str, plot: Path | None) -> tuple[dict[str, Any], str]:
    """Measures verification on pictures of persons, called `word` in messages; returns as `compare` does.

    Args:
      plot: file for the ROC curve.

    Raises:
      ValueError: there are no pairs of the same person, or of different ones, or too many pictures.
    """
    labels = np.unique(embedded.labels, return_inverse=True)[1]
    check(
        len(labels) <= MOST,
        f"{word} has {len(labels):,} pictures, but the pairs of at most {MOST:,} are compared: take a part of them",
    )
    between = metrics.distances(embedded.features, embedded.features, kind)
    distance, same = metrics.pairs(between, labels)
    check(bool(same.any()), f"{word} has one picture of each person: the same person must be seen at least twice")
    check(bool((~same).any()), f"{word} has pictures of one person: at least two are needed")
    curve = metrics.roc(distance, same)

    def error(measure: str) -> float | None:
        """Returns the standard error over persons, or None if without one of them there are not pairs of both kinds."""

        def without(left: np.ndarray) -> float:
            pairs = metrics.pairs(between[np.ix_(left, left)], labels[left])
            return getattr(metrics.roc(*pairs), measure) if 0 < pairs[1].sum() < len(pairs[1]) else math.nan

        found = metrics.jackknife(without, labels)
        return None if math.isnan(found) else found

    at = curve.equal
    found = {
        "source": embedded.source,
        "kind": kind,
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
        f"same person, {found['different pairs']:,} of different ones; {kind} distance, {embedded.source}\n"
        f"AUC        {plus('AUC')}\n"
        f"EER        {plus('EER')}\n"
        f"threshold  {found['threshold']:.6g}: accepts {found['false accepts']:.2%} of different persons, rejects "
        f"{found['false rejects']:.2%} of the same"
    )
    if plot:
        title = f"{word}: {found['persons']} persons, {found['pictures']} pictures"
        text += f"\n{figures.draw_roc(curve.false_accepts, 1 - curve.false_rejects, curve.eer, plot, title=title)}"
    return found, text


def check_claim(
    picture: Features, known: Features, gallery: str, claim: str, kind: str, threshold: float | None
) -> tuple[dict[str, Any], str]:
    """Compares a picture with those of the person that it is claimed to show, among known persons called `gallery`.

    Returns:
      What was found, and the text that says it: the distance is that to the nearest picture of the person.

    Raises:
      ValueError: nobody has that name, or the features are of another network.
    """
    check(
        known.source == picture.source,
        f"{gallery} holds features of {known.source}, but --checkpoint is {picture.source}: they cannot be compared",
    )
    names = sorted(set(known.labels))
    check(claim in names, f"--claim is {claim!r}, but the persons of {gallery} are {', '.join(names[:8])}")
    own = np.array([label == claim for label in known.labels])
    distance = float(metrics.distances(picture.features, known.features[own], kind).min())
    found: dict[str, Any] = {"source": picture.source, "kind": kind, "claim": claim, "distance": distance}
    begin = f"{kind} distance to {claim} {distance:.4f}"
    if threshold is None:
        return found, f"{begin}; --threshold=T decides: python -m experiments.faces.verify {gallery} measures one"
    same = distance <= threshold
    text = f"{begin} {'<=' if same else '>'} {threshold:g}: {'' if same else 'not '}{claim}"
    return found | {"threshold": threshold, "same": same}, text


def run(given: argparse.Namespace) -> Found:
    words = given.words
    if given.claim is not None:
        check(len(words) == 2, "--claim=PERSON takes a picture and the known persons: PICTURE GALLERY/PERSON/...")
        check(given.plot is None, "--plot draws what is measured on a folder of persons, not one picture")
        known, picture = persons(given, words[1]), embed(given, words[:1], skip=False)
        check(len(picture.files) == 1, f"one picture is compared, but {len(picture.files)} match {words[0]}")
        return *check_claim(picture, known, words[1], given.claim, given.distance, given.threshold), known.exit_code
    check(len(words) in (1, 2), "name two pictures to compare, or one folder of persons, FOLDER/PERSON/...")
    if len(words) == 1:
        check(given.threshold is None, "--threshold decides about two pictures; of a folder it is measured")
        features = persons(given, words[0])
        return *measure(features, words[0], given.distance, given.plot), features.exit_code
    check(given.plot is None, "--plot draws what is measured on a folder of persons, not two pictures")
    for word in words:
        check(not Path(word).is_dir(), f"{word} is a folder: two pictures are compared")
    features = embed(given, words, skip=False)
    number = len(features.files)
    check(
        number == len({Path(word).expanduser() for word in words}),
        f"two pictures are compared, but {number} match {' and '.join(words)}",
    )
    return *compare(features, given.distance, given.threshold), features.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--claim", metavar="PERSON", help="who the picture is claimed to show, of GALLERY/PERSON/...")
    return call(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
