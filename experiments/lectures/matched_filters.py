"""Matched filters: an output is largest where the input looks like the weights (lectures 001 and 002).

    python -m experiments.lectures.matched_filters --plot=curve.png

y = w1*x1 + w2*x2 with (w1, w2) = (1, -1) is largest, among inputs of 0 and 1, at (1, 0). A filter in the form of a
curve answers most strongly where the image has that curve.
"""

import numpy as np

from experiments.lectures import layers

CURVE = np.array(
    [(0, 0, 0, 0, 0, 30, 0), (0, 0, 0, 0, 30, 0, 0), *[(0, 0, 0, 30, 0, 0, 0)] * 4, (0, 0, 0, 0, 0, 0, 0)], float
)


def answer(x: tuple[int, int]) -> int:
    return x[0] - x[1]


def picture() -> np.ndarray:
    """Returns an image 20x20 with the curve at row 8, column 3, and a square."""
    image = np.zeros((20, 20))
    image[8:15, 3:10] = CURVE * 50 / 30
    image[2:6, 13:17] = 50
    return image


def run() -> layers.Draw:
    answers = {x: answer(x) for x in ((0, 0), (0, 1), (1, 0), (1, 1))}
    print(f"x1 - x2: {answers}; largest at {max(answers, key=answers.__getitem__)}")
    found = layers.convolve(picture(), CURVE)
    row, column = np.unravel_index(found.argmax(), found.shape)
    square = found[:6, 8:].max()
    print(f"the curve is found at row {row}, column {column}: {found.max():g}; the square answers {square:g}")
    return layers.draw({"image": picture(), "filter": CURVE, "answer": found}, "A curve finds itself", numbers=False)


if __name__ == "__main__":
    layers.call(run, __doc__)
