"""Batches of one split: of all images on the device, or of a stream that threads read ahead.

A split is either resident (all images on the device, a batch is a vector of indices, and the step gathers) or streamed
(threads read, decode and crop; a batch holds images). Both give the same images in the same order.

Of P processes, process p has the rows p*B/P .. (p+1)*B/P - 1 of every batch. What a row holds depends on its position
alone, so a run can resume with any number of processes and workers.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check
from cnn_jax.data import crops, dataset
from cnn_jax.data.decode import UnreadableError
from cnn_jax.data.order import BalancedOrder, Order
from cnn_jax.data.workers import read_ahead

Batch = dict[str, Any]  # of arrays, or of one example's values
CHUNK = 16  # most rows of a batch that one worker reads at once
BLOCK = 4  # examples that one worker reads at once where each may have many views


def value_type(config: Any) -> type:
    """Returns the type of the values of examples: uint8, of sequences from a folder float32."""
    return np.float32 if config.source == "folder" and len(config.image_size) == 1 else np.uint8


class Buffer:
    """The arrays of a batch that threads fill row by row: "image", "label" int32, "readable" float32, 0 where skipped.

    Args:
      rows: those of the batch that this process has. name: of the data set, for messages.
    """

    def __init__(self, rows: range, name: str):
        self.rows, self.name = rows, name
        self.arrays: Batch = {"label": np.empty(len(rows), np.int32), "readable": np.empty(len(rows), np.float32)}

    def put(self, row: int, image: np.ndarray, label: int, *, readable: bool, name: str) -> None:
        """Writes one row; raises UserError if its shape is not that of the others. `name`: of the example."""
        if "image" not in self.arrays:  # several threads may come here at once: one array stays
            self.arrays.setdefault("image", np.empty((len(self.rows), *image.shape), image.dtype))
        images = self.arrays["image"]
        check(
            images.shape[1:] == image.shape,
            f"{name} has the shape {list(image.shape)}, but others of {self.name!r} {list(images.shape[1:])}",
        )
        at = self.rows.index(row)
        images[at], self.arrays["label"][at], self.arrays["readable"][at] = image, label, readable


class Split:
    """One split of a data set, ready to make batches. Nothing is read before it is needed.

    Args:
      shard: (number of this process, number of processes); batches have the rows of this process only.
    """

    def __init__(self, source: dataset.Source, config: Any, *, train: bool, seed: int, shard: tuple[int, int] = (0, 1)):
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed
        self.shard = shard
        self.is_resident = config.placement == "device"
        self.has_features = False
        self.skipped: set[int] = set()  # examples that could not be read so far, with config.data.on_error="skip"

    def __len__(self) -> int:
        return len(self.source)

    @functools.cached_property
    def order(self) -> Order:
        """The order of the examples in training."""
        if self.config.sampling == "balanced":
            return BalancedOrder.of(self.seed, dataset.labels_of(self.source))
        return Order(self.seed, len(self.source))

    def keep_features(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Puts features float32 [N, ...] of all examples instead of images from now on; the part is resident then.

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
            buffer = Buffer(range(len(block)), self.config.name)
            self._fill(buffer, {"index": block, "position": block}, buffer.rows, train=self.train)
            return buffer.arrays

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

    def _fill(self, buffer: "Buffer", batch: Batch, rows: range, *, train: bool) -> None:
        """Reads rows of a batch, which has "index" and "position" of all rows, into the buffer."""
        stored = self.source.read([int(batch["index"][row]) for row in rows])
        for row, example in zip(rows, stored, strict=True):
            crop = functools.partial(
                crops.crop, config=self.config, train=train, seed=self.seed, position=int(batch["position"][row])
            )
            seen = self._view(example, int(batch["index"][row]), crop)
            read = seen or self._substitute(batch, row, crop)
            name = dataset.name(self.source, int(batch["index"][row]))
            buffer.put(row, read["image"], int(read["label"]), readable=seen is not None, name=name)

    def _substitute(self, batch: Batch, row: int, crop: Callable[[Any], np.ndarray]) -> dataset.Example:
        """Returns what replaces an example that is skipped.

        In training that is the next row of the batch that can be read, after the last row the first; in an evaluation,
        whose batch has a "mask", zeros.
        """
        index = batch["index"]
        if "mask" in batch:
            shape = (*self.config.image_size, self.config.channels)
            return {"image": np.zeros(shape, value_type(self.config)), "label": 0}
        for other in (*range(row + 1, len(index)), *range(row)):
            (stored,) = self.source.read([int(index[other])])
            if example := self._view(stored, int(index[other]), crop):
                return example
        raise UserError(f"none of the {len(index)} examples of a batch can be read: check the data set")

    def _view(
        self, example: dataset.Example | None, index: int, view: Callable[[Any], np.ndarray]
    ) -> dataset.Example | None:
        """Returns an example with view(image) as its image, or None if it is skipped."""
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
        """Yields every example once, in order: as above, with "mask" float32 [B] instead of "position".

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

        In memory are at most `held_batches`, besides the one that was yielded.
        """
        rows = self.rows(batch_size)
        if self.is_resident:
            for number in numbers:
                yield {name: array[rows] for name, array in plan(number).items()}
            return
        workers, prefetch = self.config.workers, self.config.prefetch
        size = min(CHUNK, -(-len(rows) * prefetch // (2 * workers)))  # at least two chunks for each worker
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]

        planned: collections.deque[tuple[Batch, Buffer]] = collections.deque()

        def tasks() -> Iterator[tuple[Batch, Buffer, range]]:
            for number in numbers:
                planned.append((plan(number), Buffer(rows, self.config.name)))
                yield from ((*planned[-1], chunk) for chunk in chunks)

        def read(task: tuple[Batch, Buffer, range]) -> None:
            batch, buffer, chunk = task
            self._fill(buffer, {"position": batch["index"]} | batch, chunk, train=train)

        ahead = prefetch * len(chunks)
        done = self._ahead(read, tasks(), ahead=ahead, first=lambda task: task[0]["index"][task[2][0]])
        with contextlib.closing(done):
            for _ in numbers:
                for _ in chunks:
                    next(done)
                batch, buffer = planned.popleft()
                yield self._finished(buffer.arrays, {name: array[rows] for name, array in batch.items()})

    def examples(self, view: Callable[[Any], np.ndarray]) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yields (index, view(stored image), label) of every example that can be read, in order, read ahead."""
        blocks = [range(start, min(start + BLOCK, len(self))) for start in range(0, len(self), BLOCK)]

        def read(block: range) -> list[tuple[int, np.ndarray, int]]:
            seen = [(i, self._view(stored, i, view)) for i, stored in zip(block, self.source.read(block), strict=True)]
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
