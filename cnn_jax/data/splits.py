"""The data of a run: its splits, the names of its classes, and how images are normalized."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError
from cnn_jax.data import dataset, sources
from cnn_jax.data.loader import Split, value_type


class Splits:
    """Everything that training and evaluation need to know about the data.

    parts: "train", "test" and, unless it is trained on, "validation".
    image_shape: height, width, channels, as the network sees them; of sequences length, channels, and of clips time,
      height, width, channels.
    bytes_per_value: of images; sequences from a folder are float32.
    sizes_only: no example can be read.
    """

    def __init__(
        self,
        config: Any,
        seed: int,
        shard: tuple[int, int] = (0, 1),
        open_dataset: Callable[[Any, int], dataset.Dataset] = sources.open_dataset,
    ):
        """Opens config.data; `seed` is that of the order, of random crops and of synthetic images.

        Args:
          shard: see `Split`. open_dataset: see `setup.build`.

        Raises:
          UserError: see `sources.open_dataset`.
        """
        opened = open_dataset(config, seed)
        chosen = dict(opened.parts)
        if config.train_on == "train+validation":
            chosen["train"] = dataset.Concatenated(chosen["train"], chosen.pop("validation"))
        self.config = config
        self.name = opened.name
        self.parts = {
            part: Split(source, config, train=part == "train", seed=seed, shard=shard)
            for part, source in chosen.items()
        }
        self.class_names = opened.class_names
        self.description = opened.description
        self.chosen = opened.chosen
        self._digest = opened.digest
        self.sizes_only = opened.sizes_only
        self.image_shape = (*config.image_size, config.channels)
        self.bytes_per_value = np.dtype(value_type(config)).itemsize

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What a run is on: {"name": with the version, "examples": {part: number}, "digest": of stored data}."""
        digest = self._digest()
        found = {"name": self.name, "examples": {name: len(part) for name, part in self.parts.items()}}
        return found | ({"digest": digest} if digest else {})

    def listing(self) -> str:
        """Returns the names of all examples, the same for copies of the data in other folders."""
        named = (dataset.name(part.source, i) for part in self.parts.values() for i in range(len(part)))
        return "\n".join("/".join(Path(name).parts[-2:]) for name in named)

    @property
    def input(self) -> dict[str, Any]:
        """What a network takes and gives: the fields of `run_folder.INPUT`, as JSON has them."""
        values = {name: array.tolist() for name, array in self.normalization.items()}
        fields = {name: self.config[name] for name in dataset.SEEN}
        return fields | {"image_size": list(self.config.image_size)} | values | {"classes": list(self.class_names)}

    @functools.cached_property
    def normalization(self) -> dict[str, np.ndarray]:
        """{"mean", "std"} of images in [0, 1], float32, given or measured; they broadcast against `image_shape`.

        Of sequences from a folder they are in the units of the values. Where only the sizes of the data are known, 0.5
        replaces what would be measured.
        """
        config = self.config
        if config.normalize == "none":
            return {"mean": np.zeros(1, np.float32), "std": np.ones(1, np.float32)}
        if config.normalize == "channel" and config.mean:
            return {"mean": np.asarray(config.mean, np.float32), "std": np.asarray(config.std, np.float32)}
        if self.sizes_only:
            shape = self.image_shape if config.normalize == "pixel" else self.image_shape[-1:]
            std = np.ones(1, np.float32) if config.normalize == "pixel" else np.full(shape, 0.5, np.float32)
            return {"mean": np.full(shape, 0.5, np.float32), "std": std}
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
    # Exact and small: a histogram of 256 values instead of float copies of all images.
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)]
    mean = np.array([np.average(values, weights=count) for count in counts])
    variance = [np.average((values - m) ** 2, weights=count) for m, count in zip(mean, counts, strict=True)]
    return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1e-6).astype(np.float32)
