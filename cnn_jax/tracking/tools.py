"""The trackers that come with this package; see `trackers.Tracker`. Each imports its library when it opens a run.

Where a tracker stores runs is set as its own documentation says, by environment variables or a login.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError

PROJECT = "cnn_jax"  # where the tracker's own variable names no other


class TensorBoard:
    """Event files in FOLDER/tensorboard, written by tensorboardX.

    The HParams of a run, with its final metrics, are in the same file as its curves, so that they are one run there.
    """

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, Any], step: int, run_id: str | None):
        from tensorboardX import SummaryWriter

        self.run_id = ""
        self.config = config
        had = step > 0 and any((folder / "tensorboard").glob("events*"))
        self.had = step if had else -1  # what was behind the checkpoint is purged
        self.writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def last(self, name: str) -> int:
        return self.had

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not name.endswith("/epoch"):
                self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        self.writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()))  # as it is, not Markdown

    def flush(self) -> None:
        self.writer.flush()

    def finish(self, results: Mapping[str, float] | None) -> None:
        if results is not None:
            from tensorboardX.summary import hparams

            known = (bool, int, float, str)
            fields = {name: value if isinstance(value, known) else str(value) for name, value in self.config.items()}
            for summary in hparams(fields, dict(results)):
                self.writer.file_writer.add_summary(summary)
        self.writer.close()


class _Logging:
    """What tools share that log dicts of values to a run."""

    run: Any
    pixels: Any  # the tool's class of pictures
    had: int  # the last step that it has already

    def last(self, name: str) -> int:
        return self.had

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.run.log({name: self.pixels(pixels)}, step=step)

    def flush(self) -> None:
        """They send in the background."""


class Wandb(_Logging):
    """Weights & Biases: WANDB_PROJECT, WANDB_MODE=offline and its other variables."""

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, Any], step: int, run_id: str | None):
        import wandb  # pyright: ignore[reportMissingImports]

        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                id=run_id,
                resume="allow" if run_id else None,
                config=dict(config),
                dir=str(folder),
                allow_val_change=True,
                reinit="create_new",
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise UserError(
                f"config.log.trackers has 'wandb', but it says: {error}. Run wandb login, or set WANDB_MODE=offline"
            ) from None
        self.run_id = self.run.id
        self.pixels = wandb.Image
        self.page = wandb.Html
        # Offline it does not know the steps of its own earlier starts: those up to the checkpoint were sent then.
        self.had = step if run_id and self.run.offline else self.run.step - 1

    def text(self, name: str, text: str) -> None:
        from html import escape

        self.run.log({name: self.page(f"<pre>{escape(text)}</pre>")}, step=max(0, self.run.step))

    def finish(self, results: Mapping[str, float] | None) -> None:
        self.run.summary.update(dict(results or {}))
        self.run.finish(exit_code=0 if results is not None else 1)


class MLflow:
    """MLflow: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, Any], step: int, run_id: str | None):
        # A server that is away must not hold up the training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

        self.client, self.metric = MlflowClient(), Metric
        self.had: dict[str, int] = {}
        if run_id:
            for key in self.client.get_run(run_id).data.metrics:
                self.had[key] = max(point.step for point in self.client.get_metric_history(run_id, key))
            self.client.update_run(run_id, status="RUNNING")
            self.run_id = run_id
            return
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self.client.create_experiment(project)
        self.run_id = self.client.create_run(experiment, run_name=name).info.run_id
        # A parameter never changes, and a request has at most 100.
        params = [Param(key, str(value)[:500]) for key, value in config.items()]
        for first in range(0, len(params), 100):
            self.client.log_batch(self.run_id, params=params[first : first + 100])

    def last(self, name: str) -> int:
        return self.had.get(name, -1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        import time

        now = int(1000 * time.time())
        self.client.log_batch(
            self.run_id, metrics=[self.metric(key, value, now, step) for key, value in values.items()]
        )

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.client.log_image(self.run_id, pixels, artifact_file=f"{name.replace('/', '_')}.png")

    def text(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, f"{name.replace('/', '_')}.txt")

    def flush(self) -> None:
        """Each request is answered before the next."""

    def finish(self, results: Mapping[str, float] | None) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if results is not None else "KILLED")


class Trackio(_Logging):
    """trackio, on this machine or in a Space: TRACKIO_DIR, TRACKIO_SPACE_ID."""

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, Any], step: int, run_id: str | None):
        import trackio  # pyright: ignore[reportMissingImports]

        self.run_id = run_id or f"{name.replace('/', '-')}-{uuid.uuid4().hex[:6]}"  # it resumes runs by their names
        self.run = trackio.init(
            os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.run_id,
            config={
                name: value if isinstance(value, (int, float, str)) else str(value) for name, value in config.items()
            },
            resume="allow",
            embed=False,
        )
        self.pixels, self.markdown = trackio.Image, trackio.Markdown
        self.had = getattr(self.run, "_next_step", step + 1) - 1 if run_id else -1

    def text(self, name: str, text: str) -> None:
        self.run.log({name: self.markdown(f"```\n{text}\n```")}, step=0)

    def finish(self, results: Mapping[str, float] | None) -> None:
        self.run.finish()
