import io

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import images
from cnn_jax.data.images import UnreadableError, decode

RAMP = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)


def png(path, picture, **options):
    picture.save(path, "PNG", **options)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_the_channels_that_are_asked_for(tmp_path, mode, channels):
    picture = Image.fromarray(RAMP).convert(mode)
    name = "JPEG" if mode == "CMYK" else "PNG"
    picture.save(tmp_path / "a.jpg", name)
    found = decode(tmp_path / "a.jpg", channels)
    assert found.shape == (12, 8, channels) and found.dtype == np.uint8
    if name == "PNG":
        expected = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(found.shape)
        np.testing.assert_array_equal(found, expected)


def test_cmyk_keeps_its_colours(tmp_path):
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


def animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


def gif():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "GIF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jpeg_bytes()[:1000], "it cannot be read: image file is truncated"),
        (jpeg_bytes()[:20], "it (cannot be read|is no JPEG)"),
        (b"this is text", "it is no JPEG or PNG file, whatever its name says"),
        (b"", "it is no JPEG or PNG file"),
        (gif(), "it is no JPEG or PNG file"),
        (animation(), "it is an animation"),
    ],
)
def test_what_is_no_whole_picture_is_an_error_that_names_the_file(tmp_path, content, message):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=message) as raised:
        decode(file, 3)
    assert str(raised.value).startswith(f"{file}: ")


def test_a_picture_of_a_hundred_megapixels_is_read_and_a_larger_one_refused_before_it_is_decoded(tmp_path, monkeypatch):
    large = png(tmp_path / "large.png", Image.new("1", (10_000, 10_000)))
    assert decode(large, 1).shape == (10_000, 10_000, 1)
    monkeypatch.setattr(images.Image, "MAX_IMAGE_PIXELS", 10**7)
    with pytest.raises(UnreadableError, match="it has more than"):
        decode(large, 1)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UnreadableError, match="No such file"):
        decode(tmp_path / "a.jpg", 3)
