"""Noise with random labels: for measuring speed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnn_jax.data.dataset import PARTS, Dataset, Example, check_num_images


@dataclass
class NoiseSource:
    """Noise images with random labels: example i depends on (seed, i) only."""

    num_images: int
    shape: tuple[int, ...]
    num_classes: int
    seed: int

    def __len__(self) -> int:
        return self.num_images

    def read(self, indices: Sequence[int]) -> list[Example]:
        return [self._example(i) for i in indices]

    def _example(self, index: int) -> Example:
        random = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        image = random.integers(0, 256, self.shape, np.uint8)
        return {"image": image, "label": int(random.integers(self.num_classes))}


def open_dataset(config: Any, seed: int) -> Dataset:
    check_num_images(config)
    shape = (*config.image_size, config.channels)
    parts = {
        part: NoiseSource(size, shape, config.num_classes, seed * len(PARTS) + i)
        for i, (part, size) in enumerate(zip(PARTS, config.num_images, strict=True))
    }
    names = [str(i) for i in range(config.num_classes)]
    return Dataset("synthetic", parts, names, "noise with random labels: nothing can be learned from it")
