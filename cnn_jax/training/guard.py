"""What is left to look at when a loss or a gradient is not finite."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.core.errors import NotFiniteError
from cnn_jax.parallel import together
from cnn_jax.tracking.metrics import jsonable
from cnn_jax.tracking.workdir import write_text
from cnn_jax.training import diagnostics, step
from cnn_jax.training.build import Run


def check_finite(run: Run, state: step.TrainState, checkpoints: Checkpoints, records: Path) -> None:
    """Raises NotFiniteError if a step's loss or gradient was not finite; that step is in the run's not_finite then.

    report.json: the loss, the norm of the gradient and of each parameter, and each layer's largest output.
    batch.npz: the batch ("image" uint8 before augmentation, or features, "label", "position"). checkpoints/: the state
    before the step. Reports are of the whole batch, also where the step goes through it in micro-batches. `records`: in
    the place of that folder for all but the checkpoint; see `together.records`.
    """
    failed = int(state.failed)
    if not failed:
        return
    checkpoints.wait()  # of the run: what storage refuses is written again by all processes
    evidence, written = checkpoints.storage.path / "not_finite", records / "not_finite"
    written.mkdir(exist_ok=True)
    batch = diagnostics.training_batch(run, failed)
    np.savez_compressed(written / "batch.npz", **together.fetch(batch))
    report: dict[str, Any] = {"step": failed} | diagnostics.examine(run, state, batch)
    write_text(written / "report.json", json.dumps(jsonable(report), indent=1) + "\n")
    with Checkpoints(evidence, storage=checkpoints.storage) as failure:
        failure.save(failed - 1, state, error=None)

    first = next((layer["name"] for layer in report["layers"] if not layer["finite"]), None)
    where = f"the first outputs that are not finite are those of layer {first!r}" if first else "all outputs are finite"
    raise NotFiniteError(
        f"the loss is {report['loss']:.6g} and the norm of the gradient {report['gradient_norm']:.6g} at step "
        f"{failed:,}; {where}.\nThe state before that step, its batch and the sizes of all layers are in {evidence}. "
        "A lower config.optim.learning_rate, a longer warmup or config.optim.clip_norm may help, in a new --workdir"
    )
