"""run.json of a run's folder: the network, and of every start its command, machine, versions and seconds."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import models
from cnn_jax.config.fields import model_fields
from cnn_jax.core.errors import UserError
from cnn_jax.core.files import read_json, write_text

# jax is imported by the functions: reports read run.json, too.

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
ENVIRONMENT = ("JAX_DEFAULT_MATMUL_PRECISION", "XLA_FLAGS")  # what changes numbers without being configuration
FIELDS = {"arguments", "last_step", "ended", "processor", "cores", "devices", "versions", "commit"}  # of every start
COMPILATION = "/jax/core/compile/backend_compile_duration"  # the name of jax's event


class RunRecord:
    """Keeps the record of one start in `folder`/run.json, from the beginning on, so that a killed one leaves it, too.

    {"parameters", "macs", "changed": fields of config.model that differ from the network's defaults, "starts": [...]}.
    Each start: "arguments" (None from Python), "date" (UTC), "first_step", "last_step", "ended" ("done", the name of
    an exception, or None: killed, or running), "seconds", "processor", "cores", "devices", "environment", "versions",
    "kernels" (the hash of the kernels for CPUs, or "xla"), "commit" (of a clone, with -dirty if it has changes).

    Seconds: "total" since the command began; "training", "evaluation" and "saving" are parts of it that exclude each
    other, with the compilation in them; "compilation" is the time in XLA's compiler, or in reading its cache, in all
    of them. A killed start has those up to its last save.
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        layers: Sequence[Any],
        *,
        first_step: int,
        began: float,
        arguments: Sequence[str] | None,
    ):
        """Begins the record.

        Args:
          layers: of `summary.layer_table`. began: of `time.perf_counter`.
          first_step: of the checkpoint. With 0 the run begins anew, and what earlier starts left is dropped.

        Raises:
          UserError: run.json is damaged.
        """
        self.path = folder / "run.json"
        self.began = began
        self.since = time.perf_counter()
        self.under_way = "preparation"
        self.spent: dict[str, float] = defaultdict(float)
        earlier = read(self.path)["starts"] if first_step and self.path.exists() else []
        self.start: dict[str, Any] = {
            "arguments": None if arguments is None else list(arguments),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "first_step": first_step,
            "last_step": first_step,
            "ended": None,
            "seconds": {},
            **machine(),
            "kernels": kernels(config),
            "commit": commit(),
        }
        defaults = models.fields(config.model.name)
        self.content = {
            "parameters": sum(row.parameters for row in layers),
            "macs": sum(row.macs for row in layers),
            "changed": {name: value for name, value in model_fields(config).items() if value != defaults[name]},
            "starts": [*earlier, self.start],
        }

    def other_kernels(self) -> str | None:
        """Returns the "kernels" of the start before this one where they differ from this one's, else None.

        A start of before they were recorded counts as one with the same.
        """
        before = self.content["starts"][-2].get("kernels") if len(self.content["starts"]) > 1 else None
        return before if before != self.start["kernels"] else None

    def write(self, step: int) -> None:
        """Writes run.json; `step` is saved."""
        self._count()
        self.start["last_step"] = step
        parts = {name: round(self.spent[name], 3) for name in ("training", "evaluation", "saving", "compilation")}
        self.start["seconds"] = {"total": round(time.perf_counter() - self.began, 3)} | parts
        write_text(self.path, json.dumps(self.content, indent=2) + "\n")

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Counts the time inside the block for `part`, and no longer for the part around it."""
        self._count()
        around, self.under_way = self.under_way, part
        try:
            yield
        finally:
            self._count()
            self.under_way = around

    def switch(self, part: str) -> None:
        """Counts the time from now on for `part`."""
        self._count()
        self.under_way = part

    def _count(self) -> None:
        now = time.perf_counter()
        self.spent[self.under_way] += now - self.since
        self.since = now

    def __enter__(self) -> "RunRecord":
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._listen)
        self.write(self.start["first_step"])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        import jax

        jax.monitoring.unregister_event_duration_listener(self._listen)
        self.start["ended"] = "done" if kind is None else kind.__name__
        # What ends the run is the error to show, not that its disk takes no record of it.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self.write(self.start["last_step"])

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILATION:
            self.spent["compilation"] += duration_secs


def read(path: Path) -> dict[str, Any]:
    """Returns the content of a run.json; raises UserError if it is damaged."""
    try:
        content = read_json(path)
        whole = all(start.keys() >= FIELDS and start["seconds"]["total"] >= 0 for start in content["starts"])
        if whole:
            return dict(content)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path} is damaged: remove it (times and commands of the run are lost with it)")


def counted(starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the starts that made the run: without those that found everything done."""
    found: list[dict[str, Any]] = []
    for start in starts:
        if not any(other["ended"] == "done" and other["last_step"] == start["last_step"] for other in found):
            found.append(start)
    return found


def without(arguments: Sequence[str], *flags: str) -> list[str]:
    """Returns a command's arguments without some flags and their values: --flag=value, --flag value, -flag=value.

    A flag that takes no value is named with a ! at its end: "extend!".
    """
    kept, value_follows = [], False
    takes_value = {flag.rstrip("!"): not flag.endswith("!") for flag in flags}
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        if value_follows:
            value_follows = False
        elif argument.startswith("-") and name in takes_value:
            value_follows = takes_value[name] and not equals
        else:
            kept.append(argument)
    return kept


def machine() -> dict[str, Any]:
    """Returns the processor, cores that this process may use, jax's devices, and versions."""
    import jax

    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": cores,
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "environment": {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def kernels(config: Any) -> str:
    """Returns the hash of the kernels for CPUs that a run of `config` takes here, "xla" for XLA's own operations."""
    import jax

    from cnn_jax.nn import cpu

    return (config.cpu_kernels and len(jax.devices()) == 1 and cpu.target()) or "xla"


def describe(machine: dict[str, Any]) -> str:
    """Returns a machine in words: of `machine`, or of a start."""
    cores = machine["cores"]
    return f"{machine['processor']}, {cores} core{'s' if cores != 1 else ''}, {machine['devices']}"


def processor() -> str:
    """Returns the processor's name, or its architecture where the system does not say more."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Returns the commit of the clone that this file is in, with -dirty if files differ from it; None elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None  # an installed copy; a repository around it is another project's
    line = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
