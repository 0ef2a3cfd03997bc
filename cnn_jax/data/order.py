"""The order of training examples. Batch k is a pure function of (seed, k): the step number is the only state.

Examples are counted over the whole run: batch k holds the positions k*B .. k*B + B-1, and position p stands for
example p % N of epoch p // N in that epoch's own shuffle. So epochs follow each other without a gap, no example is
dropped, and a run can resume from any step. `BalancedOrder` counts in the same way, over classes.
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


# ---------------------------------------------------------------- balanced

CYCLES = 256  # that are shuffled at once


@functools.lru_cache(maxsize=4)
def _cycles(seed: int, block: int, classes: int) -> np.ndarray:
    """Returns `CYCLES` shuffles of the classes, int [CYCLES, classes]."""
    random = np.random.Generator(np.random.Philox(key=[seed, block], counter=[0, 0, 0, 3]))
    return random.permuted(np.tile(np.arange(classes), (CYCLES, 1)), axis=1)


@functools.lru_cache(maxsize=4096)  # of each class one or two
def _shuffle_class(seed: int, number: int, epoch: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, number, 4])).permutation(size)


@dataclass(frozen=True, eq=False)
class BalancedOrder(Order):
    """The order in which every class comes equally often.

    Of K classes, the positions c*K .. c*K + K-1 hold each once, in a shuffle of their own: cycle c. The class's example
    there is number c % n of epoch c // n, where the class has n examples, in that epoch's own shuffle of them.
    """

    members: tuple[np.ndarray, ...]  # of each class that has examples their indices, int [n]

    @classmethod
    def of(cls, seed: int, labels: np.ndarray) -> "BalancedOrder":
        """Returns the order of examples with these labels, int [N]; those below 0 are left out."""
        members = tuple(np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0]))
        return cls(seed, len(labels), members)

    def indices(self, positions: np.ndarray) -> np.ndarray:
        cycles, slots = np.divmod(positions, len(self.members))
        numbers = np.empty_like(positions)  # of the classes
        for block in np.unique(cycles // CYCLES):
            chosen = cycles // CYCLES == block
            table = _cycles(self.seed, int(block), len(self.members))
            numbers[chosen] = table[cycles[chosen] % CYCLES, slots[chosen]]
        indices = np.empty_like(positions)
        for number in np.unique(numbers):
            of_class, members = numbers == number, self.members[number]
            epochs, offsets = np.divmod(cycles[of_class], len(members))
            found = np.empty_like(offsets)
            for epoch in np.unique(epochs):
                chosen = epochs == epoch
                found[chosen] = _shuffle_class(self.seed, int(number), int(epoch), len(members))[offsets[chosen]]
            indices[of_class] = members[found]
        return indices
