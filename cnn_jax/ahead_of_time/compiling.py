"""Compiles programs for a target and stores what the compiler reports about them."""

import contextlib
import hashlib
import importlib.metadata
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from cnn_jax.ahead_of_time import hlo
from cnn_jax.ahead_of_time.programs import Program
from cnn_jax.ahead_of_time.targets import Target, quiet
from cnn_jax.core import files
from cnn_jax.core.errors import UserError

# The optimization level of XLA that is quick for TPUs, and jax's own, with which training compiles.
QUICK, THOROUGH = "O1", "UNKNOWN"
FORMAT = 1  # of the reports stored on disk


@dataclass(frozen=True)
class Account:
    """What the compiler reports about one program on one device; bytes, and FLOPs of one call.

    fits: False if the compiler refuses for lack of memory; then only `needed` is known.
    arguments: with the padding of their layouts; `donated` bytes of them are reused for the result.
    temporaries: all else, such as activations. output: the result, donated bytes included. code: the program itself.
    flops, cycles: None where the compiler gives none. exchanges: see `hlo.Exchange`.
    convolutions: their number by type. host_transfers: instructions that exchange data with the host.
    seconds: the compile time.
    """

    fits: bool
    needed: int
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    donated: int = 0
    code: int = 0
    flops: float | None = None
    cycles: int | None = None
    exchanges: tuple[hlo.Exchange, ...] = ()
    convolutions: dict[str, int] | None = None
    host_transfers: int = 0
    seconds: float = 0.0


def compile_for(program: Program, target: Target, *, thorough: bool) -> Account:
    """Returns the compiler's account of a program; accounts are cached in `cache_folder()/preflight`.

    Args:
      thorough: compile as training does; else at the optimization level that is quick for TPUs.

    Raises:
      UserError: the compiler refuses the program for a reason other than memory.
    """
    level = THOROUGH if thorough or target.chip.kind == "gpu" else QUICK
    lowered = program.lower()
    path = files.cache_folder() / "preflight" / f"{_key(lowered, target, level)}.json"
    if (known := _read(path)) is not None:
        return known
    account = _compile(lowered, target, level)
    with contextlib.suppress(OSError):  # it is compiled again
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(asdict(account)))
    return account


def _compile(lowered: Any, target: Target, level: str) -> Account:
    # Autotuning measures on the GPU.
    options: dict[str, Any] = {"xla_gpu_autotune_level": 0} if target.chip.kind == "gpu" else {}
    began = time.perf_counter()
    try:
        with quiet(), _options(level):
            compiled = lowered.compile(compiler_options=options or None)
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            raise UserError(f"{target.name}: the compiler refuses the program: {str(error).splitlines()[0]}") from None
        return Account(fits=False, needed=needed, seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    module = hlo.Module(compiled.as_text())
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = own + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return Account(
        fits=needed <= target.chip.memory,
        needed=needed,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        output=memory.output_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=costs.get("flops"),
        cycles=module.cycles(),
        exchanges=tuple(module.exchanges()),
        convolutions=module.convolutions(),
        host_transfers=module.host_transfers(),
        seconds=seconds,
    )


@contextlib.contextmanager
def _options(level: str) -> Iterator[None]:
    """Sets the optimization level, and turns jax's own cache off: it keeps only programs that can run here."""
    wanted = {"jax_optimization_level": level, "jax_enable_compilation_cache": False}
    before = {name: jax.config.values[name] for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # jax decides once whether it is used
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _needed(message: str) -> int | None:
    """Returns the bytes that XLA's out-of-memory message names; None for another message."""
    if "RESOURCE_EXHAUSTED" not in message and "hbm" not in message.lower():
        return None
    found = re.search(r"total memory required[^(]*\(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if found is None:
        return 0
    number, unit = [group for group in found.groups() if group is not None]
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _key(lowered: Any, target: Target, level: str) -> str:
    names = ("jaxlib", "libtpu", "jax-cuda13-pjrt")
    versions = [_version(name) for name in names]
    told = json.dumps([FORMAT, target.name, asdict(target.chip), level, versions])
    return hashlib.sha256((told + lowered.as_text()).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def compiler(target: Target) -> str:
    """Returns the name and version of the compiler for a target."""
    package = "libtpu" if target.chip.kind == "tpu" else "jax-cuda13-pjrt"
    return f"{package} {_version(package)}"


def _read(path: Path) -> Account | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Account(**found | {"exchanges": tuple(hlo.Exchange(**row) for row in found["exchanges"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
