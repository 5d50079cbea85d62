"""Reading image files of any kind as upright 8-bit color.

Shapes: H height, W width, C channels as stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ovdet.errors import InputError, error_summary
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

WHITE = (255, 255, 255)
MAX_ASPECT = 100  # longest to shortest side; beyond it a resized photo would have no pixel left on its short side
SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".mpo", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}
MAX_PIXELS = 128_000_000  # of a photo: decoded and converted it takes 0.9 GB; OpenCV's limit stands in __init__.py
_PIXELS_AT_ONCE = 4_000_000
# what may lie beside photos
NO_PHOTOS = {"", ".csv", ".db", ".html", ".ini", ".json", ".log", ".md", ".txt", ".xml", ".yaml", ".yml"}


class Frame(NamedTuple):
    """A frame of a video: seconds from the first one, and (H, W, 3) uint8 RGB."""

    seconds: float
    rgb: np.ndarray


def find_images(path: str | Path) -> list[Path]:
    """A file, or the photos of a folder in the order of their names.

    A warning says which other files might have been meant: those of a kind that is not read, as HEIC, RAW and videos.

    Raises:
        InputError: it does not exist, or the folder has no photos.
    """
    found = Path(path)
    if not found.is_dir():
        if not found.exists():
            raise InputError(f"expected an image or a folder of images, {path} does not exist")
        return [found]
    seen = (file for file in found.iterdir() if not file.name.startswith("."))  # a Mac's ._photo.jpg is none
    files = sorted(file for file in seen if file.is_file())
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    others = [file.name for file in files if file.suffix.lower() not in SUFFIXES | NO_PHOTOS]
    more = f" and {len(others) - 3} more" if others[3:] else ""
    if not images:
        actual = f"{', '.join(others[:3])}{more}" if others else "none (folders in it are not looked into)"
        raise InputError(f"expected images ({', '.join(sorted(SUFFIXES))}) in {path}, got {actual}")
    if others:
        logger.warning("left out, as no image that can be read: %s%s", ", ".join(others[:3]), more)
    return images


def class_folders(folder: str | Path) -> dict[str, list[Path]]:
    """Photos in a sub-folder for each class, by the sub-folders' names, in their order.

    Raises:
        InputError: there is no such folder, it has no sub-folders, one of them has no photos, or two have names that
            read alike.
    """
    root = Path(folder)
    if not root.is_dir():
        reason = "is a file" if root.exists() else "does not exist"
        raise InputError(f"expected a folder with a sub-folder of photos for each class, {folder} {reason}")
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(f"expected a folder with a sub-folder of photos for each class, {folder} has no sub-folders")
    Vocabulary(tuple(each.name for each in classes))  # refuses names that read alike
    return {each.name: find_images(each) for each in classes}


def read_image(path: str | Path, format: str = "RGB") -> np.ndarray:
    """Read a photo as 8-bit color, turned upright by its EXIF orientation.

    Gray, palette and CMYK images are converted to RGB; transparency is flattened on white; 16-bit values are scaled
    from [0, 65535] to [0, 255]; of an animation the first frame is taken.

    Args:
        path: the photo's file.
        format: channel order of the result, "RGB" or "BGR".

    Returns:
        (H, W, 3) contiguous uint8.

    Raises:
        InputError: the file is missing, empty, broken, not an image, or suspiciously large.
    """
    if format not in ("RGB", "BGR"):
        raise ValueError(f"expected format 'RGB' or 'BGR', got {format!r}")
    path = Path(path)
    _check_file(path)
    try:
        rgb = _read_with_pil(path)
    except UnidentifiedImageError:
        rgb = _read_with_opencv(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"expected a photo of ordinary size, {path} has too many pixels: {error}") from error
    except Exception as error:  # decoders meet broken bytes with nearly any exception
        raise InputError(f"expected a readable image, {path} is broken: {error_summary(error)}") from error
    return rgb if format == "RGB" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR, rgb)  # in place


def photo_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a photo as `read_image` gives it, by its header where that says it.

    Raises:
        InputError: as of `read_image`.
    """
    _check_file(Path(path))
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:  # no header that PIL knows, or broken EXIF, which counts for none
        return read_image(path).shape[:2]
    return (width, height) if is_turned else (height, width)


