"""Data sets of Hugging Face, by its library `datasets`: hf:OWNER/NAME or hf:OWNER/NAME:SUBSET of the Hub, or a folder.

A folder, config.data.dir, is what `save_to_disk` wrote, or anything that `datasets.load_dataset` reads, such as Parquet
files. Pictures are decoded as those of any other source.
"""

import contextlib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check, check_folder, near
from cnn_jax.core.files import expanded
from cnn_jax.data import shares
from cnn_jax.data.dataset import Dataset, Example
from cnn_jax.data.decode import MODES, Picture
from cnn_jax.data.sources.table import LABEL, class_names

NAME = "hf"
MOST_READ = 50_000  # pictures of a part whose content is compared when a run resumes
BLOCK = 1000  # that are read at once
GIVE_PARTS = (
    "--config.data.train='train[:80%]' --config.data.validation='train[80%:90%]' --config.data.test='train[90%:]'"
)


@dataclass
class HubSource:
    """Examples of one split. indices, labels: which ones, and their classes."""

    rows: Any  # datasets.Dataset of the column of pictures, not decoded
    indices: np.ndarray  # int [N]
    labels: np.ndarray  # int [N]
    channels: int
    where: str

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [
            {"image": self._picture(stored, i), "label": int(self.labels[i])}
            for stored, i in zip(self.stored(indices), indices, strict=True)
        ]

    def stored(self, indices: Sequence[int]) -> list[Any]:
        """Returns what is stored of pictures: {"bytes", "path"}, of which one may be None, or None."""
        (pictures,) = self.rows[[int(self.indices[i]) for i in indices]].values()
        return pictures

    def name(self, index: int) -> str:
        return f"{self.where}, example {self.indices[index]}"

    def _picture(self, stored: Mapping[str, Any] | None, index: int) -> Picture:
        if stored and stored["bytes"] is None and stored["path"]:
            return Picture(Path(stored["path"]), self.channels)
        data = stored["bytes"] if stored else None
        return Picture(self.name(index), self.channels, data or b"")  # nothing is unreadable


def _library() -> Any:
    """Returns the library `datasets`; raises UserError if it is not installed."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise UserError("data sets of Hugging Face need the library datasets: pip install 'cnn-jax[hf]'") from None
    return datasets


def _load(config: Any, datasets: Any) -> Mapping[str, Any]:
    """Returns the splits of a data set by name.

    Raises:
      UserError: there is no such data set, or it cannot be read.
    """
    _, _, name = config.name.partition(":")
    check(
        bool(name) != bool(config.dir),
        f"config.data.name is {config.name!r} and config.data.dir {config.dir!r}: name a data set of the Hub, "
        "hf:OWNER/NAME, or hf with the folder of one, --config.data.dir=FOLDER",
    )
    folder = expanded(config.dir)
    if config.dir:
        check_folder("config.data.dir", config.dir)
        check(folder.is_dir(), f"config.data.dir is {str(folder)!r}, but there is no such folder")
    saved = config.dir and any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    path, _, subset = name.partition(":")
    try:
        if saved:
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(path or str(folder), subset or None)
    except Exception as error:  # of any kind, by what the files are
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"the data set {name or str(folder)!r} cannot be loaded: {type(error).__name__}: {reason[0]}"
        ) from None
    return found if isinstance(found, Mapping) else {"train": found}


def choose_columns(where: str, features: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Returns the names of the columns of the picture and of its class.

    Raises:
      UserError: there are none, or several that may be meant.
    """
    types = {name: type(feature).__name__ for name, feature in features.items()}
    there = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    for name in columns:
        check(name in types, f"config.data.columns has {name!r}, but {where} has {there}{near(name, types)}")
    if columns:
        return list(columns)
    images = [name for name, kind in types.items() if kind == "Image"]
    labels = [name for name, kind in types.items() if kind == "ClassLabel"]
    labels = labels or [name for name in types if name.lower() in LABEL]
    check(
        len(images) == len(labels) == 1,
        f"{where} has the columns {there}: name those of picture and class, such as "
        f'--config.data.columns="({(images or list(types))[0]!r},{(labels or list(types))[0]!r})"',
    )
    return images + labels


