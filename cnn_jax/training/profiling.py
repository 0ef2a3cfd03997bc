"""A trace of some training steps, on demand: --profile=START:END."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from cnn_jax.core.errors import UserError, check


def steps_to_trace(text: str) -> tuple[int, int]:
    """Returns the first and the last step of START:END; raises UserError for anything else."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(
            f"--profile is {text!r}, but must be START:END, the first and the last step of the trace, such as 100:105"
        )
    return int(found[1]), int(found[2])


def check_steps(steps: tuple[int, int] | None, *, first: int, last: int) -> None:
    """Raises UserError unless all `steps` of --profile are among those from `first` to `last`."""
    given = steps and f"{steps[0]}:{steps[1]}"
    check(steps is None or first <= last, f"--profile is {given}, but all {last:,} steps of this run are done")
    check(
        steps is None or first <= steps[0] <= steps[1] <= last,
        f"--profile is {given}, but this start trains the steps {first} to {last}",
    )


class Trace:
    """Writes a trace of the steps from the first to the last of `steps`, both included, into `folder`; None: of none.

    Inside the block, which ends it if an error does. The devices are waited for at the end only.

    Args:
      first, last: steps that this start will do. report: is called with a sentence when the trace is written.

    Raises:
      UserError: the steps are not all among those.
    """

    def __init__(
        self, steps: tuple[int, int] | None, folder: Path, *, first: int, last: int, report: Callable[[str], Any]
    ):
        self.steps, self.folder, self.report = steps, folder, report
        self._active = False
        check_steps(steps, first=first, last=last)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Marks a step, and begins the trace before its first one."""
        if self.steps is None:
            yield
            return
        if number == self.steps[0]:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self._active = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """Ends the trace after its last step, when `state` is computed."""
        if self._active and self.steps is not None and number == self.steps[1]:
            jax.block_until_ready(state)
            self._stop()
            self.report(
                f"the trace of the steps {self.steps[0]} to {self.steps[1]} is in {self.folder}: open its "
                "perfetto_trace.json.gz at https://ui.perfetto.dev, or look at all of it with  pip install xprof && "
                f"xprof --logdir={self.folder}"
            )

    def _stop(self) -> None:
        self._active = False
        jax.profiler.stop_trace()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._active:
            self._stop()
