"""The X/O network step by step: three features, their maps, ReLU, pooling, votes (lecture 002).

    python -m experiments.lectures.toy --plot=toy.png

White is 1, black is -1. A feature's answer at a place is the mean of the products with the pixels there: 1 where all 9
agree. How the network learns, and what it makes of noise, is in `noise.py`.
"""

import numpy as np

from cnn_jax.models.toy import FEATURES
from experiments.lectures import layers

X = np.full((9, 9), -1)
for _i in range(1, 8):
    X[_i, _i] = X[_i, 8 - _i] = 1
DEFORMED = np.full((9, 9), -1)
for _row, _columns in {1: (6,), 2: (1, 5), 3: (2, 3, 5), 4: (4,), 5: (3, 5, 6), 6: (3, 7), 7: (2,)}.items():
    DEFORMED[_row, list(_columns)] = 1


def maps(image: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the answers [7, 7] of the three features."""
    return {name: layers.convolve(image, np.asarray(feature) / 9) for name, feature in FEATURES.items()}


def relu(array: np.ndarray) -> np.ndarray:
    return np.maximum(array, 0)


def pooled(array: np.ndarray) -> np.ndarray:
    """Returns the largest answers of windows of 2x2; the last windows reach over the border: 7 -> 4."""
    return layers.pool(array, "max", 2, 2, ceil=True)


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
    pictures = {"X": X} | {name: np.round(pooled(relu(m)), 2) for name, m in found.items()}
    return layers.draw(pictures, "An X, and what is left of its three maps after ReLU and pooling")


if __name__ == "__main__":
    layers.call(run, __doc__)
