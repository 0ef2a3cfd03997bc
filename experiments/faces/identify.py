"""Identification: which of K known persons does a picture show, if any? Answered by the nearest features.

    python -m experiments.faces.identify query.png gallery --checkpoint=runs/faces --threshold=0.2
    python -m experiments.faces.identify faces --checkpoint=runs/faces --gallery=1 --plot=cmc.png
    python -m experiments.faces.identify faces.npz

The first looks for pictures (files, folders, patterns) among those in GALLERY/PERSON/..., the last word: the nearest
picture names the person, and nobody is named if even that one is beyond the threshold. The others measure, on
FOLDER/PERSON/... or on features that `cnn_jax predict --features` wrote: the first pictures of each person are the
gallery, all others are queries.
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


def look_up(
    queries: Features, known: Features, gallery: str, kind: str, threshold: float | None
) -> tuple[dict[str, Any], str]:
    """Names the persons on pictures, among the known persons, which messages call `gallery`.

    Returns:
      What was found, and the text that says it.
    """
    check(
        known.source == queries.source,
        f"{gallery} holds features of {known.source}, but --checkpoint is {queries.source}: they cannot be compared",
    )
    names, labels = np.unique(known.labels, return_inverse=True)
    between = metrics.distances(queries.features, known.features, kind)
    nearest = metrics.to_persons(between, labels, len(names))
    order = np.argsort(nearest, axis=1, kind="stable")
    limit = math.inf if threshold is None else threshold
    found = []
    for file, distances, best in zip(queries.files, nearest, order, strict=True):
        persons = [{"person": str(names[k]), "distance": float(distances[k])} for k in best]
        found.append(
            {"file": file, "person": persons[0]["person"] if distances[best[0]] <= limit else None, "nearest": persons}
        )
    lines = [
        (one["file"], one["person"] or "none of them", *(cell for near in one["nearest"][:2] for cell in near.values()))
        for one in found
    ]
    headings = ("file", "is", "nearest", "distance", "second", "distance")[: len(lines[0])]
    title = f"{len(names)} persons of {gallery}, {kind} distance"
    text = "\n".join([title, *_columns([headings, *lines])])
    about = {"source": queries.source, "kind": kind, "threshold": threshold, "queries": found}
    return about, text


def measure(
    embedded: Features, word: str, kind: str, threshold: float | None, *, first: int, plot: Path | None
) -> tuple[dict[str, Any], str]:
    """Measures identification on pictures of persons, called `word` in messages; returns as `look_up` does.

    Args:
      first: how many pictures of each person are the gallery. plot: file for the CMC.

    Raises:
      ValueError: a person has no more pictures than that, or there is only one person.
    """
    names, labels = np.unique(embedded.labels, return_inverse=True)
    counts = np.bincount(labels)
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count <= first]
    check(
        not few,
        f"{word}: of {first} in the gallery no picture is left to look for of {', '.join(few[:8])}: give a smaller "
        "--gallery, or more pictures",
    )
    check(len(names) > 1, f"{word} has pictures of one person: at least two are needed")
    seen = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # earlier ones of that person
    gallery, queries = np.flatnonzero(seen < first), np.flatnonzero(seen >= first)
    between = metrics.distances(embedded.features[queries], embedded.features[gallery], kind)
    nearest = metrics.to_persons(between, labels[gallery], len(names))
    ranks = metrics.ranks(nearest, labels[queries])
    curve = metrics.cmc(ranks, len(names))
    found: dict[str, Any] = {
        "source": embedded.source,
        "kind": kind,
        "persons": len(names),
        "gallery": len(gallery),
        "queries": len(queries),
        "rank-1": float(curve[0]),
        "rank-1, standard error": metrics.jackknife(lambda left: float(np.mean(ranks[left] == 1)), labels[queries]),
        "CMC": curve.tolist(),
    }
    text = (
        f"{word}: {found['queries']:,} pictures looked for among {found['gallery']:,} of {found['persons']:,} persons; "
        f"{kind} distance, {embedded.source}\n"
        f"rank-1   {found['rank-1']:.2%} (standard error over persons {found['rank-1, standard error']:.2%})"
    )
    text += "".join(f"\nrank-{k:<3} {curve[k - 1]:.2%}" for k in (2, 5, 10) if k < len(names))
    if threshold is not None:
        named = nearest.min(axis=1) <= threshold
        shares = {"right": named & (ranks == 1), "wrong": named & (ranks > 1), "nobody": ~named}
        found |= {"threshold": threshold} | {name: float(share.mean()) for name, share in shares.items()}
        text += f"\nwithin {threshold:g}: {found['right']:.2%} named rightly, {found['wrong']:.2%} wrongly, "
        text += f"{found['nobody']:.2%} not at all"
    if plot:
        title = f"{word}: {len(queries)} pictures among {len(gallery)} of {len(names)} persons"
        text += f"\n{figures.draw_cmc(curve, plot, title=title)}"
    return found, text


def _columns(lines: Sequence[Sequence[Any]]) -> list[str]:
    """Returns lines of cells as aligned text."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def run(given: argparse.Namespace) -> Found:
    check(bool(given.words), "name a picture and the folder of known persons, or one folder of persons to measure on")
    check(given.gallery >= 1, f"--gallery is {given.gallery}, but must be at least 1")
    *files, gallery = given.words
    if not files:
        features = persons(given, gallery)
        found = measure(features, gallery, given.distance, given.threshold, first=given.gallery, plot=given.plot)
        return *found, features.exit_code
    check(given.plot is None, "--plot draws what is measured on one folder of persons")
    known, queries = persons(given, gallery), embed(given, files)
    found = look_up(queries, known, gallery, given.distance, given.threshold)
    return *found, max(known.exit_code, queries.exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--gallery", type=int, default=1, help="to measure: pictures of each person in the gallery")
    return call(parser, run, argv)


if __name__ == "__main__":
    sys.exit(main())
