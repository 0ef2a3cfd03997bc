"""Flattened convolution: one axis after the other (lecture 001; Jin, Dundar, Culurciello 2014).

    python -m experiments.lectures.flattened --plot=flattened.png

A filter that is a product of one vector for each axis can be applied as three short ones: across channels, down,
across. The slide names it after SqueezeNet's Fire module; that is another idea, see `cnn_jax summary
--config=squeezenet1_0`.
"""

import numpy as np

from experiments.lectures import layers


def counts(channels: int, size: int, kernel: int, filters: int) -> dict[str, tuple[int, int]]:
    """Returns (weights, MACs) of the dense and of the flattened form, at equal map size."""
    dense = channels * kernel * kernel * filters
    flat = channels * filters + 2 * kernel * filters
    return {"dense": (dense, dense * size**2), "flattened": (flat, flat * size**2)}


def run() -> layers.Draw:
    random = np.random.default_rng(0)
    image, (across, down, over) = random.normal(size=(8, 8, 3)), (random.normal(size=n) for n in (5, 5, 3))
    whole = np.einsum("i,j,c->ijc", down, across, over)
    dense = layers.convolve(image, whole)
    steps = layers.convolve(layers.convolve(layers.convolve(image, over[None, None]), down[:, None]), across[None])
    equal = np.allclose(dense, steps, atol=1e-4)
    print(f"one 5x5x3 filter: {whole.size} weights; three vectors: {5 + 5 + 3}; equal: {equal}")
    for form, (weights, macs) in counts(192, 28, 5, 32).items():
        print(f"32 filters 5x5 on 28x28x192, {form}: {weights:,} weights, {macs:,} MACs")
    return layers.draw({"dense": dense, "in three steps": steps}, "The same map")


if __name__ == "__main__":
    layers.call(run, __doc__)
