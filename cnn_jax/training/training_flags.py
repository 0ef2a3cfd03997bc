"""What the commands that train share: their options, and the call that they come to."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from cnn_jax.config import commandline
from cnn_jax.core import files
from cnn_jax.parallel import processes
from cnn_jax.training.preemption import StopSignals

if TYPE_CHECKING:
    from rich.console import Console

    from cnn_jax.pretrained.source import Pretrained

# Nothing here imports jax before it is needed, so that --help answers at once.

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of results; goes on if it has a checkpoint. Default: runs/...")
flags.DEFINE_bool("dry-run", False, "Stop after printing what would run.")
_EXTEND = flags.DEFINE_bool("extend", False, "Allow a longer --config.duration than that of the run in --workdir.")
_PROFILE = flags.DEFINE_string("profile", None, "START:END: trace these steps, both included, into WORKDIR/profile.")
# Of several processes; clusters that jax knows (SLURM, TPU pods, Open MPI) need none of them.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, the same for all processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
_START = flags.DEFINE_integer("start-timeout", 300, "Seconds to wait for the other processes at the start.", 1)
_SILENCE = flags.DEFINE_integer("heartbeat-timeout", 60, "Seconds of silence until a process counts as lost.", 1)
# What says where and how a run goes on, not what it computes: a trailing ! has no value.
OF_THIS_START = (
    *("workdir", "extend!", "profile"),
    *("coordinator", "processes", "process", "start-timeout", "heartbeat-timeout"),
)


def given_workdir() -> Path | str | None:
    """Returns --workdir, a path or a URL; see `files.located`."""
    return files.located("--workdir", _WORKDIR.value) if _WORKDIR.value else None


@contextlib.contextmanager
def session() -> Iterator[StopSignals]:
    """Joins the other processes of the run, if there are any; yields the signals that stop the run.

    Enter it before jax is imported.
    """
    several = processes.is_one_of_several(_COORDINATOR.value, _PROCESSES.value)
    with (
        StopSignals(several=several) as stop,
        processes.session(
            _COORDINATOR.value,
            _PROCESSES.value,
            _PROCESS.value,
            start_timeout=_START.value,
            heartbeat_timeout=_SILENCE.value,
        ),
    ):
        yield stop


def train(
    config: Any,
    *,
    name: str,
    stop: StopSignals,
    source: "Pretrained | None" = None,
    console: "Console | None" = None,
) -> None:
    """Trains inside of `session`, as the flags say; `name` begins that of the folder where --workdir names none."""
    from cnn_jax.parallel import collectives
    from cnn_jax.tracking import run_record
    from cnn_jax.training import loop, profiling
    from cnn_jax.training.session import Options

    default = Path("runs") / f"{name}-{config.data.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    options = Options(
        dry_run=bool(flags.FLAGS["dry-run"].value),
        extend=_EXTEND.value,
        profile=profiling.steps_to_trace(_PROFILE.value) if _PROFILE.value is not None else None,
        console=console or collectives.console(),
        stop=stop,
        began=commandline.BEGAN,
        # The command that repeats the run in a new folder.
        arguments=run_record.without(sys.argv[1:], *OF_THIS_START),
    )
    folder = given_workdir() or Path(collectives.decided(lambda: str(default)))
    loop.run(config, folder, options, source=source)
