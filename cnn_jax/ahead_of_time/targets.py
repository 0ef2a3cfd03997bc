"""The targets of --for: a kind of chip and a number, as devices that programs can be compiled for but not run on."""

import contextlib
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cnn_jax.core.errors import UserError, check, near
from cnn_jax.parallel.chips import CHIPS, GPU, TPU

EXAMPLES = "v5e:4x4 or h100x8"


@dataclass(frozen=True)
class Target:
    """name: as given by --for. shape: of a TPU slice, or (machines, GPUs of each)."""

    name: str
    chip: TPU | GPU
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        """Number of machines. A TPU slice of up to 8 chips in two dimensions, or 4 in three, is on one."""
        if isinstance(self.chip, GPU):
            return self.shape[0]
        single = 8 if self.chip.axes == 2 else 4
        return 1 if self.count <= single else self.count // self.chip.per_host

    def describe(self) -> str:
        machines = "one machine" if self.hosts == 1 else f"{self.hosts} machines of {self.count // self.hosts}"
        return f"{self.count} x {self.chip.title}, {machines}"


def parse(text: str, flag: str = "--for") -> Target:
    """Returns the target of `CHIP:AxB` or `CHIP:AxBxC` for TPUs, and of `CHIPxN` for GPUs.

    Raises:
      UserError: no such chip, a topology with a wrong number of axes, or machines that are not full.
    """
    match = re.fullmatch(r"([a-z]+\d+[a-z]*?)(?::(\d+(?:x\d+)*)|x(\d+))", text)
    name = match.group(1) if match else re.split(r"[:x]", text)[0]
    check(
        name in CHIPS,
        f"{flag} is {text!r}, but must name a chip of {', '.join(CHIPS)}, such as {EXAMPLES}{near(name, CHIPS)}",
    )
    chip = CHIPS[name]
    if isinstance(chip, GPU):
        count = int(match.group(3) or 0) if match else 0
        check(count > 0, f"{flag} is {text!r}, but must say how many GPUs, such as {name}x8")
        check(
            count <= chip.per_host or count % chip.per_host == 0,
            f"{flag} is {text!r}, but more than {chip.per_host} GPUs must fill machines of {chip.per_host}, such as "
            f"{name}x{math.ceil(count / chip.per_host) * chip.per_host}",
        )
        machines = max(1, count // chip.per_host)
        return Target(text, chip, (machines, count // machines))
    sizes = tuple(map(int, match.group(2).split("x"))) if match and match.group(2) else ()
    example = "x".join(["2", "2", "1"][: chip.axes])
    check(
        len(sizes) == chip.axes and min(sizes) > 0,
        f"{flag} is {text!r}, but must be the topology of a slice in {chip.axes} dimensions, such as {name}:{example}",
    )
    return Target(text, chip, sizes)


def devices(target: Target) -> Sequence[Any]:
    """Returns the devices of a target, for `jax.jit(...).lower(...).compile()` alone.

    Raises:
      UserError: the compiler for them is not installed, or does not know the topology.
    """
    check_installed(target)
    from jax.experimental import topologies

    try:
        with quiet():
            if isinstance(target.chip, GPU):
                topology = topologies.get_topology_desc(
                    platform="cuda",
                    target_config=target.chip.description(),
                    topology="x".join(map(str, (1, *target.shape))),
                )
            else:
                # Another process may use libtpu, too, since no device is used; and there is no metadata server to ask.
                os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
                os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
                options: dict[str, Any] = dict(target.chip.options)
                if min(target.shape[:2]) == 1:  # a part of a machine, which libtpu 0.0.42 (jax 0.10) refuses otherwise
                    options["chips_per_host_bounds"] = (*target.shape, 1)[:3]
                topology = topologies.get_topology_desc(target.name, platform="tpu", **options)
    except Exception as error:  # its class depends on the plugin
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"--for is {target.name!r}, which the compiler refuses: {reason}") from None
    return topology.devices


def check_installed(target: Target) -> None:
    """Raises UserError unless the compiler for a target is installed."""
    if isinstance(target.chip, TPU):
        check(
            importlib.util.find_spec("libtpu") is not None,
            f"--for={target.name} compiles with libtpu, which is not installed: pip install 'cnn-jax[tpu]' (Linux on "
            "x86-64; no TPU is needed)",
        )
        return
    check(
        sys.version_info >= (3, 12),
        f"--for={target.name} needs Python 3.12 or later, for the jax that compiles for GPUs without one; this is "
        f"{sys.version_info[0]}.{sys.version_info[1]}",
    )
    check(
        importlib.util.find_spec("jax_plugins") is not None
        and importlib.util.find_spec("jax_plugins.xla_cuda13") is not None,
        f"--for={target.name} compiles with jax's plugin for CUDA, which is not installed: pip install "
        "'cnn-jax[cuda]' (Linux; no GPU is needed)",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what libraries write to stderr: libtpu warns at every start that it finds no TPU. Errors are exceptions."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with tempfile.TemporaryFile() as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)