def _labels(split: Any, column: str, where: str, names: list[str] | None) -> tuple[np.ndarray, list[str]]:
    """Returns (labels int [N], names of the classes) of a split; names: of the classes, if they are known."""
    feature, values = split.features[column], split.select_columns([column])[:][column]
    if type(feature).__name__ == "ClassLabel":
        labels, own = np.asarray([-1 if value is None else value for value in values], np.int64), list(feature.names)
        without = np.flatnonzero(labels < 0)
        check(len(without) == 0, f"{where}: {len(without):,} examples have no class, the first is {without[:1]}")
        check(names is None or own == names, f"{where} has other classes than the train part")
        return labels, own
    for i, value in enumerate(values):
        check(
            isinstance(value, (str, int)),
            f"{where}, example {i}: {column} is {value!r}, but must be a word or a whole number",
        )
    words = [str(value) for value in values]
    names = class_names(set(words)) if names is None else names
    number = {name: i for i, name in enumerate(names)}
    for i, word in enumerate(words):
        check(word in number, f"{where}, example {i}: the class {word!r} is none of the train part's")
    return np.array([number[word] for word in words], np.int64), names


def open_dataset(config: Any, seed: int) -> Dataset:
    """Opens the parts of the data set that config.data names.

    Raises:
      UserError: it cannot be loaded, has no column of pictures or of classes, or not the splits of config.data.
    """
    datasets = _library()
    splits = _load(config, datasets)
    where = config.dir or config.name
    names = list(splits)
    written, ranges = shares.choose_ranges(config, names, f"{where} has the splits {', '.join(names)}", GIVE_PARTS)
    check(
        "" not in {name for name, _, _ in ranges.values()}, f"{where} has splits: instead of shares, give {GIVE_PARTS}"
    )
    check(config.channels in MODES, f"config.data.channels is {config.channels}, but must be 1, 3 or 4")
    classes: list[str] | None = None
    parts, known = {}, {}
    for part, (name, start, stop) in ranges.items():
        split = splits[name]
        image, label = choose_columns(f"{where}, {name},", split.features, config.columns)
        if name not in known:
            check(
                type(split.features[image]).__name__ == "Image",
                f"{where}, {name}: {image} is a {type(split.features[image]).__name__}, but must be an Image",
            )
            known[name], classes = _labels(split, label, f"{where}, {name}", classes)
        chosen = shares.indices(len(split), start, stop)
        rows = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        parts[part] = HubSource(rows, chosen, known[name][chosen], config.channels, f"{where}, {name}")
    assert classes is not None
    described = ", ".join(f"{part}: {text}" for part, text in written.items())
    return Dataset(
        config.name,
        parts,
        classes,
        f"Hugging Face data set {where}; {described}",
        written,
        digest=functools.partial(_digest, parts),
    )


def _digest(parts: Mapping[str, HubSource]) -> str:
    """Returns a SHA-256 of all classes, and of the pictures: of all, or of `MOST_READ` at equal distances."""
    whole = hashlib.sha256()
    for part, source in parts.items():
        whole.update(f"{part} {len(source)}\n".encode())
        whole.update(np.ascontiguousarray(source.labels).data)
        compared = np.unique(np.linspace(0, len(source) - 1, min(len(source), MOST_READ)).astype(int))
        for start in range(0, len(compared), BLOCK):
            for stored in source.stored(compared[start : start + BLOCK].tolist()):
                data = stored["bytes"] if stored else b""
                if data is None:
                    with contextlib.suppress(OSError):  # it is reported where it is read, or skipped
                        data = Path(stored["path"]).read_bytes()
                whole.update(hashlib.sha256(data or b"").digest())
    return whole.hexdigest()
