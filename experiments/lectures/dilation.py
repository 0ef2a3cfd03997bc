"""Dilated convolution: a wider view at the same cost (lecture 001).

    python -m experiments.lectures.dilation --plot=dilation.png

With rates 1, 2, 4, 8, ... the receptive field doubles with each layer, with 9 weights each and no pixel lost. The
picture is the gradient of one output with respect to the image: what the output sees.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lectures import layers


def seen(rates: tuple[int, ...], size: int = 33) -> np.ndarray:
    """Returns which pixels [size, size] the middle output of 3x3 convolutions of these rates depends on, 0 or 1."""
    kernel = jnp.ones((3, 3, 1, 1))

    def middle(image):
        for rate in rates:
            image = jax.lax.conv_general_dilated(
                *(image, kernel, (1, 1), [(rate, rate)] * 2),
                rhs_dilation=(rate, rate),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return image[0, size // 2, size // 2, 0]

    return np.asarray(jax.grad(middle)(jnp.ones((1, size, size, 1))) != 0).astype(int)[0, :, :, 0]


def field(rates: tuple[int, ...]) -> int:
    """Returns the receptive field along an axis, pixels."""
    columns = np.flatnonzero(seen(rates).any(0))
    return int(columns[-1] - columns[0] + 1)


def run() -> layers.Draw:
    print("a 3x3 kernel of rate 2 spans", field((2,)), "pixels with 9 weights")
    for rates in ((1, 1, 1, 1), (1, 2, 4, 8)):
        print(f"rates {rates}: receptive field {[field(rates[:i]) for i in range(1, 5)]}, {9 * len(rates)} weights")
    pictures = {f"rates {', '.join(map(str, (1, 2, 4, 8)[:i]))}": seen((1, 2, 4, 8)[:i]) for i in (1, 2, 3, 4)}
    return layers.draw(pictures, "What one output sees", numbers=False)


if __name__ == "__main__":
    layers.call(run, __doc__)
