"""What a training step sees and computes: its images, and how large outputs and gradients of every layer are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.core import trees
from cnn_jax.data import augment
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn.hooks import capture
from cnn_jax.parallel import collectives
from cnn_jax.training import step
from cnn_jax.training.setup import Setup


def training_batch(setup: Setup, number: int) -> eval_steps.Batch:
    """Returns the batch of training step `number`, from 1, with its images, before augmentation."""
    batch = next(setup.data.parts["train"].train_batches(number - 1, number, setup.config.batch_size))
    return eval_steps.gather(setup.put(batch), setup.resident("train"))


def as_trained(config: Any, part: Any, positions: Any) -> tuple[Any, Any, Any]:
    """Returns training examples as the network sees them, before normalization.

    Args:
      part: the train part. positions: in the run, int [N].

    Returns:
      (images uint8 [N, H, W, C], labels int [N, 2]: its own and that of the partner that it is mixed with, the share of
      its own [N]).
    """
    # Each after its partner, where mixing expects it: in a run, the one before it in its micro-batch.
    slots = positions % config.batch_size
    partners = positions - slots + (slots - config.accumulation) % config.batch_size
    pairs = np.stack([partners, positions], axis=1).ravel()
    read = [batch for position in pairs for batch in part.train_batches(position, position + 1, 1)]
    read = [eval_steps.gather(batch, part.resident) for batch in read]
    images, labels = (np.concatenate([batch[name] for batch in read]) for name in ("image", "label"))

    seen, shares = _augment(config, images, pairs.astype(np.uint32))
    shares = np.ones(len(pairs)) if shares is None else np.asarray(shares)
    return _pixels(seen[1::2]), labels.reshape(-1, 2)[:, ::-1], shares[1::2]


def augmented(config: Any, batch: eval_steps.Batch) -> np.ndarray:
    """Returns the images of a training batch as the network sees them, before normalization, uint8 [B, H, W, C]."""
    return _pixels(_augment(config, batch["image"], batch["position"])[0])


def _augment(config: Any, images: Any, positions: Any) -> tuple[jax.Array, jax.Array | None]:
    """Returns (augmented images, the share of each in its mixture or None)."""

    @jax.jit
    def augmented(images: jax.Array, positions: jax.Array) -> Any:
        key = step.make_keys(jnp.uint32(config.seed), jnp.int32(0)).augmentation  # the same in all steps
        images = augment.augment(key, images, positions, config.data.augment)
        return augment.mix(key, images, positions, config.data.augment)

    return augmented(images, positions)


def _pixels(images: Any) -> np.ndarray:
    return np.round(255 * augment.values(images)).astype(np.uint8)


def examine(setup: Setup, state: step.TrainState, batch: eval_steps.Batch) -> dict[str, Any]:
    """Returns what `examiner` finds, once."""
    return examiner(setup)(state, batch)


def examiner(setup: Setup) -> Callable[[step.TrainState, eval_steps.Batch], dict[str, Any]]:
    """Returns a function, compiled once: (state, batch) -> {loss, gradient_norm, learning_rate, layers, parameters}.

    layers: name, kind, deviation (standard deviation of the output over batch and positions), never_positive (share of
    channels whose output is positive for no example of the batch and at no position: behind a ReLU they are dead),
    largest_output, finite. parameters: name, norm, gradient_norm. All are of the whole batch, in training mode, also
    where the step goes through it in micro-batches.
    """

    def numbers(output: jax.Array) -> tuple[jax.Array, ...]:
        positive = (output > 0).any(axis=tuple(range(output.ndim - 1)))
        return output.std(), 1 - positive.mean(), jnp.abs(output).max(), jnp.isfinite(output).all()

    @jax.jit
    def measure(state: step.TrainState, batch: eval_steps.Batch) -> Any:
        def loss_fn(params: Any) -> Any:
            with capture() as calls:
                loss, _ = setup.loss(params, state.stats, state.frozen, batch, step.make_keys(state.seed, state.step))
            return loss, [numbers(output) for _, _, output in calls]

        (loss, outputs), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return loss, optax.tree.norm(grads), outputs, (norms_of(state.params), norms_of(grads))

    def examined(state: step.TrainState, batch: eval_steps.Batch) -> dict[str, Any]:
        loss, gradient_norm, outputs, (norms, grad_norms) = collectives.fetch(measure(state, batch))
        return {
            "loss": float(loss),
            "gradient_norm": float(gradient_norm),
            "learning_rate": float(setup.schedule(state.step) * state.plateau.scale),
            "layers": [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "deviation": float(deviation),
                    "never_positive": round(float(never), 6),
                    "largest_output": float(largest),
                    "finite": bool(finite),
                }
                # With config.cache_features only the last ones are computed.
                for row, (deviation, never, largest, finite) in zip(setup.layers[-len(outputs) :], outputs, strict=True)
            ],
            "parameters": [
                {"name": name, "norm": float(norm), "gradient_norm": float(grad_norms[name])}
                for name, norm in norms.items()
            ],
        }

    return examined


def norms_of(tree: Any) -> dict[str, jax.Array]:
    """Returns the norm of each parameter by its name; repeated blocks have theirs one by one, as in the layer table."""
    norms = {}
    for name, leaf in trees.named_leaves(tree):
        before, repeated, behind = name.partition("/block/")  # of `repeated.Repeated`
        if repeated:
            norms |= {f"{before}/{i}/{behind}": jnp.linalg.norm(part) for i, part in enumerate(leaf)}
        else:
            norms[name] = jnp.linalg.norm(leaf)
    return norms
