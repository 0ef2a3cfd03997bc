"""Max and average pooling (lectures 001 and 002).

    python -m experiments.lectures.pooling --plot=pooling.png

A pool keeps the largest value of each window, or its mean. It has no parameters, and a small shift of the image changes
its output little.
"""

from experiments.lectures import layers

IMAGE = ((1, 4, 6, 3), (1, 8, 9, 7), (2, 9, 1, 2), (3, 4, 4, 3))


def run() -> layers.Draw:
    found = {kind: layers.pool(IMAGE, kind, 2, 2) for kind in ("max", "average")}
    print(f"image\n{layers.text(IMAGE)}")
    for kind, values in found.items():
        print(f"\n{kind}, 2x2, stride 2\n{layers.text(values, 2 if kind == 'average' else 0)}")
    return layers.draw({"image": IMAGE} | found, "Pooling 2x2 with stride 2")


if __name__ == "__main__":
    layers.call(run, __doc__)
