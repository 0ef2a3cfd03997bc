"""What `verify` and `identify` share: their flags, features of pictures, and the handling of mistakes."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cnn_jax
from cnn_jax.pretrained import features
from cnn_jax.pretrained.features import Features
from experiments.faces.metrics import DISTANCES


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are ValueErrors, with the flags that both commands have."""

    def __init__(self, description: str | None):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form, allow_abbrev=False)
        self.add_argument("words", nargs="*", metavar="PICTURES", help="files, folders, or patterns in quotes")
        self.add_argument("--checkpoint", metavar="SOURCE", help="the trained network, as cnn_jax.load takes it")
        self.add_argument("--distance", default="cosine", choices=DISTANCES, help="between features")
        self.add_argument("--threshold", type=float, help="largest distance of pictures of one person")
        self.add_argument("--pixels", action="store_true", help="the network's input instead of its features")
        self.add_argument("--plot", type=Path, metavar="FILE", help="PNG file for the curve")
        self.add_argument("--format", default="text", choices=("text", "json"), help="what to print")
        self.add_argument("--batch-size", type=int, default=64, help="pictures in one step of the network")
        self.add_argument(
            "--on-error",
            default="raise",
            choices=("raise", "skip"),
            help="a picture that cannot be read ends the command, or is left out and counted",
        )
        self.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a picture")

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


Found = tuple[dict[str, Any], str, int]  # results, a text that describes them, and the exit code


def call(parser: Parser, run: Callable[[argparse.Namespace], Found], argv: Sequence[str] | None) -> int:
    """Runs a command, prints its results and returns its exit code; a user's mistake gives one message and 2.

    If a picture cannot be written, the exit code is 74, as in the commands of cnn_jax.
    """
    try:
        given = parser.parse_intermixed_args(argv)
        limit = given.threshold
        check(limit is None or 0 <= limit < math.inf, f"--threshold is {limit}, but must be a number from 0 on")
        plot = given.plot
        check(plot is None or plot.suffix == ".png", f"--plot is {str(plot)!r}, but must be a file that ends in .png")
        found, text, code = run(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except OSError as error:
        print(f"error: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 74
    print(json.dumps(found, indent=1) if given.format == "json" else text)
    return code


def check(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def embed(given: argparse.Namespace, words: list[str], *, skip: bool | None = None) -> Features:
    """Returns the features of the pictures that `words` name, by the network of --checkpoint."""
    check(bool(given.checkpoint), "name the trained network: --checkpoint=SOURCE, such as bundled:resnet20-cifar10")
    return cnn_jax.load(given.checkpoint).embed(
        words,
        pixels=given.pixels,
        batch_size=given.batch_size,
        skip=given.on_error == "skip" if skip is None else skip,
        timeout=given.timeout,
    )


def persons(given: argparse.Namespace, word: str) -> Features:
    """Returns the features of FOLDER/PERSON/..., or of an .npz file, which needs no network; each with a label.

    Raises:
      ValueError: it is neither, or pictures are outside of persons' folders.
    """
    path = Path(word).expanduser()
    if path.suffix == ".npz":
        check(not given.pixels, f"--pixels goes with pictures: {word} holds what it was written with")
        check(path.is_file(), f"there is no file {word!r}")
        found = features.read(path)
    else:
        check(not path.is_file(), f"{word} is a picture: FOLDER/PERSON/... is needed, or two pictures to verify")
        check(path.is_dir(), f"{word!r} is not a folder of persons, FOLDER/PERSON/..., and no .npz file of features")
        found = embed(given, [word])
    alone = [file for file, label in zip(found.files, found.labels, strict=True) if not label]
    check(
        not alone,
        f"{word} has pictures in no person's folder, such as {''.join(alone[:1])}: FOLDER/PERSON/... is needed",
    )
    return found
