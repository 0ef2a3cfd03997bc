"""Features of pictures, and the file that holds them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import written

LARGEST_RATIO = 100  # size of an archive's values / size of its file: real features do not compress better
FIELDS = {"features": "f", "files": "U", "labels": "U", "source": "U"}  # arrays of an .npz file and their NumPy kinds


@dataclass(frozen=True)
class Features:
    """Features of pictures.

    features: float32 [N, F]. files: their names. labels: the class folder, or person, of each; "" where there is none.
    source: the SOURCE that computed them; with ":pixels", its input values. exit_code: 1 if files were left
    out.
    """

    features: np.ndarray
    files: list[str]
    labels: list[str]
    source: str
    exit_code: int = 0

    def write(self, path: Path) -> None:
        """Writes a NumPy archive in one piece: `FIELDS`, labels only if there are any.

        Raises:
          StorageError: it cannot be written.
        """
        arrays = {name: np.array(getattr(self, name)) for name in FIELDS if name != "labels" or any(self.labels)}
        with written(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def read(path: Path) -> Features:
    """Returns what `Features.write` wrote; nothing in the file is executed.

    Raises:
      UserError: it is not such a file.
    """
    try:
        with path.open("rb") as file:
            check(zipfile.is_zipfile(file), f"{path} cannot be read as features: it is not an archive")
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            check(
                size <= LARGEST_RATIO * path.stat().st_size,
                f"{path} would take {size:,} bytes, more than {LARGEST_RATIO} times its own: it holds no features",
            )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in FIELDS if name in archive.files}
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as features: {error}") from None
    arrays.setdefault("labels", np.array([""] * len(arrays.get("files", ()))))
    shapes = {name: array.shape for name, array in arrays.items()}
    count, *size = shapes.get("features", (0,)) or (0,)
    right = {"features": (count, *size), "files": (count,), "labels": (count,), "source": ()}
    check(
        (shapes == right and count > 0 and len(size) == 1)
        and all(arrays[name].dtype.kind == kind for name, kind in FIELDS.items()),
        f"{path} holds no features: cnn_jax predict --features writes them",
    )
    check(bool(np.isfinite(arrays["features"]).all()), f"{path} has features that are not finite")
    return Features(arrays["features"], arrays["files"].tolist(), arrays["labels"].tolist(), str(arrays["source"]))
