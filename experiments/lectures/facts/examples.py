"""Worked examples of lectures 001, 002 and 004: images, filters, sizes, pools, dilation, backpropagation."""

from typing import Any

import numpy as np

from experiments.lectures import (
    axes,
    backprop,
    convolution,
    dilation,
    feedforward,
    layers,
    matched_filters,
    pixels,
    pooling,
    sizes,
)
from experiments.lectures.facts.fact import Fact

EDGE_MAPS = {
    "vertical": [[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16]],
    "horizontal": [[-7, -11, 2, 4], [10, 17, 9, -3], [4, 5, -1, -7], [-7, -6, 1, 2]],
    "sobel": [[-12, -8, 5, 16], [-10, 0, 3, 5], [-3, -2, -8, -14], [0, -6, -4, -18]],
    "scharr": [[-64, -40, 35, 80], [-30, 8, 13, 23], [-21, -6, -40, -70], [12, -34, -16, -62]],
}


def whole(array: Any) -> list:
    return np.rint(np.asarray(array)).astype(int).tolist()


def first_weights(count: int) -> int:
    """Returns the weights from an image of `count` pixels to 100 units, without biases."""
    return pixels.mlp(count, 100, 10) - 100 - (100 * 10 + 10)


def facts() -> list[Fact]:
    slide_padded = [[2, 2, 3, 1, 1], [1, 4, 3, 4, 1], [2, 2, 4, 3, 3], [1, 2, 3, 4, 1], [1, 2, 3, 1, 1]]
    padded = [[2, 2, 3, 1, 1], [1, 4, 3, 4, 1], [2, 2, 5, 3, 3], [1, 3, 3, 4, 1], [1, 2, 3, 1, 1]]
    small = ((1, 5, 3, 9), (4, 4, 7, 5), (6, 7, 5, 6), (6, 5, 3, 1))
    ones = [[14, 24, 33, 24], [27, 42, 51, 35], [32, 47, 43, 27], [24, 32, 27, 15]]
    shown = [[14, 24, 33, 24], [27, 41, 42, 21], [33, 32, 35, 27], [24, 32, 27, 15]]
    found = [
        Fact(
            *("001", f"edge under the {name} filter", edge, edge),
            lambda name=name: whole(layers.convolve(convolution.EDGE, convolution.FILTERS[name])),
            'the slide: "Schorr"' if name == "scharr" else "",
        )
        for name, value in (("vertical", 30), ("horizontal", 0), ("sobel", 40), ("scharr", 160))
        for edge in [[[0, value, value, 0]] * 4]
    ]
    found += [
        Fact(
            *("001", f"6x6 image under the {name} filter", expected, expected),
            lambda name=name: whole(layers.convolve(convolution.IMAGE, convolution.FILTERS[name])),
        )
        for name, expected in EDGE_MAPS.items()
    ]
    found += [
        Fact(
            *("001", "a filter found by gradient descent", None, [[1, 0, -1]] * 3),
            lambda: whole(convolution.learn()),
            "the slide has w1 to w9",
        ),
        Fact(
            "001",
            "weights of a dense layer 36 to 16",
            "576",
            36 * 16,
            lambda: feedforward.matrix(np.ones((3, 3)), 6).size,
        ),
        Fact(
            *("004", "of them not zero in a convolution", None, 9 * 16),
            lambda: np.count_nonzero(feedforward.matrix(np.ones((3, 3)), 6)),
            "the slide shows the others in grey",
        ),
        Fact(
            *("001", "5x5 image, padding 1", slide_padded, padded),
            lambda: whole(layers.convolve(sizes.PADDED, sizes.CROSS, padding=1)),
            "4 for 5 and 2 for 3, for the image that is printed",
        ),
        Fact(
            *("001", "max pooling 2x2", [[8, 9], [9, 4]], [[8, 9], [9, 4]]),
            lambda: whole(layers.pool(pooling.IMAGE, "max", 2, 2)),
        ),
        Fact(
            *("001", "average pooling 2x2", [[3.5, 6.25], [4.5, 2.5]], [[14 / 4, 25 / 4], [18 / 4, 10 / 4]]),
            lambda: layers.pool(pooling.IMAGE, "average", 2, 2).tolist(),
        ),
        Fact(
            *("002", "max pooling 2x2", [[3, 9], [3, 7]], [[3, 9], [3, 7]]),
            lambda: whole(layers.pool(((0, 1, 4, 9), (3, 2, 5, 8), (1, 2, 3, 1), (3, 1, 7, 4)), "max", 2, 2)),
        ),
        Fact("001", "span of a 3x3 kernel of rate 2", "5", 1 + 2 * 2, lambda: dilation.field((2,))),
        Fact(
            *("001", "receptive field at rates 1, 2, 4, 8", None, [3, 7, 15, 31]),
            lambda: [dilation.field((1, 2, 4, 8)[:i]) for i in range(1, 5)],
            "exponential, says the slide",
        ),
        Fact(
            *("001", '"3D convolution"', [[1, 6, 5], [7, 10, 9], [7, 10, 8]], [[1, 5, 6], [7, 8, 3], [3, 10, 4]]),
            lambda: whole(layers.convolve(axes.STRIDED, axes.KERNEL, stride=2, padding=1)),
            "a 2-D example; other numbers for the printed kernel",
        ),
        Fact(
            *("002", "VGG's example of 4x4", shown, ones),
            lambda: whole(layers.convolve(small, np.ones((3, 3)), padding=1)),
            "no 3x3 filter gives the slide's map; all ones come nearest",
        ),
        Fact(
            "001",
            "MLP 16x16-100-26",
            "28236",
            256 * 100 + 100 + 100 * 26 + 26,
            lambda: pixels.mlp(256, 100, 26),
            "digits swapped",
        ),
        Fact("002", "MLP 784-100, weights", "78K", 78_400, lambda: first_weights(784)),
        Fact(
            *("002", "pixels of 256x256", "56,000", 65_536),
            lambda: first_weights(256 * 256) // 100,
        ),
        Fact("002", "weights of 256x256 to 100 units", "560K", 65_536 * 100, lambda: first_weights(256 * 256)),
        Fact(
            *("002", "errors of the backprop table", [0.08, 0.49, 0.57], [0.08, 0.51, 0.59]),
            lambda: list(backprop.errors().values()),
            "|0 - 0.51| is 0.51",
        ),
        Fact("002", "7 pixels, filter 3, stride 1", "5", 5, lambda: sizes.output(7, 3, 1)),
        Fact("002", "7 pixels, filter 3, stride 2", "3", 3, lambda: sizes.output(7, 3, 2)),
        Fact(
            *("002", "paddings at which stride 3 fits 7 pixels", None, [1]),
            lambda: sizes.paddings(7, 3, 3),
            "it does not fit without, as the slide says",
        ),
        Fact(
            *("002", "32 pixels under 5x5 filters", [32, 28, 24], [32, 28, 24]),
            lambda: sizes.shrinking(32, 5)[:3],
        ),
        Fact(
            *("001", "6x6 image, vertical filter, stride 3", [[-5, 8], [-3, -16]], [[-5, 8], [-3, -16]]),
            lambda: whole(layers.convolve(convolution.IMAGE, convolution.FILTERS["vertical"], stride=3)),
        ),
        Fact(
            *("001", "first output of the 5x5 image", "4", 1 + 1 + 1 + 1),
            lambda: int(layers.convolve(sizes.PADDED, sizes.CROSS)[0, 0]),
        ),
        Fact(
            *("001", "two filters 3x3x3 on 6x6x3", [4, 4, 2], [4, 4, 2]),
            lambda: list(layers.convolve(np.ones((6, 6, 3)), *[np.ones((3, 3, 3))] * 2).shape),
        ),
        Fact("002", "7 pixels, filter 3, padding 1", "7", 7, lambda: sizes.output(7, 3, 1, 1)),
        Fact(
            *("002", "paddings that keep the size, of 3, 5, 7", [1, 2, 3], [1, 2, 3]),
            lambda: [next(p for p in range(f) if sizes.output(32, f, 1, p) == 32) for f in (3, 5, 7)],
        ),
        Fact(
            *("002", "paddings at which F=5, S=2 fits 32 pixels", None, []),
            lambda: sizes.paddings(32, 5, 2),
            'the slide: "whatever fits"; 27 + 2P is odd, so none does; any fits an odd size',
        ),
        Fact(
            *("002", "six 5x5 filters on 32x32x3", [28, 28, 6], [28, 28, 6]),
            lambda: list(layers.convolve(np.ones((32, 32, 3)), *[np.ones((5, 5, 3))] * 6).shape),
        ),
        Fact(
            *("002", "largest of x1 - x2 at", [1, 0], [1, 0]),
            lambda: max(((a, b) for a in (0, 1) for b in (0, 1)), key=matched_filters.answer),
        ),
    ]
    return found
