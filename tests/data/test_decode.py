import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cnn_jax.core.errors import UserError
from cnn_jax.data import decode as images
from cnn_jax.data.decode import UnreadableError, decode

RAMP = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)


def png(path, picture, **options):
    picture.save(path, "PNG", **options)
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_is_converted_to_the_requested_channels(tmp_path, mode, channels):
    picture = Image.fromarray(RAMP).convert(mode)
    name = "JPEG" if mode == "CMYK" else "PNG"
    picture.save(tmp_path / "a.jpg", name)
    found = decode(tmp_path / "a.jpg", channels)
    assert found.shape == (12, 8, channels) and found.dtype == np.uint8
    if name == "PNG":
        expected = np.asarray(picture.convert(images.MODES[channels])).reshape(found.shape)
        np.testing.assert_array_equal(found, expected)


def test_resizing_weighs_colors_by_their_transparency(tmp_path):
    """Two pixels become one: an opaque red and a transparent green give a half-transparent red."""
    pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 0]]], np.uint8)
    picture = images.Picture(png(tmp_path / "a.png", Image.fromarray(pixels, "RGBA")), 4)
    red, green, blue, seen = picture.resize((1, 1))[0, 0].astype(int)
    assert red >= 254 and (green, blue) == (0, 0) and abs(seen - 127.5) <= 1


def test_other_channels_than_pictures_have_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"channels is 2, but pictures have 1 \(grey\), 3 \(RGB\) or 4"):
        decode(tmp_path / "a.png", 2)


def test_cmyk_keeps_its_colors(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = decode(tmp_path / "red.jpg", 3)[0, 0].astype(int)
    assert red > 200 and green < 60 and blue < 60


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 257, 65535, 32768]], np.uint16)
    png(tmp_path / "a.png", Image.fromarray(values))
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 1)[0, :, 0], [0, 1, 255, 128])
    assert decode(tmp_path / "a.png", 3).shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, RAMP), (3, RAMP[::-1, ::-1]), (6, np.rot90(RAMP, -1)), (8, np.rot90(RAMP, 1)), (2, RAMP[:, ::-1])],
)
def test_the_orientation_of_exif_is_applied(tmp_path, orientation, turned):
    picture = Image.fromarray(RAMP)
    exif = picture.getexif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(png(tmp_path / "a.png", picture, exif=exif), 3), turned)


def test_one_pixel_is_a_picture(tmp_path):
    assert decode(png(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3))), 3).tolist() == [[[1, 2, 3]]]


def jpeg_bytes(size=(64, 48)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def animation(form):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jpeg_bytes()[:1000], "it cannot be read: image file is truncated"),
        (jpeg_bytes()[:20], "it (cannot be read|is no JPEG)"),
        (b"this is text", "it is no JPEG, PNG, WebP, BMP, TIFF or GIF file, whatever its name says"),
        (b"", "it is no JPEG, PNG"),
        (b"RIFF\0\0\0\0WAVE", "it is no JPEG, PNG"),
        (animation("PNG"), "it is an animation"),
        (animation("WEBP"), "it is an animation"),
        (animation("TIFF"), "it is several pages"),
    ],
)
def test_a_damaged_picture_is_an_error_that_names_the_file(tmp_path, content, message):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=message) as raised:
        decode(file, 3)
    assert str(raised.value).startswith(f"{file}: ")


def test_pictures_above_100_megapixels_are_not_decoded(tmp_path, monkeypatch):
    large = png(tmp_path / "large.png", Image.new("1", (10_000, 10_000)))
    assert decode(large, 1).shape == (10_000, 10_000, 1)
    monkeypatch.setattr(images, "MOST_PIXELS", 10**7)
    with pytest.raises(UnreadableError, match="it has more than"):
        decode(large, 1)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        decode(tmp_path / "a.jpg", 3)


def exif_of(orientation, *entries):
    """EXIF with an orientation and other entries: (tag, type, count, 4 bytes)."""
    rows = [struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0), *(struct.pack("<HHI4s", *entry) for entry in entries)]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)


