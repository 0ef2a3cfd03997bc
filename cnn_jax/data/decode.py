"""Image files to arrays. They are foreign: what cannot be read rightly is an error that names the file."""

import contextlib
import functools
import io
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import kind, without_waiting

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by channels
MOST_PIXELS = 178_956_970  # half a gigabyte of RGB; a small file can say that it has any number
MOST_BYTES = 4 * MOST_PIXELS  # of a file
TURNS = {  # by the orientation of EXIF
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange height and width

Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels


class UnreadableError(UserError):
    """A file is not an example that can be read rightly."""


@contextlib.contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Turns what is raised over a damaged file into one UnreadableError that names it."""
    try:
        yield
    except UnreadableError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow checks little, so its errors are of many kinds
        raise UnreadableError(f"{file}: it cannot be read: {str(error) or type(error).__name__}") from None


@contextlib.contextmanager
def opened(file: Path) -> Iterator[tuple[io.FileIO, int]]:
    """Opens `file` for reading, with its size in bytes; what is raised inside is as with `readable`.

    A pipe or a device is refused, and so is a file of more than `MOST_BYTES`. To open a pipe that nobody writes to
    would wait for ever, without O_NONBLOCK.
    """
    with readable(file), open(file, "rb", buffering=0, opener=without_waiting) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableError(f"{file}: it is not a file, but {kind(found.st_mode)}")
        if found.st_size > MOST_BYTES:
            raise UnreadableError(f"{file}: it has {found.st_size:,} bytes, but must have at most {MOST_BYTES:,}")
        yield stream, found.st_size


class _Jpeg(JpegImageFile):
    def getexif(self) -> Image.Exif:
        """Returns nothing: Pillow asks for the resolution, which is of no use, and warns of what it does not expect."""
        return Image.Exif()


FORMATS = {  # what files begin with
    "JPEG": (rb"\xff\xd8\xff", _Jpeg),
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "WebP": (rb"RIFF....WEBP", WebPImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
}


def _parsed(file: Path | str, data: bytes) -> Image.Image:
    """Returns the picture in the bytes of a file, its pixels not decoded.

    Not by `Image.open`, whose limit of pixels is the whole program's.
    """
    found = next((cls for magic, cls in FORMATS.values() if re.match(magic, data, re.DOTALL)), None)
    if found is None:
        *names, last = FORMATS
        raise UnreadableError(f"{file}: it is no {', '.join(names)} or {last} file, whatever its name says")
    image = found(io.BytesIO(_without_damaged_metadata(data) if found is PngImageFile else data))
    if math.prod(image.size) > MOST_PIXELS:
        raise UnreadableError(f"{file}: it has more than {MOST_PIXELS:,} pixels: make it smaller")
    if not isinstance(image, GifImageFile) and getattr(image, "n_frames", 1) > 1:
        several = "several pages" if isinstance(image, TiffImageFile) else "an animation"
        raise UnreadableError(f"{file}: it is {several}, not one picture")
    if isinstance(image, TiffImageFile) and image.mode in ("I", "F"):
        raise UnreadableError(f"{file}: it has 32 bits a value, whose range is not known: convert it to 8 or 16 bits")
    return image


METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"tIME"}  # of PNG: no pixel depends on them


def _without_damaged_metadata(data: bytes) -> bytes:
    """Returns a PNG file without metadata whose checksum is wrong: with them Pillow refuses the pixels, too."""
    kept, start = [data[:8]], 8
    while len(head := data[start : start + 8]) == 8:
        size, name = struct.unpack(">I4s", head)
        end = start + 12 + size
        if name not in METADATA or data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[start + 4 : end - 4])):
            kept.append(data[start:end])
        start = end
    return data if len(kept) < 2 else b"".join(kept)


def orientation(info: Any) -> int:
    """Returns the orientation that the metadata of a picture give, from 1 to 8; 1 where they are missing or damaged.

    Args:
      info: what Pillow has read: EXIF as bytes, or as text of ImageMagick, or XMP.
    """
    found, exif = None, info.get("exif")
    if exif is None and isinstance(profile := info.get("Raw profile type exif"), str):
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
    if isinstance(exif, bytes):
        found = _orientation_of_exif(exif.removeprefix(b"Exif\0\0"))
    if found is None:
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
        match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
        found = int(match[1]) if match else None
    return found if found in TURNS else 1


def _orientation_of_exif(exif: bytes) -> int | None:
    """Returns tag 0x0112 of the first directory of EXIF, which has the form of a TIFF file."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    with contextlib.suppress(struct.error):
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(count):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", exif, place + 2 + 12 * entry)
            if tag == 0x0112:
                return value if (kind, values) == (3, 1) else None
    return None


class Picture:
    """The picture of a file of `FORMATS`: an array uint8 [H, W, channels], upright, that is read when it is asked for.

    Args:
      file: its path, or with `data`, what the file would hold, what messages call it.

    Grey, palette and CMYK pictures become RGB (channels=3), colored ones grey (channels=1, ITU-R 601); 16 bits are
    scaled to 8; the orientation of EXIF is applied. Transparency is dropped, as torchvision's loader drops it; with
    channels=4 it is the fourth channel, 255 where a picture has none, and resizing weighs the colors by it. Of a GIF
    animation it is the first frame.

    Raises UserError for other channels. Everything raises UnreadableError if the file has none of `FORMATS`, is cut off
    or damaged, another animation, a TIFF of several pages or 32 bits, or of more than `MOST_PIXELS`.

    With `scaled`, `resize` decodes a JPEG at 1/2, 1/4 or 1/8 of its size where that still has as many pixels as are
    asked for: faster, with other pixels. One that EXIF turns is decoded in full.
    """

    def __init__(self, file: Path | str, channels: int, data: bytes | None = None):
        check(
            channels in MODES,
            f"config.data.channels is {channels}, but pictures have 1 (grey), 3 (RGB) or 4 (RGB and transparency)",
        )
        self.file = file
        self.channels = channels
        self.data = data
        self.scaled = False

    def _open(self) -> Image.Image:
        """Returns the file with its pixels not yet decoded."""
        data = self.data
        if data is None:
            with opened(Path(self.file)) as (stream, _):
                data = stream.readall()
        with readable(self.file):
            return _parsed(self.file, data)

    def _decode(self, image: Image.Image) -> Image.Image:
        with readable(self.file):
            image.load()
            turn = None if isinstance(image, TiffImageFile) else TURNS.get(orientation(image.info))
            if turn is not None:  # Pillow turns TIFF itself
                image = image.transpose(turn)
            if image.mode.startswith("I"):  # 16 bits of grey
                values = np.asarray(image, np.uint32)
                image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
            return converted(image, self.channels)

    @functools.cached_property
    def _header(self) -> Image.Image:
        return self._open()

    @functools.cached_property
    def _orientation(self) -> int:
        header = self._header
        if isinstance(header, TiffImageFile):  # Pillow turns it when it decodes
            with readable(self.file):
                header.load()
            return 1
        if isinstance(header, PngImageFile) and "exif" not in header.info:  # it may stand behind the pixels
            with readable(self.file):
                header.load()
        return orientation(header.info)

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels): of a JPEG, its header alone is read."""
        width, height = self._header.size
        return (width, height, self.channels) if self._orientation in TRANSPOSED else (height, width, self.channels)

    @functools.cached_property
    def pixels(self) -> Image.Image:
        """The whole picture, its mode one of `MODES`."""
        _ = self.shape  # before the pixels are turned
        return self._decode(self._header)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return to_array(self.pixels).astype(dtype or np.uint8, copy=False)

    def resize(self, size: Sequence[int], box: Box | None = None, interpolation: str = "bilinear") -> np.ndarray:
        """Returns the picture (or its part `box`) at (height, width), as `resample` does."""
        if not self.scaled or self._header.format != "JPEG" or self._orientation != 1:
            return resample(self.pixels, size, box, interpolation)
        height, width, _ = self.shape
        left, top, right, bottom = box or (0, 0, width, height)
        least = math.ceil(width * size[1] / (right - left)), math.ceil(height * size[0] / (bottom - top))
        image = self.__dict__.pop("_header")  # a draft changes it
        with readable(self.file):
            drafted = image.draft(None, least)
        shrink = width / drafted[1][2] if drafted else 1
        box = (left / shrink, top / shrink, right / shrink, bottom / shrink)
        return resample(self._decode(image), size, box, interpolation)


class Frames:
    """The pictures in a folder, in natural order: frame2 before frame10. `frames[a:b]` are `Picture`s of one size."""

    def __init__(self, file: Path, channels: int):
        self.file = file
        self.channels = channels

    @functools.cached_property
    def files(self) -> list[Path]:
        with readable(self.file):
            return sorted((path for path in self.file.iterdir() if is_picture(path)), key=natural)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, frames: slice) -> list[Picture]:
        pictures = [Picture(file, self.channels) for file in self.files[frames]]
        for picture in pictures:
            if picture.shape != pictures[0].shape:
                raise UnreadableError(
                    f"{picture.file}: it has {picture.shape[0]}x{picture.shape[1]} pixels, but "
                    f"{Path(pictures[0].file).name} of the same clip {pictures[0].shape[0]}x{pictures[0].shape[1]}"
                )
        return pictures


def is_picture(path: Path) -> bool:
    """Returns whether the name is that of a picture, and not of a hidden file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def natural(path: Path) -> tuple[list[str | int], str]:
    """Returns the key of natural order: runs of digits count as numbers."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def converted(picture: Image.Image, channels: int) -> Image.Image:
    """Returns a picture of any mode in the one of `MODES` that has so many channels."""
    mode = MODES[channels]
    if picture.mode == "CMYK":
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def to_array(picture: Image.Image) -> np.ndarray:
    """Returns a picture of one of `MODES` as uint8 [H, W, channels]."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def resample(
    picture: Image.Image, size: Sequence[int], box: Box | None = None, interpolation: str = "bilinear"
) -> np.ndarray:
    """Returns a picture (or its part `box`) as uint8 [height, width, C], antialiased.

    interpolation: one of `dataset.INTERPOLATIONS`.
    """
    return to_array(picture.resize((size[1], size[0]), Image.Resampling[interpolation.upper()], box=box))


def decode(file: Path | str, channels: int, data: bytes | None = None) -> np.ndarray:
    """Returns the picture in `file`, uint8 [H, W, channels], upright; see `Picture`."""
    return np.asarray(Picture(file, channels, data))
