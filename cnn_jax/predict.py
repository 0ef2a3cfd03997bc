"""Names what pictures show: the most probable classes of a trained network.

    python -m cnn_jax.predict --checkpoint=bundled:lenet5-mnist digit.png
    python -m cnn_jax.predict --checkpoint=runs/mine@best photos 'more/**/*.jpg' --top=3 --format=csv --output=found.csv

Pictures are files, folders with all below them, or patterns in quotes; for networks of sequences and clips .npy files,
and folders of frames. They are seen as in the test of the training, once.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cnn_jax.display import tables


def top_classes(probabilities: Any, classes: list[str], top: int) -> list[list[tuple[str, float]]]:
    """Returns (class, probability) of the `top` most probable classes of each row [N, K], the first of equals first."""
    import numpy as np

    order = np.argsort(-np.asarray(probabilities), axis=1, kind="stable")[:, :top]
    return [[(classes[k], float(row[k])) for k in best] for row, best in zip(probabilities, order, strict=True)]


def render(files: list[str], found: list[list[tuple[str, float]]], form: str, **about: Any) -> str:
    """Returns predictions as a table, JSON or CSV. about: what JSON says beside them."""
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


if __name__ == "__main__":
    from absl import flags

    from cnn_jax.config import commandline
    from cnn_jax.core import files
    from cnn_jax.core.errors import check
    from cnn_jax.pretrained import inference

    inference.define_flags()
    flags.adopt_module_key_flags(inference)  # --help shows them
    _TOP = flags.DEFINE_integer("top", 5, "How many classes of each picture.", lower_bound=1)
    _FORMAT = flags.DEFINE_enum("format", "table", ["table", "json", "csv"], "csv has a line for each class.")
    _OUTPUT = flags.DEFINE_string("output", None, "File to write in place of printing.")

    def start(words: list[str]) -> int:
        """Runs what the command line says."""
        check(bool(words), "name the pictures: files, folders, or patterns such as 'photos/*.jpg'")
        output = Path(_OUTPUT.value) if _OUTPUT.value else None
        if output:
            inference.check_output(output, "--output")
        trained = inference.network()
        from cnn_jax.data.find import find

        pictures = [example.file for example in find(words, len(trained.image_size))]
        done = inference.compute(trained, pictures, "probabilities", inference.reading())
        if trained.source.classes is None:
            print(f"{trained.source.name} does not name its classes: they are numbered from 0", file=sys.stderr)
        found = top_classes(done.values, trained.classes, _TOP.value)
        names = [str(pictures[i]) for i in done.kept]
        text = render(names, found, _FORMAT.value, source=trained.source.description, unreadable=done.unreadable)
        if output:
            with files.storage_errors(f"--output: {output} cannot be written"):
                files.write_text(output, text)
        else:
            print(text, end="")
        return done.exit_code

    commandline.launch(start, operands=True)
