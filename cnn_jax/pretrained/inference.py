"""What the commands that use a trained network on files share: flags, reading ahead, batches, features on disk."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from cnn_jax.config import commandline
from cnn_jax.core.errors import UserError, check

# jax is imported by the functions, so that --help answers at once.


@dataclass(frozen=True)
class Reading:
    """How files are read: batch_size at a time; what cannot be read is left out with `skip`; timeout in seconds."""

    batch_size: int = 64
    skip: bool = False
    timeout: float = 600.0


def define_flags() -> None:
    """Defines --checkpoint and what else these commands share; `network` and `reading` return what they say."""
    flags.DEFINE_string("checkpoint", None, f"The trained network: {commandline.SOURCES}.")
    flags.DEFINE_integer("batch-size", 64, "Examples in one step of the network.", lower_bound=1)
    flags.DEFINE_enum(
        *("on-error", "raise", ["raise", "skip"]),
        "A file that cannot be read: ends the command, or is left out and counted.",
    )
    flags.DEFINE_float("timeout", 600.0, "Seconds to wait for a file.", lower_bound=0.001)


def reading() -> Reading:
    """Returns what the flags say."""
    values: Any = flags.FLAGS
    return Reading(values["batch-size"].value, values["on-error"].value == "skip", values["timeout"].value)


def network() -> Any:
    """Returns the `Trained` of --checkpoint."""
    source: Any = flags.FLAGS["checkpoint"].value
    check(commandline.given_config() is None, "--config goes with training: a trained network knows its own")
    check(bool(source), "name the trained network: --checkpoint=SOURCE, such as --checkpoint=bundled:lenet5-digits")
    from cnn_jax.core import compilation_cache
    from cnn_jax.pretrained import trained

    compilation_cache.enable()
    return trained.load(source)


@dataclass(frozen=True)
class Computed:
    """values: [N, F] of the files that could be read. kept: which these are. unreadable: file -> what is wrong."""

    values: Any
    kept: list[int]
    unreadable: dict[str, str]

    @property
    def exit_code(self) -> int:
        """1 if a file was left out."""
        return 1 if self.unreadable else 0


def compute(trained: Any, files: Sequence[Path], quantity: str, how: Reading) -> Computed:
    """Returns `quantity` of files: a method of `Trained`, such as "features". Threads read ahead, a bar shows how far.

    Raises:
      UserError: a file cannot be read and is not to be left out, or none can.
    """
    import numpy as np

    from cnn_jax.data.decode import UnreadableError
    from cnn_jax.data.workers import read_ahead

    def read(file: Path) -> Any:
        try:
            return trained.prepare([file])[0]
        except UnreadableError as error:
            if not how.skip:
                raise UnreadableError(f"{error}; --on-error=skip leaves such files out") from None
            return error

    size = min(how.batch_size, len(files))
    values, rows, kept, unreadable = [], [], [], {}

    def step() -> None:
        batch = np.stack(rows + [rows[0]] * (size - len(rows)))  # one shape, which is compiled once
        values.append(np.asarray(getattr(trained, quantity)(batch, prepared=True))[: len(rows)])
        rows.clear()

    reading = read_ahead(
        *(read, files),
        workers=min(32, 2 * (os.cpu_count() or 1)),
        ahead=2 * size,
        timeout=how.timeout,
        flag="--timeout",
    )
    with commandline.progress_bar("pictures", len(files)) as advance:
        for i, result in enumerate(reading):
            if isinstance(result, UnreadableError):
                unreadable[str(files[i])] = str(result)
            else:
                rows.append(result)
                kept.append(i)
            if len(rows) == size:
                step()
            advance(1)
        if rows:
            step()
    for reason in unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    check(bool(kept), f"none of the {len(files)} files can be read")
    if unreadable:
        print(f"{len(unreadable)} of {len(files)} files are left out", file=sys.stderr)
    return Computed(np.concatenate(values), kept, unreadable)


@dataclass(frozen=True)
class Embedded:
    """Features of pictures.

    features: float32 [N, F]. files: their names. labels: the class folder, or person, of each; "" where there is none.
    source: the SOURCE that computed them; with ":pixels" the values that it is given. exit_code: see `Computed`.
    """

    features: Any
    files: list[str]
    labels: list[str]
    source: str
    exit_code: int = 0


FIELDS = {"features": "f", "files": "U", "labels": "U", "source": "U"}  # of an .npz file, and their kinds of values


def embed(trained: Any, words: list[str], how: Reading, *, pixels: bool = False) -> Embedded:
    """Returns the features of the pictures that `words` name (see `data.find`); with `pixels` their values instead."""
    from cnn_jax.data.find import find

    found = find(words, len(trained.image_size))
    done = compute(trained, [example.file for example in found], "pixels" if pixels else "features", how)
    kept = [found[i] for i in done.kept]
    return Embedded(
        done.values,
        [str(example.file) for example in kept],
        [example.group for example in kept],
        trained.source.name + (":pixels" if pixels else ""),
        done.exit_code,
    )


def persons(word: str, trained: Callable[[], Any], how: Reading, *, pixels: bool = False) -> Embedded:
    """Returns the features of FOLDER/PERSON/..., or of an .npz file, which needs no network; each with a label.

    Args:
      trained: returns the network, where one is needed.
    """
    path = Path(word)
    if path.suffix == ".npz":
        check(not pixels, f"--pixels goes with pictures: {word} holds what it was written with")
        check(path.is_file(), f"there is no file {word!r}")
        embedded = read_features(path)
    else:
        check(not path.is_file(), f"{word} is a picture: FOLDER/PERSON/... is needed, or two pictures to verify")
        check(path.is_dir(), f"{word!r} is no folder of persons, FOLDER/PERSON/..., and no .npz file of features")
        embedded = embed(trained(), [word], how, pixels=pixels)
    alone = [file for file, label in zip(embedded.files, embedded.labels, strict=True) if not label]
    check(
        not alone,
        f"{word} has pictures in no person's folder, such as {''.join(alone[:1])}: FOLDER/PERSON/... is needed",
    )
    return embedded


def write_features(path: Path, embedded: Embedded) -> None:
    """Writes features as a NumPy archive in one piece: `FIELDS`, labels only if there are any."""
    import numpy as np

    from cnn_jax.core.files import storage_errors

    arrays = {name: np.array(getattr(embedded, name)) for name in FIELDS if name != "labels" or any(embedded.labels)}
    partial = path.with_name(path.name + ".partial")
    with storage_errors(f"{path} cannot be written"), partial.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    partial.replace(path)


def read_features(path: Path) -> Embedded:
    """Returns what `write_features` wrote; nothing in the file is executed.

    Raises:
      UserError: it is no such file.
    """
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file:
            check(zipfile.is_zipfile(file), f"{path} cannot be read as features: it is no archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in FIELDS if name in archive.files}
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as features: {error}") from None
    arrays.setdefault("labels", np.array([""] * len(arrays.get("files", ()))))
    shapes = {name: array.shape for name, array in arrays.items()}
    count, *size = shapes.get("features", (0,)) or (0,)
    right = {"features": (count, *size), "files": (count,), "labels": (count,), "source": ()}
    check(
        (shapes == right and count > 0 and len(size) == 1)
        and all(arrays[name].dtype.kind == kind for name, kind in FIELDS.items()),
        f"{path} holds no features: python -m cnn_jax.embed writes them",
    )
    check(bool(np.isfinite(arrays["features"]).all()), f"{path} has features that are not finite")
    return Embedded(arrays["features"], arrays["files"].tolist(), arrays["labels"].tolist(), str(arrays["source"]))


def check_threshold(value: float | None) -> None:
    """Raises UserError if a threshold is no distance."""
    check(value is None or 0 <= value < math.inf, f"--threshold is {value}, but must be a number from 0 on")


def check_output(path: Path, flag: str, suffix: str = "") -> None:
    """Raises UserError, before anything is computed, if a file cannot be written there or should end otherwise."""
    check(not suffix or path.suffix == suffix, f"{flag} is {str(path)!r}, but must be a file that ends in {suffix}")
    check(not path.is_dir(), f"{flag}: {str(path)!r} is a folder: name a file")
    check(path.parent.is_dir(), f"{flag}: there is no folder {str(path.parent)!r}")