def check_size(actual: tuple[int, int], expected: tuple[int, int], photo: str) -> None:
    """Refuse a photo that is not of the size that its json says: boxes would lie elsewhere.

    Args:
        actual: (height, width) of the photo, upright.
        expected: of the json.
        photo: its file, for the message.

    Raises:
        InputError: the sizes differ.
    """
    if actual == expected:
        return
    turned = "; swapped there, or its EXIF orientation turns it" if actual == expected[::-1] else ""
    raise InputError(
        f"expected {photo} to be {expected[1]} x {expected[0]} pixels as its json says, "
        f"it is {actual[1]} x {actual[0]}{turned}"
    )


def check_aspect(height: int, width: int, photo: str = "") -> None:
    """Refuse an image that is empty or too elongated to be resized.

    Args:
        height: in pixels.
        width: in pixels.
        photo: its file, for the message.

    Raises:
        InputError: it is empty or far too thin.
    """
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        size = f"{width} x {height} pixels" + (f" in {photo}" if photo else "")
        raise InputError(f"expected a photo with sides of at most {MAX_ASPECT} to 1, got {size}")


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"expected an image file, {path} is a folder")
        if not path.exists():
            raise InputError(f"expected an image file, {path} does not exist")
        if not path.is_file():
            raise InputError(f"expected an image file, {path} is not an ordinary file")
        if path.stat().st_size == 0:
            raise InputError(f"expected an image file, {path} is empty (0 bytes)")
    except (OSError, ValueError) as error:  # no permission, name too long, a null character
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected an image file, {str(path)!r} cannot be opened: {error_summary(error)}") from error


def _read_with_pil(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of any mode that PIL knows."""
    with path.open("rb") as stream, Image.open(stream) as image:  # by its name PIL would map some TIFFs turned wrongly
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}, at most {MAX_PIXELS:,} are read")
        image.load()
        image = _upright(image)
    return rgb_array(image)


def rgb_array(image: Image.Image) -> np.ndarray:
    """Any mode of PIL's -> (H, W, 3) uint8 RGB, converted as `read_image` does.

    Raises:
        ValueError: a mode without a known range of values.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    return _in_strips(lambda top, end: _rgb_strip(image.crop((0, top, image.width, end))), image.height, image.width)


def _in_strips(strip: Callable[[int, int], np.ndarray], height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 from a function of rows [top, end): what is in between needs memory for a strip alone."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _PIXELS_AT_ONCE // max(width, 1))
    for top in range(0, height, rows):
        pixels[top : top + rows] = strip(top, min(top + rows, height))
    return pixels


def _rgb_strip(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" in older versions of PIL
        return _color_from_array(np.asarray(image))
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        flat = Image.new("RGBA", image.size, (*WHITE, 255))
        flat.alpha_composite(image)
        image = flat
    return np.asarray(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. EXIF that cannot be parsed is as good as none: the pixels are still right."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        logger.debug("EXIF that cannot be parsed: %s", image)
    return image


def _read_with_opencv(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of what PIL does not recognize (some TIFF layouts, PFM, ...)."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
        is_pam = content[:2].tobytes() == b"P7"  # its red and blue OpenCV takes for each other
        array = None if is_pam else cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except (cv2.error, OSError) as error:
        raise InputError(f"expected a readable image, {path} is broken: {error_summary(error)}") from error
    if array is None:
        raise InputError(f"expected an image file, {path} is not an image in a known format")
    if array.ndim == 3 and array.shape[2] >= 3:
        array = array[:, :, [2, 1, 0, *range(3, array.shape[2])]]  # OpenCV's order is BGR(A)
    try:
        return _color_from_array(array)
    except ValueError as error:
        raise InputError(f"expected an image of 8 or 16 bits, in {path} {error_summary(error)}") from error


def _color_from_array(array: np.ndarray) -> np.ndarray:
    """(H, W) gray or (H, W, C) with C in 1..4 (RGB, alpha last), 8 or 16 bits -> (H, W, 3) uint8 RGB."""
    if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 65535:
        raise ValueError("its pixels are not integers of 8 or 16 bits")
    return _in_strips(lambda top, end: _color_strip(array[top:end]), *array.shape[:2])


def _color_strip(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        array = np.round(array / 257.0).astype(np.uint8)  # 65535 / 257 = 255
    if array.ndim == 2:
        array = array[:, :, None]
    alpha = array[:, :, -1:] / 255.0 if array.shape[2] in (2, 4) else None
    color = array[:, :, :3] if array.shape[2] >= 3 else np.repeat(array[:, :, :1], 3, axis=2)
    if alpha is None:
        return color
    return np.round(color * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
