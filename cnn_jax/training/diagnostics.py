"""Numbers on every layer of one training step: how large outputs and gradients are."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.core import trees
from cnn_jax.eval import steps as eval_steps
from cnn_jax.nn.hooks import capture
from cnn_jax.parallel import together
from cnn_jax.training import step
from cnn_jax.training.build import Run


def training_batch(run: Run, number: int) -> eval_steps.Batch:
    """Returns the batch of training step `number`, from 1, with its images, before augmentation."""
    batch = next(run.data.parts["train"].train_batches(number - 1, number, run.config.batch_size))
    return eval_steps.gather(run.put(batch), run.images("train"))


def examine(run: Run, state: step.TrainState, batch: eval_steps.Batch) -> dict[str, Any]:
    """Returns numbers on one step from `state`: loss, gradient_norm, learning_rate, layers and parameters.

    layers: name, kind, deviation (standard deviation of the output over batch and positions), largest_output, finite.
    parameters: name, norm, gradient_norm. All are of the whole batch, in training mode, also where the step goes
    through it in micro-batches.
    """

    @jax.jit
    def measure(state: step.TrainState, batch: eval_steps.Batch) -> Any:
        def loss_fn(params: Any) -> Any:
            with capture() as calls:
                loss, _ = run.loss(params, state.stats, state.frozen, batch, step.make_keys(state.seed, state.step))
            return loss, [(output.std(), jnp.abs(output).max(), jnp.isfinite(output).all()) for _, _, output in calls]

        (loss, outputs), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return loss, optax.tree.norm(grads), outputs, (norms_of(state.params), norms_of(grads))

    loss, gradient_norm, outputs, (norms, grad_norms) = together.fetch(measure(state, batch))
    return {
        "loss": float(loss),
        "gradient_norm": float(gradient_norm),
        "learning_rate": float(run.schedule(state.step) * state.plateau.scale),
        "layers": [
            {
                "name": row.name,
                "kind": row.kind,
                "deviation": float(deviation),
                "largest_output": float(largest),
                "finite": bool(finite),
            }
            # With config.cache_features only the last ones are computed.
            for row, (deviation, largest, finite) in zip(run.layers[-len(outputs) :], outputs, strict=True)
        ],
        "parameters": [
            {"name": name, "norm": float(norm), "gradient_norm": float(grad_norms[name])}
            for name, norm in norms.items()
        ],
    }


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
