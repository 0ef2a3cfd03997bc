"""Weights in third-party files: .safetensors, and what torch.save writes. They are untrusted: nothing is executed.

The sizes that a file declares are checked against the file's own size before memory is allocated.
"""

import mmap
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import storage_errors

SUFFIXES = (".pth", ".pt", ".bin", ".pth.tar")  # of files that torch.save writes
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")  # entries that training scripts put a state dict in
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and Lightning
DEPTH = 4  # how deep in nested mappings a state dict is looked for
IGNORED = ".num_batches_tracked"  # names with this ending are not weights but BatchNorm's step counter
SAFE = (2, 6)  # of PyTorch: earlier versions can be made to execute code even with weights_only (CVE-2025-32434)
TYPES = dict(F16="float16", BF16="bfloat16", F32="float32", F64="float64")  # safetensors' names, NumPy's


@dataclass(frozen=True)
class StateDict:
    """The weights in a file: names and shapes are known, values are read on demand.

    shapes: name -> shape. dtypes: the types in the file, by NumPy's names. note: how they were found, for people.
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
    found = _safetensors(path) if _is_safetensors(path) else _torch(path)
    # Empty shapes may claim a size of any number; without them, no size is larger than the file.
    empty = [f"{name} {list(shape)}" for name, shape in found.shapes.items() if 0 in shape]
    check(not empty, f"{path} holds arrays without values: {', '.join(empty)}")
    return found


# what a file begins with, small letters -> what it is, and the way out
CONTENTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`",
    b"<!doctype html": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"<?xml": "an XML document: download the file itself",
    b"\x89hdf": "an HDF5 file, as Keras writes: save the weights as .safetensors",
    b"\x1f\x8b": "compressed by gzip: unpack it",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89png": "a PNG picture",
    b"\x93numpy": "a NumPy array",
    b"{": "JSON text",
    b"#": "text",
}


def _is_safetensors(path: Path) -> bool:
    """Returns whether a file is of that format, by its content; raises UserError if it is of neither format."""
    with storage_errors(f"{path} cannot be read"), path.open("rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    check(size > 0, f"{path} cannot be read as weights: it is empty")
    if int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{":
        return True
    start = head.lstrip().lower()
    for begin, what in CONTENTS.items():
        check(not start.startswith(begin), f"{path} cannot be read as weights: it is {what}")
    if head.startswith((b"PK", b"\x80")) or (len(head) > 8 and path.suffix != ".safetensors"):
        return False  # an archive or a pickle; PyTorch knows older formats, too
    return path.suffix == ".safetensors"


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
    """Returns the names without the prefixes that all of them have, and a note that lists these."""
    names, found = list(names), ""
    inner = [re.sub(r"\.module\.", ".", name) for name in names]  # DataParallel around a part, as AlexNet's features
    if inner != names and len(set(inner)) == len(names):
        names, found = inner, ".module."
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), ""):
        names, found = [name.removeprefix(prefix) for name in names], found + prefix
    return names, f"names without {found!r}" if found else ""


# ---------------------------------------------------------------- torch.save


def _torch(path: Path) -> StateDict:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} needs PyTorch to be read: pip install 'cnn-jax[torch]'. Or write it as .safetensors where PyTorch "
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
    """Returns the content of a file of torch.save, by the loader that builds nothing but tensors and containers."""
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
        check(
            not _mentions(path, b"bytearray"),
            f"{path} is refused: it asks for a bytearray, as no file of weights does, which can take any memory",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            # Mapped, an entry cannot reach beyond the file; the format before 2020 has no entries.
            if path.suffix == ".safetensors":  # PyTorch decides by the name
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
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
        if "weights_only" in first:  # PyTorch's advice, which would execute what the file says
            first = "it is a pickle, but none of weights alone"
        raise UserError(f"{path} cannot be read as a file of torch.save: {first[:300]}") from None


def _mentions(path: Path, word: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def _unwrapped(path: Path, loaded: Any, torch: Any) -> tuple[dict[str, Any], str]:
    """Returns the state dict in what a file holds, and a note that says where: the mapping with the most tensors.

    Of equal ones, those under a name in `WRAPPERS` come first. A script may save tensors next to it, or a second
    network.
    """
    found: list[tuple[int, int, str, dict[str, Any]]] = []

    def search(value: Any, place: str, depth: int) -> None:
        entries = {name: part for name, part in value.items() if isinstance(name, str)}
        tensors = {name: part for name, part in entries.items() if isinstance(part, torch.Tensor)}
        if tensors:
            rank = WRAPPERS.index(place) if place in WRAPPERS else len(WRAPPERS) * bool(place)
            found.append((-len(tensors), rank, place, tensors))
        for name, part in entries.items():
            if isinstance(part, Mapping) and depth < DEPTH:
                search(part, f"{place}.{name}" if place else name, depth + 1)

    if isinstance(loaded, Mapping):
        search(loaded, "", 1)
    if not found:
        entries = [str(name) for name in loaded] if isinstance(loaded, Mapping) else []
        what = f"the entries {', '.join(entries[:20])}" if entries else f"a {type(loaded).__name__}"
        raise UserError(
            f"{path} holds no state dict: it is {what}. Known are names with tensors, alone or in an entry such as "
            f"{', '.join(WRAPPERS)}"
        )
    _, _, place, tensors = min(found, key=lambda one: one[:2])
    if not place:
        return tensors, ""
    others = ", ".join(str(name) for name in loaded if name != place.split(".")[0])
    return tensors, f"its entry {place!r}" + (f", not {others}" if others else "")


def _kind(value: Any, torch: Any) -> str:
    """Returns the type of a tensor's values, or what the tensor is if it is not a plain array of numbers."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return str(value.dtype).removeprefix("torch.") if plain else f"{value.layout} on {value.device}, {value.dtype}"
