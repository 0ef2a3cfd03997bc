"""Order and batches. Batch k is a pure function of (seed, k): the only state is the number of the next step.

Examples are counted over the whole run: batch k holds the positions k*B .. k*B + B-1, and position p stands for
example p % N of epoch p // N in that epoch's own shuffle. So epochs follow each other without a gap, no example is
dropped, and a run can go on from any step.

A part is either resident (all images on the device, a batch is a vector of indices, and the step gathers) or
streamed (threads read, decode and crop; a batch holds images). Both give the same images in the same order.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data import augment, sources
from cnn_jax.errors import UserError

Batch = dict[str, np.ndarray]


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


@dataclass
class Concatenated:
    """Several sources one after another."""

    sources: Sequence[Sequence[sources.Example]]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def __getitem__(self, index: int) -> sources.Example:
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


class Part:
    """One part of a data set, ready to make batches.

    With config.data.placement "device" all images are read at once and `resident` holds them:
    {"image": uint8 [N, H, W, C], "label": int32 [N]}; batches then hold "index" in place of "image" and "label".
    """

    def __init__(self, source: Sequence[sources.Example], config: Any, *, train: bool, seed: int):
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed
        self.order = Order(seed, len(source))
        self.resident: Batch | None = None
        if config.placement == "device":
            examples = [self._example(i, i) for i in range(len(source))]
            self.resident = {name: np.stack([example[name] for example in examples]) for name in ("image", "label")}

    def __len__(self) -> int:
        return len(self.source)

    def _example(self, index: int, position: int) -> sources.Example:
        example = self.source[int(index)]
        image = augment.crop(example["image"], self.config, train=self.train, seed=self.seed, position=int(position))
        return {"image": image, "label": np.int32(example["label"])}

    def train_batches(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        """Yields the batches of the steps start .. stop-1: "image" and "label" (or "index"), and "position" [B]."""
        if self.resident is not None:
            for step in range(start, stop):
                positions = self.order.positions(step, batch_size)
                yield {
                    "index": self.order.indices(positions).astype(np.int32),
                    "position": positions.astype(np.uint32),
                }
            return

        def load(position: int) -> Batch:
            index = self.order.indices(np.asarray([position]))[0]
            return self._example(index, position) | {"position": np.uint32(position)}

        yield from self._stream(load, start * batch_size, stop * batch_size, batch_size)

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields every example once, in order: as above without "position", with "mask" float32 [B].

        The last batch is filled with copies of the first example, whose mask is 0.
        """
        count = len(self)
        padded = -(-count // batch_size) * batch_size
        if self.resident is not None:
            for start in range(0, padded, batch_size):
                index = np.arange(start, start + batch_size)
                inside = index < count
                yield {"index": np.where(inside, index, 0).astype(np.int32), "mask": inside.astype(np.float32)}
            return

        def load(position: int) -> Batch:
            index = position if position < count else 0
            return self._example(index, index) | {"mask": np.float32(position < count)}

        yield from self._stream(load, 0, padded, batch_size)

    def _stream(self, load: Any, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        """Yields load(start), load(start + 1), ... in batches, read ahead by threads."""
        import grain

        dataset = grain.MapDataset.range(start, stop).map(load).batch(batch_size)
        options = grain.ReadOptions(num_threads=self.config.workers, prefetch_buffer_size=4)
        yield from dataset.to_iter_dataset(options)


@dataclass
class Data:
    """Everything that training and evaluation need to know about the data."""

    parts: dict[str, Part]  # "train", "test" and, unless it is trained on, "validation"
    class_names: list[str]
    description: str
    image_shape: tuple[int, int, int]  # height, width, channels
    mean: np.ndarray  # float32, broadcasts against image_shape
    std: np.ndarray


def load(config: Any, seed: int) -> Data:
    """Opens config.data, reads what is resident, and measures the statistics that are not given.

    Args:
      seed: of the order, of random crops and of synthetic images.

    Raises:
      UserError: see `sources.load`.
    """
    dataset = sources.load(config, seed)
    pieces = config.train_on.split("+")
    chosen = {"train": Concatenated([dataset.parts[piece] for piece in pieces])}
    chosen |= {part: source for part, source in dataset.parts.items() if part not in pieces}
    parts = {part: Part(source, config, train=part == "train", seed=seed) for part, source in chosen.items()}
    mean, std = statistics(config, parts["train"].resident)
    return Data(
        parts, dataset.class_names, dataset.description, (*config.image_size, config.channels), mean, std
    )


def statistics(config: Any, resident: Batch | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, std) of images in [0, 1] for config.data.normalize: given, or measured on `resident`."""
    if config.normalize == "none":
        return np.float32([0.0]), np.float32([1.0])
    if config.normalize == "channel" and config.mean:
        return np.float32(config.mean), np.float32(config.std)
    if resident is None:
        raise UserError("statistics can only be measured on resident images: give config.data.mean and std")
    images = resident["image"]
    if config.normalize == "pixel":
        return (images.mean(0, dtype=np.float64) / 255).astype(np.float32), np.float32([1.0])
    values, counts = np.arange(256), [np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(images, -1, 0)]
    mean = np.array([np.average(values, weights=count) for count in counts])
    variance = np.array([np.average((values - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)])
    return (mean / 255).astype(np.float32), np.maximum(np.sqrt(variance) / 255, 1e-6).astype(np.float32)
