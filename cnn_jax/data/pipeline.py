"""Order and batches. Batch k is a pure function of (seed, k): the only state is the number of the next step.

Examples are counted over the whole run: batch k holds the positions k*B .. k*B + B-1, and position p stands for
example p % N of epoch p // N in that epoch's own shuffle. So epochs follow each other without a gap, no example is
dropped, and a run can go on from any step.

A part is either resident (all images on the device, a batch is a vector of indices, and the step gathers) or
streamed (threads read, decode and crop; a batch holds images). Both give the same images in the same order.

Of P processes, process p has the rows p*B/P .. (p+1)*B/P - 1 of every batch. What a row holds depends on its position
alone, so a run can go on with any number of processes and workers.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check
from cnn_jax.data import augment, dataset, sources
from cnn_jax.data.images import UnreadableError
from cnn_jax.data.workers import read_ahead

Batch = dict[str, Any]  # of arrays, or of one example's values
CHUNK = 16  # most rows of a batch that one worker reads at once
BLOCK = 4  # examples that one worker reads at once where each may have many views


@functools.lru_cache(maxsize=2)  # a batch touches one epoch, or two
def _shuffle(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)


@dataclass(frozen=True)
class Order:
    """The order of training examples: position in the run -> index of the example."""

    seed: int
    num_examples: int

    def positions(self, step: int, batch_size: int) -> np.ndarray:
        """Returns the positions of batch `step`, int64 [B]."""
        return np.arange(step * batch_size, (step + 1) * batch_size)

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """Returns the example index of each position, int64 of the same shape."""
        epochs, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = _shuffle(self.seed, int(epoch), self.num_examples)[offsets[chosen]]
        return indices


def value_type(config: Any) -> type:
    """Returns the type of the values of examples: uint8, of sequences from a folder float32."""
    return np.float32 if config.source == "folder" and len(config.image_size) == 1 else np.uint8


class Part:
    """One part of a data set, ready to make batches. Nothing is read before it is needed.

    Args:
      shard: (number of this process, number of processes); batches have the rows of this process only.
    """

    def __init__(self, source: dataset.Source, config: Any, *, train: bool, seed: int, shard: tuple[int, int] = (0, 1)):
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed
        self.shard = shard
        self.order = Order(seed, len(source))
        self.is_resident = config.placement == "device"
        self.has_features = False
        self.skipped: set[int] = set()  # examples that could not be read so far, with config.data.on_error="skip"

    def __len__(self) -> int:
        return len(self.source)

    def keep_features(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Puts features float32 [N, ...] of all examples in the place of images from now on; the part is resident then.

        Args:
          labels: int32 [N].
        """
        self.resident = {"image": features, "label": labels}
        self.is_resident = self.has_features = True

    @functools.cached_property
    def resident(self) -> Batch | None:
        """All images, {"image": uint8 [N, H, W, C], "label": int32 [N]}, or None for a stream."""
        if not self.is_resident:
            return None
        blocks = [np.arange(start, min(start + 1024, len(self))) for start in range(0, len(self), 1024)]

        def read(block: np.ndarray) -> Batch:
            arrays: Batch = {}
            rows = range(len(block))
            self._read({"index": block, "position": block}, rows, arrays, rows, train=self.train)
            return arrays

        parts = list(self._ahead(read, blocks, ahead=len(blocks), first=lambda block: block[0]))
        return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}

    def _ahead(
        self,
        read: Callable[[Any], Any],
        tasks: Iterable[Any],
        *,
        ahead: int,
        first: Callable[[Any], int],
    ) -> Generator[Any, None, None]:
        """Yields read(task) of each, in order, read ahead by threads; first(task) is its first example."""
        done = read_ahead(
            read,
            tasks,
            workers=self.config.workers,
            ahead=ahead,
            timeout=self.config.timeout,
            describe=lambda task: f"{dataset.name(self.source, int(first(task)))}, or one read with it,",
        )
        with contextlib.closing(done):
            yield from done

    def _read(self, batch: Batch, rows: range, into: Batch, rows_of_all: range, *, train: bool) -> None:
        """Reads rows of a batch, "index" and "position", into those of the arrays "image", "label" and "readable".

        "readable" is 0 where a row is skipped. In training the next row that can be read stands in its place, after
        the last row the first; in an evaluation, whose batch has a "mask", zeros.

        Args:
          batch: all of its rows, also those of other processes. into: makes the arrays if there are none yet; they
            have `rows_of_all`.
        """
        index, position = batch["index"], batch["position"]
        found = list(self.source.read([int(index[row]) for row in rows]))[::-1]
        for row in rows:
            crop = functools.partial(
                augment.crop, config=self.config, train=train, seed=self.seed, position=int(position[row])
            )
            example = self._seen(found.pop(), int(index[row]), crop)
            readable = example is not None
            if example is None and "mask" in batch:
                shape = (*self.config.image_size, self.config.channels)
                example = {"image": np.zeros(shape, value_type(self.config)), "label": 0}
            for other in (*range(row + 1, len(index)), *range(row)):
                if example is not None:
                    break
                (stored,) = self.source.read([int(index[other])])
                example = self._seen(stored, int(index[other]), crop)
            if example is None:
                raise UserError(f"none of the {len(index)} examples of a batch can be read: check the data set")
            values = {"image": example["image"], "label": np.int32(example["label"]), "readable": np.float32(readable)}
            for name, value in values.items():
                if name not in into:  # several workers may come here at once: one array stays
                    into.setdefault(name, np.empty((len(rows_of_all), *value.shape), value.dtype))
                array = into[name]
                check(
                    array.shape[1:] == value.shape,
                    f"{dataset.name(self.source, int(index[row]))} has the shape {list(value.shape)}, but others of "
                    f"{self.config.name!r} {list(array.shape[1:])}",
                )
                array[rows_of_all.index(row)] = value

    def _seen(
        self, example: dataset.Example | None, index: int, view: Callable[[Any], np.ndarray]
    ) -> dataset.Example | None:
        """Returns an example with view(image) in the place of its image, or None if it is skipped."""
        if example is None:
            return None
        try:
            image = view(example["image"])
        except UnreadableError:
            if self.config.on_error != "skip":
                raise
            return None
        except Exception as error:
            error.add_note(f"while reading {dataset.name(self.source, index)}")
            raise
        return {"image": image, "label": example["label"]}

    def train_batches(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        """Yields the batches of the steps start .. stop-1: "image" and "label" (or "index"), and "position" [B]."""

        def plan(step: int) -> Batch:
            positions = self.order.positions(step, batch_size)
            return {"index": self.order.indices(positions).astype(np.int32), "position": positions.astype(np.uint32)}

        return self._batches(plan, range(start, stop), batch_size, train=self.train)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields every example once, in order: as above, with "mask" float32 [B] in place of "position".

        The last batch is filled with copies of the first example, whose mask is 0. All processes have as many batches.
        """

        def plan(number: int) -> Batch:
            index = np.arange(number * batch_size, (number + 1) * batch_size)
            inside = index < len(self)
            return {"index": np.where(inside, index, 0).astype(np.int32), "mask": inside.astype(np.float32)}

        return self._batches(plan, range(-(-len(self) // batch_size)), batch_size, train=False)

    @property
    def held_batches(self) -> int:
        """Most batches of images that are read ahead: those of config.data.prefetch, and one that is being finished."""
        return 0 if self.is_resident else self.config.prefetch + 1

    def rows(self, batch_size: int) -> range:
        """Returns the rows of a batch that this process has; raises UserError if the processes cannot share it."""
        process, processes = self.shard
        size, rest = divmod(batch_size, processes)
        check(not rest, f"a batch of {batch_size} cannot be shared by {processes} processes: make it divisible")
        return range(process * size, (process + 1) * size)

    def _batches(
        self, plan: Callable[[int], Batch], numbers: range, batch_size: int, *, train: bool
    ) -> Iterator[Batch]:
        """Yields the rows of plan(number): as they are for a resident part, else with images, read ahead by threads.

        In memory are at most `held_batches`, beside the one that was yielded.
        """
        rows = self.rows(batch_size)
        if self.is_resident:
            for number in numbers:
                yield {name: array[rows] for name, array in plan(number).items()}
            return
        workers, prefetch = self.config.workers, self.config.prefetch
        size = min(CHUNK, -(-len(rows) * prefetch // (2 * workers)))  # at least two chunks for each worker
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]

        planned: collections.deque[tuple[Batch, Batch]] = collections.deque()  # with the arrays that are read

        def tasks() -> Iterator[tuple[Batch, Batch, range]]:
            for number in numbers:
                planned.append((plan(number), {}))
                yield from ((*planned[-1], chunk) for chunk in chunks)

        def read(task: tuple[Batch, Batch, range]) -> None:
            batch, arrays, chunk = task
            self._read({"position": batch["index"]} | batch, chunk, arrays, rows, train=train)

        ahead = prefetch * len(chunks)
        done = self._ahead(read, tasks(), ahead=ahead, first=lambda task: task[0]["index"][task[2][0]])
        with contextlib.closing(done):
            for _ in numbers:
                for _ in chunks:
                    next(done)
                batch, arrays = planned.popleft()
                yield self._finished(arrays, {name: array[rows] for name, array in batch.items()})

    def examples(self, view: Callable[[Any], np.ndarray]) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yields (index, view(stored image), label) of every example that can be read, in order, read ahead."""
        blocks = [range(start, min(start + BLOCK, len(self))) for start in range(0, len(self), BLOCK)]

        def read(block: range) -> list[tuple[int, np.ndarray, int]]:
            seen = [(i, self._seen(stored, i, view)) for i, stored in zip(block, self.source.read(block), strict=True)]
            self.skipped.update(i for i, example in seen if example is None)
            return [(i, example["image"], int(example["label"])) for i, example in seen if example is not None]

        with contextlib.closing(
            self._ahead(read, blocks, ahead=2 * self.config.workers, first=lambda block: block[0])
        ) as done:
            for block in done:
                yield from block

    def _finished(self, arrays: Batch, batch: Batch) -> Batch:
        """Returns the rows of a planned batch with what was read, and counts what could not be."""
        index, readable = batch.pop("index"), arrays.pop("readable")
        self.skipped.update(index[readable == 0].tolist())
        if "mask" in batch:
            batch["mask"] *= readable
        return arrays | batch


class Data:
    """Everything that training and evaluation need to know about the data.

    parts: "train", "test" and, unless it is trained on, "validation".
    image_shape: height, width, channels, as the network sees them; of sequences length, channels, and of clips time,
      height, width, channels.
    bytes_per_value: of images; sequences from a folder are float32.
    """

    def __init__(self, config: Any, seed: int, shard: tuple[int, int] = (0, 1)):
        """Opens config.data; `seed` is that of the order, of random crops and of synthetic images.

        Args:
          shard: see `Part`.

        Raises:
          UserError: see `sources.load`.
        """
        opened = sources.load(config, seed)
        chosen = dict(opened.parts)
        if config.train_on == "train+validation":
            chosen["train"] = sources.Concatenated(chosen["train"], chosen.pop("validation"))
        self.config = config
        self.name = opened.name
        self.parts = {
            part: Part(source, config, train=part == "train", seed=seed, shard=shard) for part, source in chosen.items()
        }
        self.class_names = opened.class_names
        self.description = opened.description
        self.chosen = opened.chosen
        self.image_shape = (*config.image_size, config.channels)
        self.bytes_per_value = np.dtype(value_type(config)).itemsize

    @property
    def identity(self) -> dict[str, Any]:
        """What a run is on: {"name": with the version, "examples": {part: number}}."""
        return {"name": self.name, "examples": {name: len(part) for name, part in self.parts.items()}}

    def listing(self) -> str:
        """Returns the names of all examples, the same for copies of the data in other folders."""
        named = (dataset.name(part.source, i) for part in self.parts.values() for i in range(len(part)))
        return "\n".join("/".join(Path(name).parts[-2:]) for name in named)

    @property
    def input(self) -> dict[str, Any]:
        """What a network takes and gives: the fields of `workdir.INPUT`, as JSON has them."""
        values = {name: array.tolist() for name, array in self.normalization.items()}
        fields = {name: self.config[name] for name in ("image_size", "channels", "test_crop", "test_resize")}
        return fields | {"image_size": list(self.config.image_size)} | values | {"classes": list(self.class_names)}

    @functools.cached_property
    def normalization(self) -> dict[str, np.ndarray]:
        """{"mean", "std"} of images in [0, 1], float32, given or measured; they broadcast against `image_shape`.

        Of sequences from a folder they are in the units of the values.
        """
        config = self.config
        if config.normalize == "none":
            return {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
        if config.normalize == "channel" and config.mean:
            return {"mean": np.asarray(config.mean, np.float32), "std": np.asarray(config.std, np.float32)}
        resident = self.parts["train"].resident
        if resident is None:
            raise UserError("statistics can only be measured on resident images: give config.data.mean and std")
        if config.normalize == "pixel":
            unit = 255 if resident["image"].dtype == np.uint8 else 1
            mean = resident["image"].mean(0, dtype=np.float64) / unit
            return {"mean": mean.astype(np.float32), "std": np.ones(1, np.float32)}
        return dict(zip(("mean", "std"), channel_statistics(resident["image"]), strict=True))


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, standard deviation) of each channel, float32 [C]: of uint8 images over 255, or of floats."""
    if images.dtype != np.uint8:
        axes = tuple(range(images.ndim - 1))
        mean, std = images.mean(axes, np.float64), images.std(axes, np.float64)
        return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
    values = np.arange(256) / 255
    # Exact and small: a histogram of 256 values in place of float copies of all images.
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
    mean = np.array([np.average(values, weights=count) for count in counts])
    variance = [np.average((values - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)]
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1e-6).astype(np.float32)
