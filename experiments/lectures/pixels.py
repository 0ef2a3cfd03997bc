"""Why not a network of linear layers? Its weights grow with the pixels (lectures 001 and 002).

    python -m experiments.lectures.pixels --plot=pixels.png

It also shows how much can be thrown away: the bundled LeNet-5 still recognizes digits with a part of the pixels set to
black, or made smaller.
"""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import cnn_jax
from cnn_jax.display import plots
from experiments.lectures import layers
from experiments.lectures.networks import total

SHARES = (0.0, 0.1, 0.2, 0.5, 0.75)


def mlp(pixels: int, hidden: int, classes: int) -> int:
    """Returns the parameters of a network with one hidden layer, biases included, counted on the network."""
    return total("mlp", input_shape=(1, pixels, 1), hidden_sizes=(hidden,), num_classes=classes).parameters


def accuracies(count: int = 500) -> dict[float, float]:
    """Returns the accuracy of the bundled LeNet-5 on digits with a share of the pixels set to black."""
    lenet = cnn_jax.load("bundled:lenet5-digits")
    digits: Any = load_digits()
    images = np.asarray(digits.images[-count:] * (255 / 16), np.uint8)[..., None]
    images = images.repeat(4, 1).repeat(4, 2)[:, 2:-2, 2:-2]  # 8x8 -> 28x28 pixels
    random = np.random.default_rng(0)
    found = {}
    for share in SHARES:
        thrown = random.random(images.shape) < share
        scores = np.asarray(lenet.probabilities(np.where(thrown, 0, images).astype(np.uint8)))
        found[share] = float((scores.argmax(1) == digits.target[-count:]).mean())
    return found


def run() -> layers.Draw:
    print(f"16x16 pixels, 100 hidden, 26 letters: {mlp(256, 100, 26):,} parameters (the slide: 28236)")
    for side, channels in ((28, 1), (256, 1), (256, 3)):
        print(f"{side}x{side}x{channels} pixels to 100 units: {side * side * channels * 100:,} weights")
    print("a convolution of 6 filters 5x5 on gray images of any size: 156 parameters")
    found = accuracies()
    print("\npixels thrown away   accuracy of the bundled LeNet-5")
    for share, accuracy in found.items():
        print(f"{share:17.0%}   {accuracy:8.1%}")

    def draw(path: Path) -> None:
        figure, axis = plots.subplots(1, figsize=(4.5, 3), layout="constrained")
        axis.plot([100 * share for share in found], [100 * accuracy for accuracy in found.values()], "o-")
        axis.set(xlabel="pixels thrown away, %", ylabel="accuracy, %", ylim=(0, 101), title="LeNet-5 on digits")
        axis.grid(alpha=0.3)
        plots.save(figure, path)

    return draw


if __name__ == "__main__":
    layers.call(run, __doc__)
