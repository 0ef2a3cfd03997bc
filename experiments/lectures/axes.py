"""Convolution along one, two and three axes, and over channels alone (lectures 001 and 002).

    python -m experiments.lectures.axes --plot=axes.png

The sum runs over the window and over all channels. A 1x1 convolution has no window: at each pixel it is a linear layer
from channel to channel.
"""

import numpy as np

from experiments.lectures import layers

SERIES = (0, 0, 1, 1, 1, 0, 0, 1)
STRIDED = ((2, 2, 3, 3, 3), (0, 1, 3, 0, 3), (2, 3, 0, 1, 3), (3, 3, 2, 1, 2), (3, 3, 0, 2, 3))  # the "3-D" slide's
KERNEL = ((2, 0, 1), (1, 0, 0), (0, 1, 1))


def run() -> layers.Draw:
    print(f"1-D: {SERIES} under (1, -1), stride 1: {layers.convolve(SERIES, (1, -1)).astype(int).tolist()}")
    print(f"     with stride 2: {layers.convolve(SERIES, (1, -1), stride=2).astype(int).tolist()}")
    clip = np.zeros((4, 5, 5))
    for frame in range(4):
        clip[frame, 2, frame] = 1  # a dot that moves to the right
    motion = np.zeros((2, 1, 2))
    motion[0, 0, 0] = motion[1, 0, 1] = 1
    answer = layers.convolve(clip, motion)
    print(f"3-D: a dot that moves to the right, under a filter over time and space: {answer.max():g} at most")
    print(f"     the same dot, backwards: at most {layers.convolve(clip[::-1], motion).max():g}")
    strided = layers.convolve(STRIDED, KERNEL, stride=2, padding=1)
    print(f"2-D: the slide that is titled 3-D, 3x3 with stride 2 and padding 1\n{layers.text(strided)}")
    image = np.random.default_rng(0).integers(0, 9, (6, 6, 32)).astype(np.float32)
    weights = np.linspace(-1, 1, 32, dtype=np.float32)
    found = layers.convolve(image, weights[None, None])
    same = np.allclose(found, image @ weights, atol=1e-4)
    print(f"1x1: 6x6x32 -> {found.shape}, 32 weights; the same as a product at each pixel: {same}")
    return layers.draw({"image": STRIDED, "filter": KERNEL, "stride 2, padding 1": strided}, "Two axes, stride 2")


if __name__ == "__main__":
    layers.call(run, __doc__)
