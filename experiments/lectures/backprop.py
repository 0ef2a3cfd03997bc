"""Backpropagation's example: the errors, and "adjust it up and down a bit" for every number of the toy (lecture 002).

    python -m experiments.lectures.backprop --plot=gradient.png

The slide moves each weight up and down and looks at the error. That gives the gradient, with 2 evaluations for each
weight; backpropagation gives all of it for the price of a few evaluations. Both agree.
"""

import jax
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree

import cnn_jax
from cnn_jax.models.toy import FEATURES
from experiments.lectures import layers, toy

ANSWERS = {"X": (1, 0.92), "O": (0, 0.51)}  # (right answer, actual answer)


def errors() -> dict[str, float]:
    """Returns the error of each row of the slide's table, and their total."""
    found = {name: round(abs(right - actual), 2) for name, (right, actual) in ANSWERS.items()}
    return found | {"total": round(sum(found.values()), 2)}


def gradients(step: float = 1e-2) -> tuple[np.ndarray, np.ndarray]:
    """Returns (by moving each weight up and down by `step`, by backpropagation) of the toy's squared error on an X.

    The features are the lecture's with a little noise: the X gives equal answers, among which the largest is not
    unique.
    """
    graph, state = nnx.split(cnn_jax.create("toy", features_from="lecture"))
    weights, restore = ravel_pytree(state)
    weights += 0.1 * jax.random.normal(jax.random.key(0), weights.shape)
    image, right = toy.X[None, :, :, None].astype(np.float32), np.array([1.0, 0.0])

    def error(weights):
        return ((nnx.merge(graph, restore(weights))(image) - right) ** 2).sum()

    moves = step * np.eye(weights.size, dtype=np.float32)
    errors_of = jax.jit(jax.vmap(error))
    by_hand = (errors_of(weights + moves) - errors_of(weights - moves)) / (2 * step)
    return np.asarray(by_hand), np.asarray(jax.jit(jax.grad(error))(weights))


def run() -> layers.Draw:
    print("     right answer   actual answer   error")
    found = errors()
    for name, (right, actual) in ANSWERS.items():
        print(f"{name:4} {right:12} {actual:15} {found[name]:7}")
    print(f"total {found['total']:38}   (the slide: 0.49 and 0.57; |0 - 0.51| is 0.51)")
    by_hand, by_backprop = gradients()
    distance = np.abs(by_hand - by_backprop).max() / np.abs(by_backprop).max()
    print(
        f"\n{by_hand.size} weights of the toy, moved up and down, against backpropagation: {distance:.1e} apart at most"
    )
    shape = (len(FEATURES), 9)
    return layers.draw(
        {"up and down": by_hand[-27:].reshape(shape), "backpropagation": by_backprop[-27:].reshape(shape)},
        "The gradient, twice",
        numbers=False,
    )


if __name__ == "__main__":
    layers.call(run, __doc__)
