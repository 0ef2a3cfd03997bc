"""Arrays in .npy files: clips [T, H, W] or [T, H, W, C] and sequences [L] or [L, C]. Nothing in them is executed."""

import functools
import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from cnn_jax.data.decode import UnreadableError, opened

SUFFIX = ".npy"
CLIPS, SEQUENCES = 3, 1  # axes besides the channels


class StoredArray:
    """The array in a .npy file, with its axis of channels: `array[a:b]` reads no more than that of a clip's frames.

    Clips are uint8. Sequences are integers or floats of any size, which become float32 as they are.

    Everything raises UnreadableError if the file is no such array, holds other axes, types or channels than it should,
    has more or fewer bytes than its header says, or values that are not finite.
    """

    def __init__(self, file: Path, channels: int, axes: int):
        self.file = file
        self.channels = channels
        self.axes = axes

    def _refuse(self, reason: str) -> UnreadableError:
        return UnreadableError(f"{self.file}: {reason}")

    @functools.cached_property
    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype, int]:
        """(shape in the file, whether in Fortran's order, type, bytes before the values)."""
        with opened(self.file) as (file, size):
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
            if read is None:
                raise self._refuse(f"it is written in version {version[0]}.{version[1]} of the format, not 1.0 or 2.0")
            try:
                shape, fortran, dtype = read(file)
            except Exception as error:  # whatever Python's parser says of foreign text
                raise self._refuse(f"its header cannot be read: {str(error).splitlines()[:1]}") from None
            start = file.tell()
        kinds = "integers or floats" if self.axes == SEQUENCES else "uint8"
        right = dtype.kind in "iuf" if self.axes == SEQUENCES else dtype == np.uint8
        if not right:
            raise self._refuse(f"its values are of type {dtype}, but must be {kinds}")
        if len(shape) not in (self.axes, self.axes + 1) or min(shape) < 1:
            letters = "[L] or [L, C]" if self.axes == SEQUENCES else "[T, H, W] or [T, H, W, C]"
            raise self._refuse(f"its shape is {list(shape)}, but must be {letters}, each at least 1")
        channels = shape[-1] if len(shape) > self.axes else 1
        if channels != self.channels:
            raise self._refuse(f"it has {channels} channels, but config.data.channels is {self.channels}")
        promised = math.prod(shape) * dtype.itemsize
        if promised != size - start:
            raise self._refuse(f"its header promises {promised:,} bytes of values, but {size - start:,} follow")
        return shape, fortran, dtype, start

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """[L, C] or [T, H, W, C]."""
        return (*self._header[0][: self.axes], self.channels)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, steps: slice) -> np.ndarray:
        shape, fortran, dtype, start = self._header
        first, last, _ = steps.indices(len(self))
        if fortran:  # the first axis is scattered over the whole file
            first, last, chosen = 0, shape[0], steps
        else:
            chosen = slice(None)
        row = math.prod(shape[1:])
        with opened(self.file) as (file, _):
            file.seek(start + first * row * dtype.itemsize)
            values = np.fromfile(file, dtype, (last - first) * row)
            array = values.reshape((last - first, *shape[1:]), order="F" if fortran else "C")[chosen]
        if self.axes == SEQUENCES:
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise self._refuse("it has values that are not finite")
        return np.ascontiguousarray(array).reshape(-1, *self.shape[1:])
