"""Predictions of a trained network for files: the most probable classes of each, or its features."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core import compilation_cache
from cnn_jax.core.files import storage_errors, write_text
from cnn_jax.data.find import find
from cnn_jax.display import tables
from cnn_jax.pretrained import predictor

Best = list[tuple[str, float]]  # (class, probability), the most probable first


def predict(source: str, words: list[str], output: Path | None, *, top: int, form: str, **reading: Any) -> int:
    """Prints the most probable classes of the pictures that `words` name, or writes them to `output`.

    Args:
      form: table, json or csv. reading: as in `Predictor.compute`.

    Returns:
      The exit code: 1 if a file was left out.
    """
    compilation_cache.enable()
    network = predictor.load(source)
    examples = find(words, len(network.image_size))
    if examples.note:
        print(examples.note, file=sys.stderr)
    files = [example.file for example in examples.found]
    done = network.compute(files, "probabilities", **reading)
    if network.source.classes is None:
        named = "named as those of ImageNet" if network.source.num_classes == 1000 else "numbered from 0"
        print(f"{network.source.name} does not name its classes: they are {named}", file=sys.stderr)
    found = top_classes(done.values, network.classes, top)
    names = [str(files[i]) for i in done.kept]
    text = render(names, found, form, source=network.source.description, unreadable=done.unreadable)
    if output is None:
        print(text, end="")
    else:
        with storage_errors(f"--output: {output} cannot be written"):
            write_text(output, text)
    return done.exit_code


def write_features(source: str, words: list[str], output: Path, *, pixels: bool, **reading: Any) -> int:
    """Writes the features of the pictures that `words` name to a NumPy archive; returns the exit code.

    Args:
      pixels: write the network's input values instead of its features. reading: as in `Predictor.compute`.
    """
    compilation_cache.enable()
    found = predictor.load(source).embed(words, pixels=pixels, **reading)
    found.write(output)
    count, size = found.features.shape
    labels = {label for label in found.labels if label}
    print(f"{output}: {size} features of {count:,} pictures" + (f" with {len(labels)} labels" if labels else ""))
    return found.exit_code


def top_classes(probabilities: Any, classes: list[str], top: int) -> list[Best]:
    """Returns the `top` most probable classes of each row [N, K], the first of equal ones first."""
    order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :top]
    return [[(classes[k], float(row[k])) for k in best] for row, best in zip(probabilities, order, strict=True)]


def render(files: Sequence[str], found: Sequence[Best], form: str, **about: Any) -> str:
    """Returns predictions as a table, JSON or CSV. about: further entries of the JSON."""
    if form == "json":
        predictions = [
            {"file": file, "classes": [{"class": name, "probability": share} for name, share in best]}
            for file, best in zip(files, found, strict=True)
        ]
        return json.dumps({**about, "predictions": predictions}, indent=1) + "\n"
    if form == "csv":
        lines = [
            (file, rank, name, share)
            for file, best in zip(files, found, strict=True)
            for rank, (name, share) in enumerate(best, 1)
        ]
        return tables.render([tables.Sheet("", ("file", "rank", "class", "probability"), lines)], "csv")
    headings = ["file", *(text for rank in range(1, len(found[0]) + 1) for text in (f"{rank}.", ""))]
    lines = [
        (file, *(cell for name, share in best for cell in (name, tables.Share(share))))
        for file, best in zip(files, found, strict=True)
    ]
    return tables.render([tables.Sheet(about["source"], headings, lines)], "text")
