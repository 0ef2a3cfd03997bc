"""What a user would write: a network, a plain network, data, a loss, a metric and an augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn_jax.core.rules import option
from cnn_jax.nn.family import Family


class Small(Family):
    """A few convolutions; the fields of all networks, such as norm, width and head, work as they are."""

    blocks: int = option(2, "Number of convolutions with a pool after each.")
    head: str = "gap"

    def layers(self, make):
        for i in range(1, self.blocks + 1):
            yield f"conv{i}", make.block(8 * i, 3, 1, 1)  # channels, kernel, stride, padding
            yield f"pool{i}", make.pool(self.pool, 2, 2)


class Plain(nnx.Module):
    """Stock Flax, with BatchNorm and dropout."""

    def __init__(self, *, num_classes: int, input_shape=(8, 8, 1), channels: int = 8, dtype=None, rngs: nnx.Rngs):
        self.conv = nnx.Conv(input_shape[-1], channels, (3, 3), dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(channels, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)
        self.classifier = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        return self.classifier(self.dropout(x, rngs=rngs))


def open_dataset(config):
    """Stripes and dots, as lists of (image, label)."""
    random = np.random.default_rng(0)

    def example(label):
        image = random.integers(0, 60, (8, 8), np.uint8)
        image[::2, :: 1 + label] += 150
        return image, label

    examples = [example(i % 2) for i in range(160)]
    return {
        "train": examples[:96],
        "validation": examples[96:128],
        "test": examples[128:],
        "classes": ["stripes", "dots"],
    }


def focal(logits, labels, *, gamma=2.0):
    """Lin et al. 2017, eq. 4."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - jnp.exp(-losses)) ** gamma * losses


def balanced_accuracy(probabilities, labels):
    hits = probabilities.argmax(1) == labels
    return np.mean([hits[labels == label].mean() for label in np.unique(labels)])


def darken(key, image, most):
    """Takes up to `most` from every value."""
    less = jax.random.randint(key, (), 0, most)
    return jnp.maximum(image.astype(jnp.int32) - less, 0).astype(jnp.uint8)


def sawtooth(total_steps, peak):
    """Falls to zero four times; config.optim.schedule.warmup comes before it."""
    period = total_steps / 4
    return lambda step: peak * (1 - step % period / period)


def branching(total_steps, peak):
    return lambda step: peak if step < 10 else 0.0


def negative(total_steps, peak):
    return lambda step: jnp.where(step < 150, peak, -peak)


def rising(total_steps, peak):
    return lambda step: peak * step / total_steps


def no_number(total_steps, peak):
    return lambda step: jnp.nan


def imaginary(total_steps, peak):
    return lambda step: peak * 1j


def tabulated(total_steps, peak):
    table = np.full(total_steps, peak)
    return lambda step: table[step]


def listed(total_steps, peak):
    table = [peak] * total_steps
    return lambda step: table[step]


def pairs(total_steps, peak):
    return lambda step: (step, step)


def number(*_):
    return jnp.zeros((1,))
