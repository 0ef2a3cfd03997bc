"""Padding, stride and channels: which outputs a convolution has, and what it costs (lectures 001 and 002).

    python -m experiments.lectures.sizes --plot=padding.png

An input of W pixels, a filter of F, padding P and stride S give (W - F + 2P) / S + 1 outputs. If that is not a whole
number, the filter does not fit: the last step would reach past the edge. Programs round down and leave pixels out.
"""

from cnn_jax.core.errors import check
from experiments.lectures import layers
from experiments.lectures.networks import convolution

PADDED = ((1, 1, 1, 0, 0), (0, 1, 1, 1, 0), (0, 0, 1, 1, 1), (0, 1, 1, 1, 0), (0, 1, 1, 0, 0))  # the slide's image
CROSS = ((1, 0, 1), (0, 1, 0), (1, 0, 1))


def quotient(size: int, kernel: int, stride: int = 1, padding: int = 0) -> float:
    """Returns (size - kernel + 2 * padding) / stride + 1, which may be a fraction."""
    return (size - kernel + 2 * padding) / stride + 1


def output(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Returns the number of outputs along an axis; raises UserError with the rule if the filter does not fit."""
    found = quotient(size, kernel, stride, padding)
    check(
        found >= 1 and found.is_integer(),
        f"a filter of {kernel} with stride {stride} and padding {padding} does not fit {size} pixels: "
        f"({size} - {kernel} + 2*{padding}) / {stride} + 1 = {found:.2f}; "
        f"{fitting(size, kernel, stride)}",
    )
    return int(found)


def paddings(size: int, kernel: int, stride: int) -> list[int]:
    """Returns the paddings below the filter's size with which it fits exactly."""
    found = ((p, quotient(size, kernel, stride, p)) for p in range(kernel))
    return [p for p, count in found if count >= 1 and count.is_integer()]


def fitting(size: int, kernel: int, stride: int) -> str:
    found = paddings(size, kernel, stride)
    return f"padding {', '.join(map(str, found))} fits" if found else "no padding of both sides fits"


def shrinking(size: int, kernel: int) -> list[int]:
    """Returns the sizes under convolutions without padding, one after the other, while the filter fits."""
    sizes = [size]
    while sizes[-1] >= kernel:
        sizes.append(output(sizes[-1], kernel))
    return sizes


def run() -> layers.Draw:
    for stride in (1, 2, 3):
        try:
            print(f"7 pixels, filter 3, stride {stride}: {output(7, 3, stride)}")
        except ValueError as error:
            print(f"7 pixels, filter 3, stride {stride}: {error}")
    print(f"the padding that keeps the size: {', '.join(f'{f}: {(f - 1) // 2}' for f in (3, 5, 7))}")
    print(f"5x5 filters on 32 pixels, without padding: {' -> '.join(map(str, shrinking(32, 5)))}")
    print(f"AlexNet's 11x11 with stride 4 on 224 pixels: {fitting(224, 11, 4)}; on 227: {fitting(227, 11, 4)}")
    for size, channels, kernel, filters, padding in ((32, 3, 5, 6, 0), (32, 3, 5, 10, 2), (28, 6, 5, 10, 0)):
        row = convolution(size, channels, filters, kernel, padding)
        made = "x".join(map(str, row.output_shape))
        print(
            f"{filters} filters {kernel}x{kernel}x{channels}, padding {padding}: {size}x{size}x{channels} -> {made}, "
            f"{row.parameters:,} parameters, {row.macs:,} MACs"
        )
    padded = layers.convolve(PADDED, CROSS, padding=1)
    print(f"\npadded example (the slide has a 4 for the 5, and a 2 for the 3 below it)\n{layers.text(padded)}")
    return layers.draw({"image": PADDED, "filter": CROSS, "map, padding 1": padded}, "Padding keeps the size")


if __name__ == "__main__":
    layers.call(run, __doc__)
