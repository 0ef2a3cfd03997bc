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

from absl import flags

from cnn_jax import inference
from cnn_jax.commandline import launch
from cnn_jax.errors import check

flags.adopt_module_key_flags(inference)
_DISTANCE = flags.DEFINE_enum("distance", "cosine", ["cosine", "euclidean"], "Between features.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Beyond this distance nobody is named. Default: the nearest always is."
)
_GALLERY = flags.DEFINE_integer("gallery", 1, "To measure: pictures of each person in the gallery.", lower_bound=1)
_PIXELS = flags.DEFINE_bool("pixels", False, "The values that the network is given in place of its features.")
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "What to print.")
_PLOT = flags.DEFINE_string("plot", None, "PNG file for the cumulative match characteristic.")


def look_up(words: list[str], gallery: str) -> tuple[dict[str, Any], str, int]:
    """Names the persons on pictures; returns what was found, the text that says it, and the exit code."""
    import numpy as np

    from cnn_jax import tables, verification

    trained = inference.network()
    known = inference.persons(gallery, pixels=_PIXELS.value, trained=trained)
    queries = inference.embed(trained, words, pixels=_PIXELS.value)
    check(
        known.source == queries.source,
        f"{gallery} holds features of {known.source}, but --checkpoint is {queries.source}: they cannot be compared",
    )
    names, labels = np.unique(known.labels, return_inverse=True)
    between = verification.distances(queries.features, known.features, _DISTANCE.value)
    nearest = verification.to_persons(between, labels, len(names))
    order = np.argsort(nearest, axis=1, kind="stable")
    limit = math.inf if _THRESHOLD.value is None else _THRESHOLD.value
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
    title = f"{len(names)} persons of {gallery}, {_DISTANCE.value} distance"
    text = tables.render([tables.Sheet(title, headings, lines)], "text").rstrip()
    about = {"source": queries.source, "kind": _DISTANCE.value, "threshold": _THRESHOLD.value, "queries": found}
    return about, text, max(known.exit_code, queries.exit_code)


def measure(word: str) -> tuple[dict[str, Any], str, int]:
    """Measures identification on a folder of persons or on stored features; returns as `look_up` does."""
    import numpy as np

    from cnn_jax import plots, verification

    embedded, first = inference.persons(word, pixels=_PIXELS.value), _GALLERY.value
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
    between = verification.distances(embedded.features[queries], embedded.features[gallery], _DISTANCE.value)
    nearest = verification.to_persons(between, labels[gallery], len(names))
    ranks = verification.ranks(nearest, labels[queries])
    curve = verification.cmc(ranks, len(names))
    found: dict[str, Any] = {
        "source": embedded.source,
        "kind": _DISTANCE.value,
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
        f"{_DISTANCE.value} distance, {embedded.source}\n"
        f"rank-1   {found['rank-1']:.2%} (standard error over persons {found['rank-1, standard error']:.2%})"
    )
    text += "".join(f"\nrank-{k:<3} {curve[k - 1]:.2%}" for k in (2, 5, 10) if k < len(names))
    if _THRESHOLD.value is not None:
        named = nearest.min(axis=1) <= _THRESHOLD.value
        shares = {"right": named & (ranks == 1), "wrong": named & (ranks > 1), "nobody": ~named}
        found |= {"threshold": _THRESHOLD.value} | {name: float(share.mean()) for name, share in shares.items()}
        text += f"\nwithin {_THRESHOLD.value:g}: {found['right']:.2%} named rightly, {found['wrong']:.2%} wrongly, " + (
            f"of {found['nobody']:.2%} nobody"
        )
    if _PLOT.value:
        title = f"{word}: {len(queries)} pictures among {len(gallery)} of {len(names)} persons"
        text += f"\n{plots.plot_cmc(curve, Path(_PLOT.value), title=title)}"
    return found, text, embedded.exit_code


def start(words: list[str]) -> int:
    """Runs what the command line says."""
    threshold = _THRESHOLD.value
    check(bool(words), "name a picture and the folder of known persons, or one folder of persons to measure on")
    check(threshold is None or (math.isfinite(threshold) and threshold >= 0), "--threshold must be a number from 0 on")
    if len(words) > 1:
        check(_PLOT.value is None, "--plot draws what is measured on one folder of persons")
        found, text, code = look_up(words[:-1], words[-1])
    else:
        if _PLOT.value:
            inference.check_output(Path(_PLOT.value), "--plot", ".png")
        found, text, code = measure(words[0])
    print(json.dumps(found, indent=1) if _FORMAT.value == "json" else text)
    return code


if __name__ == "__main__":
    launch(start, operands=True)
