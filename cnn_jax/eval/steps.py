"""The jitted steps of evaluation: metrics, class probabilities, features, BatchNorm statistics."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn_jax.data import augment
from cnn_jax.nn import cpu
from cnn_jax.nn.graph import Graph

NO_RANK = jnp.iinfo(jnp.int32).max  # of a label where scores are NaN: never a hit

LANES = 128  # lanes of a TPU's vector unit

Tree = Any
Batch = dict[str, Any]


def scores(network: Graph, model: Any, images: jax.Array, mean: Any, std: Any, **options: Any) -> Any:
    """Returns the output of the merged `model` for images, normalized by `mean` and `std`, or for features."""
    if network.from_features:
        return model.score(images, **options)
    return model(augment.normalize(images, mean, std), **options)


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["shape"])
@dataclass(frozen=True)
class Rows:
    """Examples of `shape` that stay on the devices, each a row of `values` [N, V]; `rows[indices]` are examples.

    A TPU would lay out images with the examples along its lanes; to gather some of them, every step would transpose
    all. V is a multiple of `LANES`, so a TPU gathers rows without a copy.
    """

    values: Any
    shape: tuple[int, ...]

    def __getitem__(self, indices: Any) -> jax.Array:
        return self.values[indices][:, : math.prod(self.shape)].reshape(-1, *self.shape)


def row_size(shape: Sequence[int]) -> int:
    """Returns how many values an example of `shape` takes in what `in_rows` returns."""
    return math.prod(shape) if len(shape) < 2 else -(-math.prod(shape) // LANES) * LANES


def in_rows(examples: Batch) -> Batch:
    """Returns arrays [N, ...]; those with several axes, of images, sequences and clips, become `Rows`."""

    def rows(array: Any) -> Any:
        shape = tuple(array.shape[1:])
        if len(shape) < 2:
            return array
        flat = array.reshape(len(array), -1)
        if missing := row_size(shape) - flat.shape[1]:
            pad = np.pad if isinstance(array, np.ndarray) else jnp.pad
            flat = pad(flat, ((0, 0), (0, missing)))
        return Rows(flat, shape)

    return {name: rows(array) for name, array in examples.items()}


def gather(batch: Batch, resident: Batch | None) -> Batch:
    """Returns the batch with its images: those of a stream, or those that "index" names among the resident ones."""
    return batch if resident is None else batch | {name: array[batch["index"]] for name, array in resident.items()}


def example_losses(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the cross-entropy of each example, float32 [B], for logits [B, K] and labels int [B]."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def label_ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the rank of the label among the classes, int32 [B]: 0 is a top-1 hit, below 5 a top-5 hit.

    Ties count as `argmax` breaks them, so that equal scores for all classes do not count as right; nor does a row with
    NaN.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    ranks = jnp.sum((logits > own) | ((logits == own) & earlier), axis=1)
    return jnp.where(jnp.isnan(logits).any(axis=1), NO_RANK, ranks)


def make_eval_step(
    network: Graph, *, mean: Any, std: Any, confusion: bool = False
) -> Callable[[Tree, Tree, Batch, Batch | None], Tree]:
    """Returns the jitted step (params, others, batch, resident images or None) -> sums over the examples of mask 1.

    Parameters and statistics may be split over `params` and `others` in any way.

    Sums: loss, top1, top5, examples (float32), class_correct and class_examples (float32 [K]) and, with `confusion`,
    confusion (float32 [K, K], rows are true classes).
    """

    @cpu.fast(network.kernels)
    def eval_step(params: Tree, others: Tree, batch: Batch, resident: Batch | None) -> Tree:
        batch = gather(batch, resident)
        mask, labels = batch["mask"], batch["label"]
        model = nnx.merge(network.eval, params, others)
        logits = scores(network, model, batch["image"], mean, std)
        ranks = label_ranks(logits, labels)
        truth = jax.nn.one_hot(labels, logits.shape[-1]) * mask[:, None]
        sums = dict(
            # where, not a product: an overflow in a filler row must not reach the sum
            loss=jnp.sum(jnp.where(mask > 0, example_losses(logits, labels), 0)),
            top1=jnp.sum((ranks < 1) * mask),
            top5=jnp.sum((ranks < 5) * mask),
            examples=jnp.sum(mask),
            class_correct=jnp.sum(truth * (ranks < 1)[:, None], axis=0),
            class_examples=jnp.sum(truth, axis=0),
        )
        if confusion:
            predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
            sums["confusion"] = truth.T @ jnp.where(ranks[:, None] < NO_RANK, predicted, 0)
        return sums

    return jax.jit(eval_step)


def make_features_step(network: Graph, *, mean: Any, std: Any) -> Callable[[Tree, Batch, Batch | None], jax.Array]:
    """Returns the jitted step (params and statistics, batch, resident) -> what the head's `reduce` returns, float32."""

    @cpu.fast(network.kernels)
    def features_step(params: Tree, batch: Batch, resident: Batch | None) -> jax.Array:
        model = nnx.merge(network.eval, params)
        images = augment.normalize(gather(batch, resident)["image"], mean, std)
        return model.head.reduce(model.features(images)).astype(jnp.float32)

    return jax.jit(features_step)


def make_predict_step(
    network: Graph, *, mean: Any, std: Any, mirror: bool
) -> Callable[[Tree, Tree, jax.Array], jax.Array]:
    """Returns the jitted step (params, others, views uint8 [B, V, *spatial, C]) -> class probabilities float32 [B, K].

    Parameters and statistics may be split over `params` and `others` in any way. Probabilities are averaged over the
    views of an example and, with `mirror`, over those of the mirror images.
    """

    @cpu.fast(network.kernels)
    def predict_step(params: Tree, others: Tree, views: jax.Array) -> jax.Array:
        model = nnx.merge(network.eval, params, others)
        images = views.reshape(-1, *views.shape[2:])
        batches = [images, images[:, :, ::-1]] if mirror else [images]
        shares = [jax.nn.softmax(scores(network, model, batch, mean, std)) for batch in batches]
        return (sum(shares[1:], shares[0]) / len(shares)).reshape(*views.shape[:2], -1).mean(1)

    return jax.jit(predict_step)


def make_statistics_step(network: Graph, *, mean: Any, std: Any) -> Callable[[Tree, Tree, Batch, Batch | None], Tree]:
    """Returns the jitted step (params, others, batch, resident) -> the BatchNorm statistics of that batch alone.

    The statistics of frozen layers do not change. For `others` see `make_eval_step`.
    """

    @cpu.fast(network.kernels)
    def statistics_step(params: Tree, others: Tree, batch: Batch, resident: Batch | None) -> Tree:
        model = nnx.merge(network.train, params, others)
        for _, module in nnx.iter_graph(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.0  # the new running average is the batch's own statistic
        model(augment.normalize(gather(batch, resident)["image"], mean, std), rngs=jax.random.key(0))
        return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    return jax.jit(statistics_step)
