"""Draws the pictures of all examples.

python -m experiments.lectures.pictures docs/pictures/lectures
"""

import argparse
import contextlib
import importlib
import io
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = (
    *("axes", "backprop", "convolution", "dilation", "feedforward", "filters", "flattened", "matched_filters"),
    *("noise", "pixels", "pooling", "sizes", "toy"),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a picture for each example, NAME.png")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        module = importlib.import_module(f"experiments.lectures.{name}")
        with contextlib.redirect_stdout(io.StringIO()):
            draw = module.run()
        draw(folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
