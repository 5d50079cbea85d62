"""The reader of photos: every mode of pixels comes out right, everything else is an InputError that names the file."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from ovdet.data import images
from ovdet.data.images import find_images, photo_size, read_image
from ovdet.errors import InputError


@pytest.fixture
def rgb() -> np.ndarray:
    """(8, 12, 3) uint8 with a different value everywhere."""
    return np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def test_channel_order(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, rgb)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png"), "BGR"), rgb[:, :, ::-1])
    with pytest.raises(ValueError, match="RGB"):
        read_image(tmp_path / "a.png", "L")


def test_grey_palette_and_one_bit(tmp_path, rgb):
    gray = Image.fromarray(rgb[:, :, 0])
    gray.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(rgb[:, :, :1], 3, axis=2))
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.gif"), np.asarray(palette.convert("RGB")))
    gray.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) <= {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_flattened_on_white(tmp_path, mode):
    image = Image.new(mode, (3, 1), 0)
    for x, alpha in enumerate((0, 128, 255)):  # black, ever less transparent
        image.putpixel((x, 0), (0,) * (len(mode) - 1) + (alpha,))
    image.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0, :, 0], [255, 127, 0], atol=1)


def test_transparent_palette_entry(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], [[255, 255, 255], [40, 50, 60]])


def test_cmyk(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)  # no cyan: red
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() <= 12


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled(tmp_path, suffix, channels):
    values = np.linspace(0, 65535, 60).astype(np.uint16).reshape(4, 5, 3)
    stored = {1: values[:, :, 0], 3: values, 4: np.dstack([values, np.full((4, 5), 65535, np.uint16)])}[channels]
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored)
    expected = values if channels > 1 else np.repeat(values[:, :, :1], 3, axis=2)
    assert np.abs(read_image(tmp_path / f"a.{suffix}", "BGR") - expected / 257.0).max() <= 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = (255, 0, 0)  # red in the top left corner
    undo = [None, 0, 3, 1, 5, 2, 6, 4]  # PIL's transpose that the orientation takes back
    image = Image.fromarray(upright)
    stored = image if undo[orientation - 1] is None else image.transpose(undo[orientation - 1])
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (32, 48, 3)
    assert np.abs(read.astype(int) - upright).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "CMYK"])
def test_exif_orientation_of_plain_tiffs(tmp_path, mode, orientation):
    """PIL maps uncompressed ones into memory where it has a file's name, and turned ones wrongly."""
    stored = Image.fromarray(np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) // 4).convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "plain.tif", exif=exif)
    stored.save(tmp_path / "packed.tif", exif=exif, compression="tiff_lzw")
    read = read_image(tmp_path / "plain.tif")
    assert read.shape[:2] == ((24, 32) if orientation < 5 else (32, 24))
    np.testing.assert_array_equal(read, read_image(tmp_path / "packed.tif"))


def test_broken_exif_is_no_reason_to_refuse(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00nonsense", quality=95)
    assert read_image(tmp_path / "a.jpg").shape == rgb.shape


def test_one_pixel_and_first_frame(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[77, 77, 77]]]
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def write_truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("I am no photo" * 50), "not an image"),
        (write_truncated, "broken"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 100), "not an image|broken"),
        (lambda path: Image.new("F", (4, 4)).save(path, format="TIFF"), "floating-point"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_cannot_be_read(tmp_path, make, message, suffix):
    path = tmp_path / f"photo.{suffix}"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert "photo." in str(caught.value) and "\n" not in str(caught.value)


def test_a_null_character_and_a_long_name():
    for path in ("a\0.jpg", "a" * 5000 + ".jpg"):
        with pytest.raises(InputError):
            read_image(path)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="bomb.png has too many pixels"):
        read_image(tmp_path / "bomb.png")


def test_photos_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt", "detections.json"):
        (tmp_path / name).write_bytes(b"anything")
    (tmp_path / "below").mkdir()
    assert [file.name for file in find_images(tmp_path)] == ["a.png", "b.JPG", "c.webp"]
    assert find_images(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]  # who names a file means it
    with pytest.raises(InputError, match=r"expected images \(.avif, .*\) in .*below, got none"):
        find_images(tmp_path / "below")
    with pytest.raises(InputError, match="none.jpg does not exist"):
        find_images(tmp_path / "none.jpg")