ODD = [
    (),
    [(0x11A, 2, 4, b"72\0\0")],
    [(0x10F, 4, 1, b"abcd")],
    [(0x11A, 5, 1, b"\xff\xff\xff\xff")],
    [(0x8769, 4, 1, b"\xff" * 4)],
]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("entries", ODD)
def test_odd_exif_does_not_matter(tmp_path, entries, form):
    picture = Image.fromarray(np.repeat(np.repeat(RAMP, 8, 0), 8, 1))
    picture.save(tmp_path / "plain", form)
    picture.save(tmp_path / "a", form, exif=exif_of(6, *entries))
    np.testing.assert_array_equal(decode(tmp_path / "a", 3), np.rot90(decode(tmp_path / "plain", 3), -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", exif_of(9), exif_of(6)[:20], b"Exif\0\0II*\0" + b"\xff" * 30, b"junk"]
)
def test_damaged_exif_turns_nothing(tmp_path, exif, form):
    picture = Image.fromarray(RAMP)
    picture.save(tmp_path / "plain", form)
    picture.save(tmp_path / "a", form, exif=exif)
    np.testing.assert_array_equal(decode(tmp_path / "a", 3), decode(tmp_path / "plain", 3))


def test_a_png_with_damaged_metadata_has_its_pixels(tmp_path):
    png(tmp_path / "a.png", Image.fromarray(RAMP), exif=exif_of(6))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"eXIf") + 12] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", 3), RAMP)
    data[data.index(b"IDAT") + 12] ^= 255
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnreadableError, match="it cannot be read"):
        decode(tmp_path / "a.png", 3)


def test_a_palette_picture_without_a_palette_is_unreadable(tmp_path):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    chunks = (b"IHDR", header), (b"tRNS", b"\0"), (b"IDAT", zlib.compress(b"\0\0\1")), (b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks))
    with pytest.raises(UnreadableError, match=r"a\.png: it cannot be read"):
        decode(tmp_path / "a.png", 3)


def test_pillow_is_left_as_it_was():
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import warnings, numpy, PIL.PngImagePlugin; from PIL import Image\n"
            "before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)\n"
            "import cnn_jax.data.decode; print((Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before)",
        ],
        capture_output=True,
        text=True,
    )
    assert found.stdout == "True\n", found.stderr


# ---------------------------------------------------------------- WebP, BMP, TIFF, GIF

SAVED = {  # how a picture is saved: without loss, but for WebP and JPEG in TIFF
    "webp": ("WEBP", {}),
    "lossless": ("WEBP", dict(lossless=True)),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "deflate": ("TIFF", dict(compression="tiff_adobe_deflate")),
    "lzw": ("TIFF", dict(compression="tiff_lzw")),
    "jpeg": ("TIFF", dict(compression="jpeg")),
    "gif": ("GIF", {}),
}


def smooth(mode="RGB", size=(60, 40)):
    noise = np.random.default_rng(1).integers(0, 256, (5, 7, 4), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


MODES_OF = dict.fromkeys(SAVED, ("RGB", "L", "P", "RGBA", "1")) | {"jpeg": ("RGB", "L")}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form in SAVED for mode in MODES_OF[form]])
def test_other_formats_are_read_as_pillow_reads_them(tmp_path, form, mode, channels):
    name, options = SAVED[form]
    smooth(mode).save(tmp_path / "a", name, **options)
    with Image.open(tmp_path / "a") as expected:
        expected.load()
        want = np.asarray(expected.convert(images.MODES[channels])).reshape(40, 60, channels)
    picture = images.Picture(tmp_path / "a", channels)
    assert picture.shape == (40, 60, channels)
    np.testing.assert_array_equal(np.asarray(picture), want)
    exact = ("lossless", "tiff", "deflate", "lzw", *(("bmp",) if mode == "RGB" else ()))  # BMP has no transparency
    if form in exact and (mode, channels) in (("RGB", 3), ("RGBA", 4)):
        seen = np.asarray(smooth(mode)).reshape(40, 60, channels)
        visible = slice(None) if channels == 3 else seen[..., 3] > 0  # WebP drops the colors of transparent pixels
        np.testing.assert_array_equal(want[visible], seen[visible])


