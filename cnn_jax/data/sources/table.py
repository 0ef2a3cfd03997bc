"""A table of pictures and their classes, in a .csv, .tsv or .parquet file:

path,label,split
ants/a.jpg,ant,train
b.jpg,bee,test

Paths are relative to the folder of the table. Without the column "split" the parts are shares of all rows.
"""

import csv
import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check, check_folder, near
from cnn_jax.core.files import expanded
from cnn_jax.data import shares
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.sources.folder import FolderSource, digest

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
SUFFIXES = (*DELIMITERS, PARQUET)
# What a column may be called, in any case, where config.data.columns does not name it.
IMAGE = ("path", "file", "image", "filename", "file_name")
LABEL = ("label", "class")
SPLIT = "split"


def is_table(file: Path) -> bool:
    """Returns whether the name is that of a table."""
    return file.suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Row:
    """A picture. number: of its line in a .csv or .tsv file, or of its row, from 1. split: "" without the column."""

    number: int
    path: str
    label: str
    split: str


# ---------------------------------------------------------------- reading


def read(file: Path, columns: Sequence[str] = ()) -> list[Row]:
    """Returns the rows of a table.

    Args:
      columns: names of the columns of the picture and of its class; (): those of `IMAGE` and `LABEL`.

    Raises:
      UserError: it is not a table, it lacks a column, or a row lacks a value; the message has its line.
    """
    check(is_table(file), f"config.data.dir is {str(file)!r}, but must be a table: {', '.join(SUFFIXES)}")
    check(file.is_file(), f"config.data.dir is {str(file)!r}, but there is no such file")
    what = "row" if file.suffix.lower() == PARQUET else "line"
    rows = []
    seen: dict[str, int] = {}
    for number, values in (_parquet if what == "row" else _delimited)(file, columns):
        for name, value in zip(("picture", "class", "split"), values, strict=False):
            check(bool(value), f"{file}, {what} {number} has no {name}")
        path, label, *split = values
        check(
            path not in seen,
            f"{file}, {what} {number} has the picture {path!r} of {what} {seen.get(path)} again: name each once",
        )
        seen[path] = number
        rows.append(Row(number, path, unicodedata.normalize("NFC", label), *(split or [""])))
    check(bool(rows), f"{file} has no rows")
    return rows


def has_splits(file: Path, columns: Sequence[str] = ()) -> bool:
    """Returns whether a table names the parts; for the rest see `read`."""
    return any(row.split for row in read(file, columns))