def test_files_that_might_have_been_meant_are_named(tmp_path, caplog):
    for name in ("a.png", "notes.txt", "._x.heic"):
        (tmp_path / name).write_bytes(b"anything")
    find_images(tmp_path)
    assert not caplog.records
    for name in ("1.HEIC", "2.dng", "3.mp4", "4.HEIC", "5.HEIC"):
        (tmp_path / name).write_bytes(b"anything")
    assert [file.name for file in find_images(tmp_path)] == ["a.png"]
    assert caplog.messages == ["left out, as no image that can be read: 1.HEIC, 2.dng, 3.mp4 and 2 more"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="got 1.HEIC, 2.dng, 3.mp4 and 2 more"):
        find_images(tmp_path)


@pytest.mark.parametrize("kind", [np.int32, np.int16])
def test_layouts_that_opencv_alone_knows(tmp_path, rgb, kind):
    """TIFFs of signed numbers, which count as 16 bits."""
    bgr = rgb[:, :, ::-1].astype(kind) * (257 if kind == np.int32 else 100)
    cv2.imwrite(str(tmp_path / "a.tiff"), bgr)
    expected = rgb if kind == np.int32 else np.round(rgb.astype(float) * 100 / 257)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff", "BGR"), expected[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "a.tiff"), -bgr)
    with pytest.raises(InputError, match=r"8 or 16 bits, in .*a\.tiff .*not integers of 8 or 16 bits"):
        read_image(tmp_path / "a.tiff")


def test_transparency_that_opencv_reads(tmp_path):
    """Flattened on white, as PIL's is."""
    pixels = np.zeros((1, 3, 4), np.int32)
    pixels[0, :, 2] = 200 * 257  # red
    pixels[0, :, 3] = (0, 128 * 257, 65535)
    cv2.imwrite(str(tmp_path / "a.tiff"), pixels)
    found = read_image(tmp_path / "a.tiff")[0]
    np.testing.assert_allclose(found[:, 0], [255, 227, 200], atol=1)
    np.testing.assert_allclose(found[:, 2], [255, 127, 0], atol=1)


@pytest.mark.parametrize("broken", [False, True])
def test_what_has_no_header_is_decoded_for_its_size(tmp_path, broken):
    (tmp_path / "a.tiff").write_bytes(b"II*\0")
    if broken:
        with pytest.raises(InputError, match=r"a\.tiff"):
            photo_size(tmp_path / "a.tiff")
        return
    cv2.imwrite(str(tmp_path / "a.tiff"), np.zeros((8, 12, 3), np.int32))
    assert photo_size(tmp_path / "a.tiff") == (8, 12)


def test_numbers_without_a_range_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.hdr"), np.ones((4, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"8 or 16 bits, in .*a\.hdr .*its pixels are not integers"):
        read_image(tmp_path / "a.hdr")


def test_pam_is_no_known_format(tmp_path):
    """OpenCV gives its red for blue."""
    head = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n"
    (tmp_path / "a.pam").write_bytes(head + bytes([200, 0, 0]))
    with pytest.raises(InputError, match=r"a\.pam is not an image in a known format"):
        read_image(tmp_path / "a.pam")


def test_a_file_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is not an ordinary file"):  # else it would wait for ever
        read_image(tmp_path / "a.png")


def test_more_pixels_than_are_read(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 95)
    with pytest.raises(InputError, match="too many pixels: 12 x 8, at most 95 are read"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 96)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


def test_an_orientation_that_cannot_be_applied_counts_for_none(tmp_path, rgb, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")

    def fail(image, *, in_place):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fail)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


def test_a_decoder_that_fails_is_one_line(tmp_path, monkeypatch):
    """OpenCV refuses some sizes with an exception of its own."""
    (tmp_path / "a.pfm").write_bytes(b"no photo")

    def fail(*_):
        raise cv2.error("OpenCV(5) loadsave.cpp:80: error: (-215) pixels <= CV_IO_MAX_IMAGE_PIXELS\n")

    monkeypatch.setattr(images.cv2, "imdecode", fail)
    with pytest.raises(InputError, match=r"a\.pfm is broken: .*CV_IO_MAX_IMAGE_PIXELS") as caught:
        read_image(tmp_path / "a.pfm")
    assert "\n" not in str(caught.value)
