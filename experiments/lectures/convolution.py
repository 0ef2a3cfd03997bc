"""Edge filters made by hand on the lecture's images, and one learned by gradient descent (lecture 001).

    python -m experiments.lectures.convolution --plot=edges.png

A filter slides over the image; each output is the sum of products with the pixels below it. On an image whose left
half is bright, the vertical filter answers at the edge and nowhere else. Nobody has to write the filter down: gradient
descent finds it from pairs of image and map.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lectures import layers

IMAGE = (
    (3, 0, 1, 2, 7, 4),
    (1, 5, 8, 9, 3, 1),
    (2, 7, 2, 5, 1, 3),
    (0, 1, 3, 1, 7, 8),
    (4, 2, 1, 6, 2, 8),
    (2, 4, 5, 2, 3, 9),
)
EDGE = ((10, 10, 10, 0, 0, 0),) * 6
FILTERS = {
    "vertical": ((1, 0, -1), (1, 0, -1), (1, 0, -1)),
    "horizontal": ((1, 1, 1), (0, 0, 0), (-1, -1, -1)),
    "sobel": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    "scharr": ((3, 0, -3), (10, 0, -10), (3, 0, -3)),  # the slide: "Schorr"
}


def learn(steps: int = 2000, rate: float = 0.05) -> np.ndarray:
    """Returns a 3x3 filter that gradient descent finds from random images and their maps under the vertical filter."""
    images = jax.random.normal(jax.random.key(0), (64, 6, 6, 1))
    wanted = jnp.asarray(FILTERS["vertical"], jnp.float32)[:, :, None, None]

    def maps(kernel):
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    target = maps(wanted)

    @jax.jit
    def descend(kernel):
        gradient = jax.grad(lambda kernel: jnp.mean((maps(kernel) - target) ** 2))
        return jax.lax.fori_loop(0, steps, lambda _, kernel: kernel - rate * gradient(kernel), kernel)

    return np.asarray(descend(jnp.zeros_like(wanted)))[:, :, 0, 0]


def run() -> layers.Draw:
    print(f"image\n{layers.text(IMAGE)}")
    for name, kernel in FILTERS.items():
        print(f"\n{name} filter\n{layers.text(kernel)}\nits map\n{layers.text(layers.convolve(IMAGE, kernel))}")
    print(f"\nan edge\n{layers.text(EDGE)}")
    edges = {name: layers.convolve(EDGE, kernel) for name, kernel in FILTERS.items()}
    for name, found in edges.items():
        print(f"{name}\n{layers.text(found)}")
    print(f"\nlearned from 64 images and their maps\n{layers.text(learn(), 3)}")
    return layers.draw({"image": EDGE} | edges, "A bright left half under four filters")


if __name__ == "__main__":
    layers.call(run, __doc__)