def test_a_gif_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue", "white")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    np.testing.assert_array_equal(decode(tmp_path / "a.gif", 3), np.full((4, 6, 3), (255, 0, 0)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "WEBP"])
def test_orientation_of_other_formats_is_applied_once(tmp_path, form, orientation):
    from PIL import ImageOps

    options = dict(lossless=True) if form == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth().save(tmp_path / "a", form, exif=exif, **options)
    smooth().save(tmp_path / "plain", "PNG", exif=exif)
    with Image.open(tmp_path / "plain") as plain:
        expected = np.asarray(ImageOps.exif_transpose(plain))
    picture = images.Picture(tmp_path / "a", 3)
    assert picture.shape == expected.shape
    np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_sixteen_bits_is_scaled_to_eight(tmp_path, order):
    values = np.array([[0, 257, 65535, 32768]], np.uint16).astype(f"{order}u2")
    Image.frombytes("I;16B" if order == ">" else "I;16", (4, 1), values.tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(decode(tmp_path / "a.tif", 1)[0, :, 0], [0, 1, 255, 128])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_tiff_of_32_bits_is_refused(tmp_path, mode):
    Image.new(mode, (4, 4), 70_000).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableError, match=r"a.tif: it has 32 bits a value"):
        decode(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("form", list(SAVED))
def test_truncated_file_of_another_format_is_unreadable(tmp_path, form):
    name, options = SAVED[form]
    smooth().save(tmp_path / "whole", name, **options)
    content = (tmp_path / "whole").read_bytes()
    for size in (4, 13, len(content) // 2):
        (tmp_path / "a").write_bytes(content[:size])
        with pytest.raises(UnreadableError, match=r"a: it "):
            decode(tmp_path / "a", 3)


# ---------------------------------------------------------------- lazily, and at a smaller scale


def photo(path, size=(400, 300), orientation=1):
    """Saves a smooth JPEG of `size` (width, height) and returns its path."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, "JPEG", quality=95, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_shape_is_known_before_the_pixels(tmp_path, orientation, monkeypatch):
    picture = images.Picture(photo(tmp_path / "a.jpg", orientation=orientation), 3)
    with monkeypatch.context() as patch:
        patch.setattr(images.Picture, "_decode", None)
        assert picture.shape == ((400, 300, 3) if orientation == 6 else (300, 400, 3))
    assert np.asarray(picture).shape == picture.shape


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("size", "box", "decoded"),
    [
        ((100, 100), None, 2),  # (stored) 400x300 for 100x100: half has the pixels, a quarter has 75 of one side
        ((36, 36), None, 8),
        ((38, 38), None, 4),
        ((100, 100), (10, 20, 200, 210), 1),
        ((50, 50), (10, 20, 160, 170), 2),
        ((400, 400), None, 1),
    ],
)
def test_scaled_decoding_keeps_enough_pixels_for_the_crop(tmp_path, monkeypatch, orientation, size, box, decoded):
    file = photo(tmp_path / "a.jpg", orientation=orientation)
    exact, scaled = images.Picture(file, 3), images.Picture(file, 3)
    scaled.scaled = True
    sizes = []
    resample = images.resample
    monkeypatch.setattr(images, "resample", lambda p, *rest: sizes.append(p.size) or resample(p, *rest))
    found = scaled.resize(size, box)
    height, width, _ = scaled.shape
    decoded = decoded if orientation == 1 else 1  # rotated pictures are decoded in full
    assert sizes == [(-(-width // decoded), -(-height // decoded))]
    expected = exact.resize(size, box)
    assert found.shape == expected.shape == (*size, 3)
    assert np.abs(found.astype(int) - expected).mean() < 2
    assert decoded > 1 or np.array_equal(found, expected)
    np.testing.assert_array_equal(scaled.resize(size, box), found)  # again


def test_scaled_decoding_leaves_png_as_it_is(tmp_path):
    file = png(tmp_path / "a.png", Image.fromarray(np.tile(RAMP, (8, 8, 1))))
    scaled = images.Picture(file, 3)
    scaled.scaled = True
    np.testing.assert_array_equal(scaled.resize((6, 6)), images.Picture(file, 3).resize((6, 6)))
    with pytest.raises(UnreadableError, match=r"cut.jpg: it cannot be read"):
        whole = photo(tmp_path / "cut.jpg").read_bytes()
        (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        cut = images.Picture(tmp_path / "cut.jpg", 3)
        cut.scaled = True
        cut.resize((30, 30))
