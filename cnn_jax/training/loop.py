"""The training loop: config -> data -> model -> step -> checkpoints and metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax.checkpoint import bucket
from cnn_jax.core import files
from cnn_jax.data import sources
from cnn_jax.data.dataset import Dataset
from cnn_jax.data.sources import published
from cnn_jax.pretrained.source import Pretrained
from cnn_jax.training import header
from cnn_jax.training.session import Options, Session
from cnn_jax.training.setup import build
from cnn_jax.training.start_check import check_start
from cnn_jax.training.state import States


def run(
    config: Any,
    folder: Path | str,
    options: Options | None = None,
    *,
    source: Pretrained | None = None,
    open_dataset: Callable[[Any, int], Dataset] | None = None,
) -> dict[str, Any]:
    """Trains as `config` says and returns the final metrics: {"validation": ..., "test": ...}.

    `folder` receives config.json, data.json, run.json, summary.txt, metrics.jsonl, TensorBoard files, checkpoints and
    curves.png. If it has a checkpoint, training resumes from the latest one that is whole, with the same numbers as an
    uninterrupted run. It may be the URL of a folder in a bucket; see `checkpoint.bucket`.

    All processes of a run (`parallel.processes`) call this, and save and restore together; the first one records and
    prints.

    Args:
      source: the pretrained network that config.init_from names, if it is open already.
      open_dataset: opens config.data; None: `sources.open_dataset`, and what sizes are known in a dry run.

    Raises:
      UserError: see `setup.build`; `folder` holds a run of another configuration, or is in use.
      NotFiniteError: the loss or a gradient is not finite.
      StorageError: a disk is full, a folder cannot be written, a bucket does not answer, no checkpoint is whole.
      Stopped: a signal came, and the state after the step is saved.
    """
    options = options or Options()
    with files.storage_errors(f"the run in {folder} stops"), bucket.opened(folder, hold=not options.dry_run) as here:
        # ---------------------------------------------------------------- set up
        opener = open_dataset or (published.open_or_sizes if options.dry_run else sources.open_dataset)
        setup = build(config, source=source, open_dataset=opener)
        states = States(setup)
        check_start(setup, here, options, name=folder)
        header.print_header(setup, states, folder, here, options.console)
        if options.dry_run:
            if options.plot is not None:
                header.plot_learning_rate(setup, options.plot, options.console)
            return {}
        with Session(setup, states, here, options, name=folder) as session:
            # ------------------------------------------------------------ train
            state = session.begin()
            for step, batch in session.batches():
                state = session.train_step(step, state, batch)
                due = session.due(step, state)
                if due.record:
                    state = session.record(step, state)
                if due.anything:
                    session.check_finite(state)  # a state that is not finite is never saved
                if due.layers:
                    with session.throughput.paused(state):
                        session.record_layers(step, state)
                if due.validation or due.save:
                    state = session.averaged(state)
                if due.validation:
                    state = session.validate(step, state)
                if due.save or session.improved or session.is_over:
                    session.save(step, state)
                if due.stop or session.is_over:
                    break
            # ------------------------------------------------------------ test
            return session.finish(state)
