"""Weights in files of others: .safetensors, and what torch.save writes. The files are foreign: nothing is executed.

What a file says of itself is believed only where it fits the file's size, before memory is asked for.
"""

import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check

SUFFIXES = (".pth", ".pt", ".bin", ".pth.tar")  # of files that torch.save writes
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # entries that training scripts put a state dict in
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
IGNORED = ".num_batches_tracked"  # names that end so are no weights: a count of BatchNorm, an integer
SAFE = (2, 6)  # of PyTorch: earlier ones can be made to execute code even so (CVE-2025-32434)
TYPES = dict(F16="float16", BF16="bfloat16", F32="float32", F64="float64")  # safetensors' names, NumPy's


@dataclass(frozen=True)
class StateDict:
    """The weights in a file, of which the names and shapes are known and the values are read when asked for.

    shapes: name -> shape. dtypes: the types that are there, by NumPy's names. note: how they were found, for people.
    metadata: that of a .safetensors file.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: tuple[str, ...]
    note: str
    metadata: Mapping[str, str]
    get: Callable[[str], np.ndarray]

    def read(self) -> dict[str, np.ndarray]:
        """Returns name -> array, float32, in memory of its own.

        Raises:
          UserError: values are infinite or NaN; all of their arrays are listed.
        """
        with np.errstate(over="ignore"):  # of float64: checked below
            weights = {name: np.array(self.get(name), np.float32, order="C") for name in self.shapes}
        damaged = [name for name, values in weights.items() if not np.isfinite(values).all()]
        check(not damaged, f"{self.path} holds values that are infinite or no numbers, in {', '.join(damaged)}")
        return weights


def read(path: Path) -> StateDict:
    """Returns the weights in a file.

    Raises:
      UserError: there is no such file, it cannot be read, it holds no weights, or it would execute code.
    """
    check(path.is_file(), f"there is no file {str(path)!r}")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    # Without such shapes, of which one size can be any number, no size is larger than the file.
    empty = [f"{name} {list(shape)}" for name, shape in found.shapes.items() if 0 in shape]
    check(not empty, f"{path} holds arrays without values: {', '.join(empty)}")
    return found


# ---------------------------------------------------------------- safetensors


def _safetensors(path: Path) -> StateDict:
    import ml_dtypes  # noqa: F401  # NumPy's bfloat16
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy").__enter__()  # checks the header against the file; open until freed
        slices = {name: file.get_slice(name) for name in file.keys() if not name.endswith(IGNORED)}  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    types = {name: str(part.get_dtype()) for name, part in slices.items()}
    _check_types(path, {name: TYPES.get(kind, kind) for name, kind in types.items()})
    names, note = _unprefixed(slices)
    original = dict(zip(names, slices, strict=True))
    return StateDict(
        path,
        shapes={name: tuple(slices[full].get_shape()) for name, full in original.items()},
        dtypes=tuple(sorted({TYPES[kind] for kind in types.values()})),
        note=note,
        metadata=file.metadata() or {},
        get=lambda name: file.get_tensor(original[name]),
    )


def _check_types(path: Path, types: Mapping[str, str]) -> None:
    """Raises UserError unless all types are floating ones."""
    known = set(TYPES.values())
    others = [f"{name} ({kind})" for name, kind in types.items() if kind not in known]
    check(bool(types), f"{path} holds no weights")
    check(not others, f"{path} holds what is not of {', '.join(sorted(known))}: {', '.join(others)}")


def _unprefixed(names: Iterable[str]) -> tuple[list[str], str]:
    """Returns the names without the prefixes that all of them have, and a note of those."""
    names, found = list(names), ""
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), ""):
        names, found = [name.removeprefix(prefix) for name in names], found + prefix
    return names, f"names without {found!r}" if found else ""


# ---------------------------------------------------------------- torch.save


def _torch(path: Path) -> StateDict:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch to be read: pip install -e '.[torch]'. Or write it as .safetensors where PyTorch "
            "is, with safetensors.torch.save_file(state_dict, 'weights.safetensors'): that needs no PyTorch here"
        ) from None

    version = tuple(map(int, torch.__version__.split(".")[:2]))
    check(version >= SAFE, f"{path} is not read with PyTorch {torch.__version__}: before 2.6 a file could execute code")
    size = path.stat().st_size
    loaded = _load(path, torch, size)
    found, entry = _unwrapped(path, loaded, torch)
    tensors = {name: value for name, value in found.items() if not name.endswith(IGNORED)}
    kinds = {name: _kind(value, torch) for name, value in tensors.items()}
    _check_types(path, kinds)
    stated = sum(value.numel() * value.element_size() for value in tensors.values())
    check(stated <= size, f"{path} is damaged: it has {size:,} bytes, and says that it holds {stated:,}")
    names, stripped = _unprefixed(tensors)
    tensors = dict(zip(names, tensors.values(), strict=True))
    return StateDict(
        path,
        shapes={name: tuple(value.shape) for name, value in tensors.items()},
        dtypes=tuple(sorted(set(kinds.values()))),
        note=", ".join(filter(None, (entry, stripped))),
        metadata={},
        get=lambda name: tensors[name].detach().to(torch.float32).numpy(),
    )


def _load(path: Path, torch: Any, size: int) -> Any:
    """Returns what is in a file of torch.save, by its loader that builds tensors and containers and nothing else."""
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                parts = archive.infolist()
            # torch.save compresses nothing: a small file cannot hold much.
            honest = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
            check(
                honest and sum(part.file_size for part in parts) <= size,
                f"{path} is refused: it is a compressed archive, or says that it holds more than its {size:,} bytes, "
                "as no file of torch.save does",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            # Mapped, an entry cannot reach beyond the file; the format before 2020 has no entries.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UserError:
        raise
    except Exception as error:  # whatever the parser of a damaged file stumbles over
        reason = str(error)
        code = re.search(r"GLOBAL ([\w.]+)|(TorchScript)|(Unsupported class)", reason)
        check(
            code is None,
            f"{path} is refused: it holds more than weights ({code and code[code.lastindex or 0]}), and to read that "
            "could execute code. Where you trust it, save its weights alone: "
            "torch.save(model.state_dict(), 'weights.pth')",
        )
        first = next(iter(reason.splitlines()), type(error).__name__).strip()
        raise UserError(f"{path} cannot be read as a file of torch.save: {first[:300]}") from None


def _unwrapped(path: Path, loaded: Any, torch: Any) -> tuple[dict[str, Any], str]:
    """Returns the state dict in what a file holds, and a note of where in it."""

    def tensors(value: Any) -> dict[str, Any]:
        entries = value.items() if isinstance(value, Mapping) else ()
        return {name: part for name, part in entries if isinstance(name, str) and isinstance(part, torch.Tensor)}

    if found := tensors(loaded):
        return found, ""
    entries = [str(name) for name in loaded] if isinstance(loaded, Mapping) else []
    for entry in WRAPPERS:
        if entry in entries and (found := tensors(loaded[entry])):
            others = ", ".join(name for name in entries if name != entry)
            return found, f"its entry {entry!r}" + (f", not {others}" if others else "")
    what = f"the entries {', '.join(entries[:20])}" if entries else f"a {type(loaded).__name__}"
    raise UserError(
        f"{path} holds no state dict: it is {what}. Known are names with tensors, alone or as one of the entries "
        f"{', '.join(WRAPPERS)}"
    )


def _kind(value: Any, torch: Any) -> str:
    """Returns the type of a tensor's values; of a tensor that is no plain array of numbers, what it is."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return str(value.dtype).removeprefix("torch.") if plain else f"{value.layout} on {value.device}, {value.dtype}"
