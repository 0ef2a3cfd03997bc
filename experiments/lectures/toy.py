"""The X/O network step by step: three features, their maps, ReLU, pooling, votes (lecture 002).

    python -m experiments.lectures.toy --plot=toy.png

White is 1, black is -1. A feature's answer at a place is the mean of the products with the pixels there: 1 where all 9
agree. `noise.py` shows how the network learns, and how it handles noise.
"""

import numpy as np

from cnn_jax.models.toy import FEATURES
from experiments.lectures import layers


def drawn(rows: dict[int, tuple[int, ...]]) -> np.ndarray:
    """Returns an image [9, 9] with white pixels in these columns of these rows."""
    image = np.full((9, 9), -1)
    for row, columns in rows.items():
        image[row, list(columns)] = 1
    return image


X = drawn({row: (row, 8 - row) for row in range(1, 8)})
DEFORMED = drawn({1: (6,), 2: (1, 5), 3: (2, 3, 5), 4: (4,), 5: (3, 5, 6), 6: (3, 7), 7: (2,)})
RING = drawn({1: (3, 4, 5), 2: (2, 6), 3: (1, 7), 4: (1, 7), 5: (1, 7), 6: (2, 6), 7: (3, 4, 5)})


def maps(image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the answers [7, 7] of the three features."""
    return {name: layers.convolve(image, np.asarray(feature) / 9) for name, feature in FEATURES.items()}


def relu(array: np.ndarray) -> np.ndarray:
    return np.maximum(array, 0)


def pooled(array: np.ndarray) -> np.ndarray:
    """Returns the largest answers of windows of 2x2; the last windows reach past the border: 7 -> 4."""
    return layers.pool(array, "max", 2, 2, ceil=True)


def values(image: np.ndarray) -> np.ndarray:
    """Returns the maps of an image after convolution, ReLU and pooling: 3 maps of 4x4, [48]."""
    return np.concatenate([pooled(relu(answers)).ravel() for answers in maps(image).values()])


def votes(image: np.ndarray) -> tuple[float, float]:
    """Returns the votes for X and O: the values of an image, weighted by those of the lecture's X and of an O."""
    weights = np.stack([values(letter) / np.linalg.norm(values(letter)) for letter in (X, RING)])
    for_x, for_o = weights @ values(image) / np.linalg.norm(values(image))
    return float(for_x), float(for_o)


def run() -> layers.Draw:
    print(f"an X\n{layers.text(X)}")
    found = maps(X)
    for name, answers in found.items():
        print(f"\n{name}\n{layers.text(FEATURES[name])}\nits map\n{layers.text(answers, 2)}")
        print(f"pooled\n{layers.text(pooled(answers), 2)}")
    print(
        "\nReLU and pooling may change places: the largest of what is left of a window is what is left of its largest"
    )
    print(all(np.array_equal(pooled(relu(m)), relu(pooled(m))) for m in found.values()))
    equal = int((X == DEFORMED).sum())
    print(f"\na deformed X has {equal} of 81 pixels in common with the X; a pixelwise comparison calls it different.")
    print("its largest answers: " + ", ".join(f"{name} {m.max():.2f}" for name, m in maps(DEFORMED).items()))
    print(
        f"stacked: 9x9 -> 7x7x3 -> 4x4x3, and again -> 2x2x3 -> 1x1x3. {values(X).size} values of 4x4x3 vote for X, O:"
    )
    for name, image in (("X", X), ("deformed X", DEFORMED), ("O", RING)):
        print(f"  {name:10} " + ", ".join(f"{vote:.2f}" for vote in votes(image)))
    pictures = {"X": X} | {name: np.round(pooled(relu(m)), 2) for name, m in found.items()}
    return layers.draw(pictures, "An X, and what is left of its three maps after ReLU and pooling")


if __name__ == "__main__":
    layers.call(run, __doc__)