def choose_columns(file: Path, header: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Returns the names of the columns of the picture, of its class and, if there is one, of its split.

    Raises:
      UserError: there are none, or several that may be meant.
    """
    names = ", ".join(header)
    check(len(set(header)) == len(header), f"{file} has two columns of one name: {names}")
    for name in columns:
        check(name in header, f"config.data.columns has {name!r}, but {file} has {names}{near(name, header)}")
    chosen = list(columns)
    for what, known in () if columns else (("picture", IMAGE), ("class", LABEL)):
        found = [name for name in header if name.strip().lower() in known]
        check(
            len(found) == 1,
            f"{file} has {'no column' if not found else 'several columns'} of the {what} ({', '.join(known)}), but "
            f"{names}: name the columns of picture and class, such as "
            f'--config.data.columns="({header[0]!r},{header[-1]!r})"',
        )
        chosen += found
    return chosen + [name for name in header if name.strip().lower() == SPLIT and name not in chosen]


def _delimited(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, values of the chosen columns) of each row."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=DELIMITERS[file.suffix.lower()], strict=True)
        try:
            header = next(reader, [])
            check(bool(header), f"{file} is empty: its first line must name the columns")
            places = [header.index(name) for name in choose_columns(file, header, columns)]
            for row in reader:
                if row:  # blank lines
                    check(
                        len(row) == len(header),
                        f"{file}, line {reader.line_num} has {len(row)} values, but the first line {len(header)}",
                    )
                    yield reader.line_num, [row[place].strip() for place in places]
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num} cannot be read: {error}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{file}, after line {reader.line_num}: {error.reason}: save it as UTF-8") from None


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (row, values of the chosen columns), as `_delimited` does."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(
            f"{file} needs pyarrow to be read: pip install 'cnn-jax[parquet]', or save the table as .csv"
        ) from None
    try:
        with parquet.ParquetFile(file) as opened:
            chosen = choose_columns(file, opened.schema_arrow.names, columns)
            table = opened.read(columns=chosen)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    for number, values in enumerate(zip(*(table[name].to_pylist() for name in chosen), strict=True), start=1):
        for name, value in zip(chosen, values, strict=True):
            check(
                value is None or isinstance(value, (str, int)),
                f"{file}, row {number}: {name} is a {type(value).__name__}, but must be a word or a whole number",
            )
        yield number, ["" if value is None else str(value).strip() for value in values]


# ---------------------------------------------------------------- parts


def class_names(labels: set[str]) -> list[str]:
    """Returns labels in the order of the classes: whole numbers by value, anything else by spelling."""
    return sorted(labels, key=int if all(label.isdecimal() for label in labels) else str)


def _files(table: Path, rows: Sequence[Row]) -> list[Path]:
    """Returns the file of each row; raises UserError, which names the first ones, if there are rows without one."""
    files = [table.parent / expanded(row.path) for row in rows]
    missing = [row for row, file in zip(rows, files, strict=True) if not _is_file(file)]
    what = "row" if table.suffix.lower() == PARQUET else "line"
    first = "; ".join(f"{what} {row.number}: {row.path}" for row in missing[:3])
    check(
        not missing,
        f"{table}: {len(missing):,} of {len(rows):,} pictures are not there ({first}). Paths are relative to "
        f"{table.parent}",
    )
    return files


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def open_dataset(config: Any, seed: int) -> Dataset:
    """Opens the parts of the table that config.data.dir names.

    Raises:
      UserError: see `read`; a picture is not there, a part is none of the table's, parts overlap, or a class is none of
        the train part's split.
    """
    check_folder("config.data.dir", config.dir)
    check(bool(config.dir), "name the table: --config.data.dir=FILE.csv")
    table = expanded(config.dir)
    rows = read(table, config.columns)
    splits = list(dict.fromkeys(row.split for row in rows if row.split))
    there = f"has the splits {', '.join(splits[:8])}" if splits else f"has no column {SPLIT!r}"
    written, ranges = shares.choose_ranges(config, splits, f"{table} {there}", shares.GIVE_SHARES)
    chosen: dict[str, list[Row]] = {}
    for part, (name, start, stop) in ranges.items():
        own = [row for row in rows if not name or row.split == name]
        chosen[part] = [own[i] for i in shares.indices(len(own), start, stop)]
    split = ranges["train"][0]
    names = class_names({row.label for row in rows if not split or row.split == split})
    number = {name: i for i, name in enumerate(names)}
    parts, files = {}, []
    for part, own in chosen.items():
        for row in own:
            check(
                row.label in number,
                f"{table}: the class {row.label!r} of {row.path} is none of the train part's{near(row.label, names)}",
            )
        labels = np.array([number[row.label] for row in own], np.int32)
        parts[part] = FolderSource(_files(table, own), labels, config.channels, axes=2)
        files += parts[part].files
    used = {name for name, _, _ in ranges.values()}
    unused = [] if "" in used else [name for name in splits if name not in used]
    description = [f"pictures of {config.dir}", ", ".join(f"{part}: {text}" for part, text in written.items())]
    if unused:
        description.append(f"splits that are left out: {', '.join(unused)}")
    return Dataset(
        "table",
        parts,
        names,
        "; ".join(description),
        written,
        digest=functools.partial(_digest, table.parent, [row for own in chosen.values() for row in own], files),
    )


def _digest(root: Path, rows: Sequence[Row], files: Sequence[Path]) -> str:
    """Returns a SHA-256 of the pictures as the table names them, of what their files hold, and of their classes."""
    names = {file: row.path for row, file in zip(rows, files, strict=True)}
    text = json.dumps([digest(root, files, names), *((row.path, row.label, row.split) for row in rows)])
    return hashlib.sha256(text.encode()).hexdigest()
