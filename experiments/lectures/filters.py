"""What a first layer learns, compared with filters made by hand (lecture 002).

    python -m experiments.lectures.filters --plot=filters.png

The bundled ResNet-20 was trained on CIFAR-10. Each of its first 16 filters is compared with the four edge filters of
the lecture, in all directions: 1 is the same form, 0 has nothing in common.
"""

import numpy as np

import cnn_jax
from experiments.lectures import layers
from experiments.lectures.convolution import FILTERS


def learned() -> np.ndarray:
    """Returns the first kernels of the bundled ResNet-20, averaged over colors: [16, 3, 3]."""
    model = cnn_jax.load("bundled:resnet20-cifar10").model
    return np.moveaxis(np.asarray(model.conv1.kernel[...]).mean(2), -1, 0)


def similarity(kernel: np.ndarray, filter: np.ndarray) -> float:
    """Returns the largest cosine between a kernel and a filter in its four directions."""
    turned = [np.rot90(filter, turns) for turns in range(4)]
    return max(float((kernel * one).sum() / np.linalg.norm(kernel) / np.linalg.norm(one)) for one in turned)


def run() -> layers.Draw:
    kernels = learned()
    print("filter   most alike     cosine")
    for i, kernel in enumerate(kernels):
        alike = {name: similarity(kernel, np.asarray(filter, float)) for name, filter in FILTERS.items()}
        best = max(alike, key=alike.__getitem__)
        print(f"{i:6}   {best:12} {alike[best]:8.2f}")
    order = np.argsort([-max(similarity(k, np.asarray(f, float)) for f in FILTERS.values()) for k in kernels])
    chosen = {f"learned {i}": kernels[i] for i in order[:4]}
    by_hand = {name: np.asarray(filter, float) for name, filter in FILTERS.items()}
    return layers.draw(by_hand | chosen, "Filters by hand, and the learned ones that are most like them", numbers=False)


if __name__ == "__main__":
    layers.call(run, __doc__)
