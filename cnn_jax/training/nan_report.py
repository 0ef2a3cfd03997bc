"""The evidence of a loss or a gradient that is not finite."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.checkpoint.manager import Checkpoints
from cnn_jax.checkpoint.saver import Saver
from cnn_jax.core import files
from cnn_jax.core.errors import NotFiniteError
from cnn_jax.parallel import collectives
from cnn_jax.tracking.recorder import jsonable
from cnn_jax.training import diagnostics
from cnn_jax.training.setup import Setup
from cnn_jax.training.step import TrainState


def check_finite(setup: Setup, state: TrainState, folder: Path, records: Path, saver: Saver) -> None:
    """Raises NotFiniteError if a step's loss or gradient was not finite; that step is then in FOLDER/not_finite.

    report.json: the loss, the norm of the gradient and of each parameter, and each layer's largest output.
    batch.npz: the batch ("image" uint8 before augmentation, or features, "label", "position"). checkpoints/: the state
    before the step. Reports are of the whole batch, also where the step goes through it in micro-batches.

    Args:
      folder: of the run. records: its folder for records; see `collectives.records`.
      saver: of the run, which finishes its save first.
    """
    failed = int(state.failed)
    if not failed:
        return
    saver.wait()
    folder_of_report = records / "not_finite"
    folder_of_report.mkdir(exist_ok=True)
    batch = diagnostics.training_batch(setup, failed)
    with files.written(folder_of_report / "batch.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **collectives.fetch(batch))
    report: dict[str, Any] = {"step": failed} | diagnostics.examine(setup, state, batch)
    files.write_text(folder_of_report / "report.json", json.dumps(jsonable(report), indent=1) + "\n")
    evidence = Checkpoints(folder / "not_finite", shared=saver.checkpoints.shared)
    with evidence, Saver(evidence, keep=1) as last:
        last.save(failed - 1, state, error=None)

    first = next((layer["name"] for layer in report["layers"] if not layer["finite"]), None)
    where = f"the first outputs that are not finite are those of layer {first!r}" if first else "all outputs are finite"
    if first is None and np.isfinite(report["loss"]) and np.isfinite(report["gradient_norm"]):
        where = f"what {setup.config.optim.name} makes of that gradient is not finite"
    raise NotFiniteError(
        f"the loss is {report['loss']:.6g} and the norm of the gradient {report['gradient_norm']:.6g} at step "
        f"{failed:,}; {where}.\nThe state before that step, its batch and the sizes of all layers are in "
        f"{folder / 'not_finite'}. A lower config.optim.learning_rate, a longer warmup or config.optim.clip_norm may "
        "help, in a new --workdir"
    )
