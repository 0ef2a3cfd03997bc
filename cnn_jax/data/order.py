"""The order of training examples. Batch k is a pure function of (seed, k): the step number is the only state.

Examples are counted over the whole run: batch k holds the positions k*B .. k*B + B-1, and position p stands for
example p % N of epoch p // N in that epoch's own shuffle. So epochs follow each other without a gap, no example is
dropped, and a run can resume from any step.
"""

import functools
from dataclasses import dataclass

import numpy as np


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
