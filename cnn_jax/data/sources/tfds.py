"""The parts of a prepared TFDS classification data set, read by random access and without TensorFlow."""

import bisect
import concurrent.futures
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.data import prepared
from cnn_jax.data.dataset import PARTS, Dataset, Example, check_disjoint
from cnn_jax.data.decode import MODES, Picture, UnreadableError


class TFDSSource:
    """One part of a prepared data set: slices of its shards. With `skip`, a damaged record is None."""

    def __init__(self, slices: Sequence[Any], *, num_classes: int, channels: int, skip: bool = False):
        """Opens all shards, which takes about 0.2 ms each on a local disk.

        Args:
          slices: tfds.core.utils.shard_utils.FileInstruction: filename, skip, take and examples_in_shard.
        """
        self.slices = slices
        self.num_classes = num_classes
        self.channels = channels
        self.skip = skip
        self._ends = list(itertools.accumulate(piece.take for piece in slices))
        _allow_open_files(2 * len(slices))
        files = [(Path(piece.filename), piece.examples_in_shard) for piece in slices]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:  # disks may be far away
            self._readers = list(pool.map(lambda file: prepared.open_shard(*file), files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, indices: Sequence[int]) -> list[Example | None]:
        places = [self._place(int(i)) for i in indices]
        records: dict[tuple[int, int], bytes | None] = {}
        for number in {number for number, _ in places}:
            positions = sorted({position for n, position in places if n == number})
            found = prepared.read_many(self._readers[number], positions)
            records |= {(number, position): record for position, record in zip(positions, found, strict=True)}
        return [self._example(*place, records[place]) for place in places]

    def name(self, index: int) -> str:
        number, position = self._place(index)
        return f"{self.slices[number].filename}, record {position}"

    def _place(self, index: int) -> tuple[int, int]:
        """Returns (number of the slice, position in its shard) of an example."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        piece = self.slices[number]
        return number, piece.skip + index - (self._ends[number] - piece.take)

    def _example(self, number: int, position: int, record: bytes | None) -> Example | None:
        where = f"{self.slices[number].filename}, record {position}"
        try:
            if record is None:  # it, or one that was to be read with it, is damaged
                record = prepared.read_one(self._readers[number], position, where)
            image, label = prepared.parse(record, where)
            example = {"image": Picture(where, self.channels, image), "label": label}
        except UnreadableError:
            if not self.skip:
                raise
            return None
        prepared.check_label(label, self.num_classes, where)
        return example


def _allow_open_files(count: int) -> None:
    """Raises this process's own limit of open files, often 1,024, where a data set has many shards.

    Raises:
      UserError: it may not be as high as needed.
    """
    import resource  # there is none on Windows, and no array_record

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512  # what else a run opens
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    check(
        hard == resource.RLIM_INFINITY or hard >= wanted,
        f"the data set needs {wanted:,} open files, but this process may have {hard:,}: raise the limit (ulimit -Hn)",
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_dataset(config: Any, _: int) -> Dataset:
    """Opens the train, validation and test parts of config.data.

    Raises:
      UserError: the data set is not there or damaged, is not for classification, or does not have the channels or
        splits that config.data says.
    """
    directory = prepared.data_dir(config.dir)
    folder = prepared.find(config.name, directory)
    info = prepared.read_info(folder)
    prepared.check_readable(info, folder, prepared.command(config.name, directory))
    channels = info.features["image"].shape[-1]
    check(
        channels in (config.channels, None) and config.channels in MODES,
        f"config.data.channels is {config.channels}, but the images of {config.name!r} have {channels}: it must be "
        "that, 1, 3 or 4, and config.data.mean and std, where they are given, must have one value for each",
    )
    chosen = choose_parts(config, info.splits)
    label = info.features["label"]
    parts = {}
    for part, split in chosen.items():
        try:
            slices = info.splits[split].file_instructions
        except (ValueError, AssertionError, KeyError) as error:
            raise UserError(f"config.data.{part} is {split!r}, which TFDS does not read: {error}") from None
        for piece in slices:
            check(
                Path(piece.filename).resolve().parent == folder.resolve() or Path(piece.filename).parent == folder,
                f"{folder} names {piece.filename} as one of its files, which is not in it: prepare the data set again",
            )
        skip = config.on_error == "skip"
        parts[part] = TFDSSource(slices, num_classes=label.num_classes, channels=config.channels, skip=skip)
    check_disjoint(chosen, {part: pieces(split, info.splits) for part, split in chosen.items()})
    names = [label.int2str(i) for i in range(label.num_classes)]
    return Dataset(info.full_name, parts, names, f"TFDS {info.full_name} in {folder}", chosen)


def choose_parts(config: Any, splits: Mapping[str, Any]) -> dict[str, str]:
    """Returns the splits that each part is: what config.data names, and for empty names what the data set has.

    test is its "test", else its "validation"; validation its "validation" where that is not the test part, else the
    last tenth of "train"; train the rest of "train".

    Raises:
      UserError: the data set does not have a split, or config.data must choose.
    """
    written = {part: config[part].strip() for part in PARTS}
    test = written["test"] or next((name for name in ("test", "validation") if name in splits), "")
    own = "validation" in splits and "validation" not in _names(test)
    validation = written["validation"] or ("validation" if own else "train[90%:]")
    train = written["train"] or ("train[:90%]" if validation == "train[90%:]" else "train")
    chosen = {"train": train, "validation": validation, "test": test}
    for part, split in chosen.items():
        for name in _names(split):
            check(
                name in splits,
                f"config.data.{part} is {config[part]!r}, but {config.name!r} has the splits {', '.join(splits)}"
                f"{near(name, splits) or '.'} Name its part of them, such as --config.data.{part}='train[80%:]'",
            )
    return chosen


def _names(split: str) -> list[str]:
    return [piece.split("[")[0].strip() for piece in split.split("+")]


def pieces(split: str, splits: Any) -> list[tuple[str, int, int]]:
    """Returns what a part is: (split, first example, behind the last) of each of its pieces."""
    import tensorflow_datasets as tfds

    found = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    ends = [splits[piece.splitname].num_examples if piece.to is None else piece.to for piece in found]
    return [(piece.splitname, piece.from_ or 0, end) for piece, end in zip(found, ends, strict=True)]
