"""Image files to arrays. They are foreign: what cannot be read rightly is an error that names the file."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from cnn_jax.errors import UserError

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_PIXELS = 178_956_970  # half a gigabyte of RGB; a small file can say that it has any number

# Pillow warns from here on, and this makes an error of it: before anything is decoded.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class UnreadableError(UserError):
    """A file is no image that can be read rightly."""


def decode(file: Path | BinaryIO, channels: int, *, name: str = "") -> np.ndarray:
    """Returns the picture in `file`, uint8 [H, W, channels], upright; `name` is the file's in messages.

    Grey, palette and CMYK pictures become RGB (channels=3), coloured ones grey (channels=1, ITU-R 601); 16 bits are
    scaled to 8; transparency is dropped, as torchvision's loader drops it; the orientation of EXIF is applied.

    Raises:
      UnreadableError: no JPEG or PNG, cut off or damaged, animated, or of more than `MOST_PIXELS`.
    """
    name = name or str(file)
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                raise UnreadableError(f"{name}: it is an animation, not one picture")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                values = np.asarray(upright, np.uint32)
                upright = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
            array = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    except UnreadableError:
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableError(f"{name}: it is no {' or '.join(FORMATS)} file, whatever its name says") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnreadableError(f"{name}: it has more than {MOST_PIXELS:,} pixels: make it smaller") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise UnreadableError(f"{name}: it cannot be read: {error}") from None
    return array[..., None] if array.ndim == 2 else array
