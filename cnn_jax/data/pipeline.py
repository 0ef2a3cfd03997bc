"""Order and batches. Batch k is a pure function of (seed, k): the only state is the number of the next step.

Examples are counted over the whole run: batch k holds the positions k*B .. k*B + B-1, and position p stands for
example p % N of epoch p // N in that epoch's own shuffle. So epochs follow each other without a gap, no example is
dropped, and a run can go on from any step.

A part is either resident (all images on the device, a batch is a vector of indices, and the step gathers) or
streamed (threads read, decode and crop; a batch holds images). Both give the same images in the same order.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data import augment, sources
from cnn_jax.errors import UserError

Batch = dict[str, Any]  # of arrays, or of one example's values


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


def _filled(examples: Sequence[sources.Example | None]) -> list[sources.Example]:
    """Returns the examples of a batch with the next one that can be read in the place of each that cannot."""
    following = next((example for example in examples if example is not None), None)
    if following is None:
        raise UserError(f"none of the {len(examples)} examples of a batch can be read: check the data set")
    filled = []
    for example in reversed(examples):
        following = following if example is None else example
        filled.append(following)
    return filled[::-1]


class Part:
    """One part of a data set, ready to make batches. Nothing is read before it is needed."""

    def __init__(self, source: sources.Source, config: Any, *, train: bool, seed: int):
        self.source = source
        self.config = config
        self.train = train
        self.seed = seed
        self.order = Order(seed, len(source))
        self.is_resident = config.placement == "device"
        self.skipped: set[int] = set()  # examples that could not be read so far, with config.data.on_error="skip"

    def __len__(self) -> int:
        return len(self.source)

    @functools.cached_property
    def resident(self) -> Batch | None:
        """All images, {"image": uint8 [N, H, W, C], "label": int32 [N]}, or None for a stream."""
        if not self.is_resident:
            return None
        chunks = [range(start, min(start + 1024, len(self))) for start in range(0, len(self), 1024)]
        parts = [self._read(chunk, chunk) for chunk in chunks]
        return {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label")}

    def _read(self, indices: Iterable[int], positions: Iterable[int]) -> Batch:
        """Returns {"image", "label", "readable"} of the examples, cropped as their positions say.

        "readable" is 0 where another example stands in the place of one that is skipped.
        """
        indices = [int(i) for i in indices]
        found = self.source.read(indices)
        readable = np.array([example is not None for example in found], np.float32)
        self.skipped.update(i for i, example in zip(indices, found, strict=True) if example is None)
        examples = _filled(found)
        images = [
            augment.crop(example["image"], self.config, train=self.train, seed=self.seed, position=int(position))
            for example, position in zip(examples, positions, strict=True)
        ]
        labels = np.array([example["label"] for example in examples], np.int32)
        return {"image": np.stack(images), "label": labels, "readable": readable}

    def train_batches(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        """Yields the batches of the steps start .. stop-1: "image" and "label" (or "index"), and "position" [B]."""

        def plan(step: int) -> Batch:
            positions = self.order.positions(step, batch_size)
            return {"index": self.order.indices(positions).astype(np.int32), "position": positions.astype(np.uint32)}

        return self._batches(plan, range(start, stop))

    def test_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields every example once, in order: as above, with "mask" float32 [B] in place of "position".

        The last batch is filled with copies of the first example, whose mask is 0.
        """

        def plan(number: int) -> Batch:
            index = np.arange(number * batch_size, (number + 1) * batch_size)
            inside = index < len(self)
            return {"index": np.where(inside, index, 0).astype(np.int32), "mask": inside.astype(np.float32)}

        return self._batches(plan, range(-(-len(self) // batch_size)))

    def _batches(self, plan: Callable[[int], Batch], numbers: range) -> Iterator[Batch]:
        """Yields plan(number) as it is for a resident part, else with its images, read ahead by threads."""
        if self.is_resident:
            yield from map(plan, numbers)
            return

        def load(number: int) -> Batch:
            batch = plan(number)
            index = batch.pop("index")
            read = self._read(index, batch.get("position", index))
            readable = read.pop("readable")
            if "mask" in batch:
                batch["mask"] *= readable
            return read | batch

        yield from self._ahead(load, numbers)

    def examples(self, transform: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yields (index, transform(stored image), label) of every example that can be read, in order, read ahead."""

        def load(number: int) -> list[tuple[int, np.ndarray, int]]:
            indices = range(number * 16, min(number * 16 + 16, len(self)))
            found = self.source.read(indices)
            self.skipped.update(i for i, example in zip(indices, found, strict=True) if example is None)
            return [
                (i, transform(example["image"]), int(example["label"]))
                for i, example in zip(indices, found, strict=True)
                if example is not None
            ]

        for block in self._ahead(load, range(-(-len(self) // 16))):
            yield from block

    def _ahead(self, load: Callable[[int], Any], numbers: range) -> Iterator[Any]:
        """Yields load(number) for each, in order, loaded ahead by threads."""
        import grain

        dataset = grain.MapDataset.range(numbers.start, numbers.stop).map(load)
        options = grain.ReadOptions(num_threads=self.config.workers, prefetch_buffer_size=self.config.workers)
        yield from dataset.to_iter_dataset(options)


class Data:
    """Everything that training and evaluation need to know about the data.

    parts: "train", "test" and, unless it is trained on, "validation".
    image_shape: height, width, channels, as the network sees them; of sequences length, channels, and of clips time,
      height, width, channels.
    """

    def __init__(self, config: Any, seed: int):
        """Opens config.data; `seed` is that of the order, of random crops and of synthetic images.

        Raises:
          UserError: see `sources.load`.
        """
        dataset = sources.load(config, seed)
        chosen = dict(dataset.parts)
        if config.train_on == "train+validation":
            chosen["train"] = sources.Concatenated(chosen["train"], chosen.pop("validation"))
        self.config = config
        self.name = dataset.name
        self.parts = {part: Part(source, config, train=part == "train", seed=seed) for part, source in chosen.items()}
        self.class_names = dataset.class_names
        self.description = dataset.description
        self.chosen = dataset.chosen
        self.image_shape = (*config.image_size, config.channels)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run is on: {"name": with the version, "examples": {part: number}}."""
        return {"name": self.name, "examples": {name: len(part) for name, part in self.parts.items()}}

    @functools.cached_property
    def normalization(self) -> dict[str, np.ndarray]:
        """{"mean", "std"} of images in [0, 1], float32, given or measured; they broadcast against `image_shape`."""
        config = self.config
        if config.normalize == "none":
            return {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
        if config.normalize == "channel" and config.mean:
            return {"mean": np.asarray(config.mean, np.float32), "std": np.asarray(config.std, np.float32)}
        resident = self.parts["train"].resident
        if resident is None:
            raise UserError("statistics can only be measured on resident images: give config.data.mean and std")
        if config.normalize == "pixel":
            mean = resident["image"].mean(0, dtype=np.float64) / 255
            return {"mean": mean.astype(np.float32), "std": np.ones(1, np.float32)}
        return dict(zip(("mean", "std"), channel_statistics(resident["image"]), strict=True))


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, standard deviation) of each channel, float32 [C], of uint8 images [N, H, W, C] over 255."""
    values = np.arange(256) / 255
    # Exact and small: a histogram of 256 values in place of float copies of all images.
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
    mean = np.array([np.average(values, weights=count) for count in counts])
    variance = [np.average((values - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)]
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1e-6).astype(np.float32)
