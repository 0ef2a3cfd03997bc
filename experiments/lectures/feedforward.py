"""A convolution is a linear layer whose weights are shared or zero: W^T x (lectures 001 and 004).

    python -m experiments.lectures.feedforward --plot=matrix.png

36 pixels and 16 outputs have 576 weights if each output sees each pixel. In a 3x3 convolution, 144 of these are not
zero, and only 9 of them differ.
"""

import numpy as np

from experiments.lectures import layers
from experiments.lectures.convolution import IMAGE


def matrix(kernel: np.ndarray, size: int) -> np.ndarray:
    """Returns W [pixels, outputs] with convolve(x, kernel) = W^T x, found column by column from images of one pixel."""
    pixels = np.eye(size * size).reshape(-1, size, size)
    return np.stack([layers.convolve(pixel, kernel).ravel() for pixel in pixels])


def run() -> layers.Draw:
    kernel = np.arange(1, 10).reshape(3, 3)
    weights = matrix(kernel, 6)
    direct = layers.convolve(IMAGE, kernel)
    product = (weights.T @ np.ravel(IMAGE)).reshape(4, 4)
    print(
        f"dense: {weights.size} weights, with biases {weights.size + 16}; convolution: {kernel.size}, {kernel.size + 1}"
    )
    print(f"not zero: {np.count_nonzero(weights)}; different: {len(set(weights[weights != 0]))}")
    print(f"W^T x is the convolution: {np.array_equal(product, direct)}")
    return layers.draw({"W^T": weights.T}, "Each row is one output: the same nine weights, moved", numbers=False)


if __name__ == "__main__":
    layers.call(run, __doc__)
