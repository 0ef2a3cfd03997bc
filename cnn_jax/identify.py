"""Identification: which of K known persons does a picture show, or none of them? By the nearest features.

    python -m cnn_jax.identify query.png gallery --checkpoint=runs/faces --threshold=0.2
    python -m cnn_jax.identify faces --checkpoint=runs/faces --gallery=1 --plot=cmc.png
    python -m cnn_jax.identify faces.npz

The first looks for pictures (files, folders, patterns) among those in GALLERY/PERSON/..., the last word: the nearest
picture names the person, and nobody is named where even that one is beyond the threshold. The others measure, on
FOLDER/PERSON/... or on features that `cnn_jax.embed` wrote: the first pictures of each person are the gallery, all
others are looked for.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import verification
from cnn_jax.core.errors import check
from cnn_jax.core.files import storage_errors
from cnn_jax.display import plots, tables
from cnn_jax.pretrained import inference
from cnn_jax.pretrained.inference import Embedded


def look_up(
    queries: Embedded, known: Embedded, gallery: str, kind: str, threshold: float | None
) -> tuple[dict[str, Any], str]:
    """Names the persons on pictures by those that are known, called `gallery` in messages.

    Returns:
      What was found, and the text that says it.
    """
    check(
        known.source == queries.source,
        f"{gallery} holds features of {known.source}, but --checkpoint is {queries.source}: they cannot be compared",
    )
    names, labels = np.unique(known.labels, return_inverse=True)
    between = verification.distances(queries.features, known.features, kind)
    nearest = verification.to_persons(between, labels, len(names))
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
    text = tables.render([tables.Sheet(title, headings, lines)], "text").rstrip()
    about = {"source": queries.source, "kind": kind, "threshold": threshold, "queries": found}
    return about, text


def measure(
    embedded: Embedded, word: str, kind: str, threshold: float | None, *, first: int, plot: Path | None
) -> tuple[dict[str, Any], str]:
    """Measures identification on pictures of persons, called `word` in messages; returns as `look_up` does.

    Args:
      first: how many pictures of each person are the gallery. plot: file for the CMC.

    Raises:
      UserError: a person has no more pictures than that, or there is only one person.
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
    seen = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])  # earlier ones of the same person
    gallery, queries = np.flatnonzero(seen < first), np.flatnonzero(seen >= first)
    between = verification.distances(embedded.features[queries], embedded.features[gallery], kind)
    nearest = verification.to_persons(between, labels[gallery], len(names))
    ranks = verification.ranks(nearest, labels[queries])
    curve = verification.cmc(ranks, len(names))
    found: dict[str, Any] = {
        "source": embedded.source,
        "kind": kind,
        "persons": len(names),
        "gallery": len(gallery),
        "queries": len(queries),
        "rank-1": float(curve[0]),
        "rank-1, standard error": verification.jackknife(
            lambda left: float(np.mean(ranks[left] == 1)), labels[queries]
        ),
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
        text += f"\n{plots.plot_cmc(curve, plot, title=title)}"
    return found, text


if __name__ == "__main__":
    from absl import flags

    from cnn_jax.config import commandline

    inference.define_flags()
    flags.adopt_module_key_flags(inference)  # --help shows them
    _DISTANCE = flags.DEFINE_enum("distance", "cosine", list(verification.DISTANCES), "Between features.")
    _THRESHOLD = flags.DEFINE_float(
        "threshold", None, "Beyond this distance nobody is named. Default: none is too far."
    )
    _GALLERY = flags.DEFINE_integer("gallery", 1, "To measure: pictures of each person in the gallery.", lower_bound=1)
    _PIXELS = flags.DEFINE_bool("pixels", False, "The values that the network is given in place of its features.")
    _FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "What to print.")
    _PLOT = flags.DEFINE_string("plot", None, "PNG file for the cumulative match characteristic.")

    def start(words: list[str]) -> int:
        """Runs what the command line says."""
        how, plot, threshold = inference.reading(), Path(_PLOT.value) if _PLOT.value else None, _THRESHOLD.value
        check(bool(words), "name a picture and the folder of known persons, or one folder of persons to measure on")
        inference.check_threshold(threshold)
        *files, gallery = words
        if files:
            check(plot is None, "--plot draws what is measured on one folder of persons")
            trained = inference.network()
            known = inference.persons(gallery, lambda: trained, how, pixels=_PIXELS.value)
            queries = inference.embed(trained, files, how, pixels=_PIXELS.value)
            found, text = look_up(queries, known, gallery, _DISTANCE.value, threshold)
            code = max(known.exit_code, queries.exit_code)
        else:
            if plot:
                inference.check_output(plot, "--plot", ".png")
            embedded = inference.persons(gallery, inference.network, how, pixels=_PIXELS.value)
            with storage_errors(f"--plot: {plot} cannot be written"):
                found, text = measure(embedded, gallery, _DISTANCE.value, threshold, first=_GALLERY.value, plot=plot)
            code = embedded.exit_code
        print(json.dumps(found, indent=1) if _FORMAT.value == "json" else text)
        return code

    commandline.launch(start, operands=True)
