"""What is left to look at when a loss or a gradient is not finite."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import step, trees
from cnn_jax.build import Run
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.errors import NotFiniteError
from cnn_jax.metrics import jsonable
from cnn_jax.models.base import listen
from cnn_jax.workdir import write_text


def check_finite(run: Run, state: step.TrainState, folder: Path) -> None:
    """Raises NotFiniteError if a step's loss or gradient was not finite, and saves that step in `folder`/not_finite.

    report.json: the loss, the norm of the gradient and of each parameter, and each layer's largest output.
    batch.npz: the batch ("image" uint8, before augmentation, "label", "position"). checkpoints/: the state before the
    step. Reports are of the whole batch, also where the step goes through it in micro-batches.
    """
    failed = int(state.failed)
    if not failed:
        return
    evidence = folder / "not_finite"
    evidence.mkdir(exist_ok=True)
    batch = next(run.data.parts["train"].train_batches(failed - 1, failed, run.config.batch_size))
    batch = step.gather(run.put(batch), run.images("train"))
    np.savez_compressed(evidence / "batch.npz", **jax.device_get(batch))
    report: dict[str, Any] = {"step": failed} | examine(run, state, batch)
    write_text(evidence / "report.json", json.dumps(jsonable(report), indent=1) + "\n")
    with Checkpoints(evidence) as checkpoints:
        checkpoints.save(failed - 1, state, error=None)

    first = next((layer["name"] for layer in report["layers"] if not layer["finite"]), None)
    where = f"the first outputs that are not finite are those of layer {first!r}" if first else "all outputs are finite"
    raise NotFiniteError(
        f"the loss is {report['loss']:.6g} and the norm of the gradient {report['gradient_norm']:.6g} at step "
        f"{failed:,}; {where}.\nThe state before that step, its batch and the sizes of all layers are in {evidence}. "
        "A lower config.optim.learning_rate, a longer warmup or config.optim.clip_norm may help, in a new --workdir"
    )


def examine(run: Run, state: step.TrainState, batch: step.Batch) -> dict[str, Any]:
    """Returns numbers on one step from `state`: what `check_finite` says of report.json."""

    @jax.jit
    def measure(state: step.TrainState, batch: step.Batch) -> Any:
        def loss_fn(params: Any) -> Any:
            with listen() as calls:
                loss, _ = run.loss(params, state.stats, batch, step.make_keys(state.seed, state.step))
            return loss, [(jnp.abs(output).max(), jnp.isfinite(output).all()) for _, _, output in calls]

        (loss, outputs), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        norms = jax.tree.map(jnp.linalg.norm, (state.params, grads))
        return loss, optax.tree.norm(grads), outputs, norms

    loss, gradient_norm, outputs, (norms, grad_norms) = jax.device_get(measure(state, batch))
    grad_norms = dict(trees.named_leaves(grad_norms))
    return {
        "loss": float(loss),
        "gradient_norm": float(gradient_norm),
        "learning_rate": float(run.schedule(state.step) * state.plateau.scale),
        "layers": [
            {"name": row.name, "kind": row.kind, "largest_output": float(largest), "finite": bool(finite)}
            for row, (largest, finite) in zip(run.layers, outputs, strict=True)
        ],
        "parameters": [
            {"name": name, "norm": float(norm), "gradient_norm": float(grad_norms[name])}
            for name, norm in trees.named_leaves(norms)
        ],
    }
