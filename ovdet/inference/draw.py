"""Pictures of detections, drawn by supervision's annotators.

Own are the sizes of pictures, a color for each name that lasts from picture to picture, and the choice of a font:
supervision leaves these to its callers.

Shape letters: H, W of the image; R detections.
"""

from __future__ import annotations

import colorsys
import functools
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovdet.memory import collection_paused

SMALL = 800  # pixels; smaller images are enlarged so that the labels can be read
LARGE = 2560  # larger images are made smaller: nobody looks at 48 megapixels, and they take seconds to write
# comes with matplotlib, which takes a while to import; no Chinese, no Hindi
FONT = Path(importlib.util.find_spec("matplotlib").origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf"
_FIRST_HUE, _GOLDEN = 0.45, 0.618034  # steps of the golden ratio never come near one another, and few photos are cyan
_BRIGHT = 0.5  # luminance from which on black text is the easier one to read


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray,
    masks: np.ndarray | None = None,
    names: Sequence[str] = (),
    ids: Sequence[int] | None = None,
) -> np.ndarray:
    """An image with boxes, masks, names and scores drawn on it, one color for each name.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        boxes: (R, 4) XYXY in pixels of the image.
        labels: R names.
        scores: (R,).
        masks: (R, H, W) bool, or None.
        names: the whole vocabulary, so that a name has the same color in every picture; () for the labels alone.
        ids: R numbers that captions tell in the place of scores.

    Returns:
        (H', W', 3) uint8 RGB; images with a longest side under 800 pixels are enlarged to it, over 2560 made smaller.
    """
    with collection_paused():
        import supervision  # most of a second, for those alone who draw

    # sizes
    picture, boxes, masks = _resize(image, boxes, masks)
    height, width = picture.shape[:2]
    scale = (height * width) ** 0.5
    font_size = round(scale / 36)
    # captions and colors; the best are drawn last, over the others
    told = [f"{score:.2f}" for score in scores] if ids is None else [f"#{number}" for number in ids]
    captions = [f"{label} {what}" for label, what in zip(labels, told, strict=True)][::-1]
    found = supervision.Detections(
        xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[::-1],
        mask=None if masks is None else np.asarray(masks, dtype=bool)[::-1],
    )
    rgb = _colors(labels, names)[::-1]
    color = supervision.ColorPalette([supervision.Color(*each) for each in rgb])
    text_color = supervision.ColorPalette([supervision.Color(*(_text_color(each))) for each in rgb])
    # drawing
    scene = Image.fromarray(picture)
    if not len(found):
        return picture
    options = dict(color=color, color_lookup=supervision.ColorLookup.INDEX)
    if found.mask is not None:
        scene = supervision.MaskAnnotator(opacity=0.4, **options).annotate(scene, found)
    scene = supervision.BoxAnnotator(thickness=max(round(scale / 220), 2), **options).annotate(scene, found)
    labeler = supervision.RichLabelAnnotator(
        text_color=text_color,
        font_path=str(_font_for(captions)),
        font_size=font_size,
        text_padding=max(font_size // 6, 2),
        smart_position=True,  # apart from one another, and inside of the picture
        max_line_length=max(round(1.6 * width / font_size), 8),
        **options,
    )
    return np.asarray(labeler.annotate(scene, found, captions))


def _resize(
    image: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image, boxes and masks at a size that labels can be read at; a copy of the image."""
    height, width = image.shape[:2]
    longest = max(height, width)
    factor = min(max(longest, SMALL), LARGE) / longest
    if factor == 1:
        return image.copy(), boxes, masks
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    scale = np.float32([size[0] / width, size[1] / height] * 2)
    if masks is not None and len(masks):
        masks = np.stack([cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in masks])
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return picture, np.asarray(boxes) * scale, masks


def _colors(labels: Sequence[str], names: Sequence[str]) -> list[tuple[int, int, int]]:
    """R labels -> R times RGB, by a name's place in the vocabulary."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*names, *sorted(set(labels))]))}
    hues = [(_FIRST_HUE + places[label] * _GOLDEN) % 1 for label in labels]
    return [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0)) for hue in hues]


def _text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on a color."""
    luminance = np.dot(background, (0.299, 0.587, 0.114)) / 255
    return (0, 0, 0) if luminance > _BRIGHT else (255, 255, 255)


def _font_for(texts: Iterable[str]) -> Path:
    """The file of a font with the characters of all texts, as far as this machine has one."""
    missing = sorted(set().union(*texts) - _characters(FONT))
    return next(filter(None, map(_system_font_with, missing)), FONT)


@functools.cache
def _characters(font: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(str(font)).get_charmap()))


@functools.cache
def _system_font_with(character: str) -> Path | None:
    """The first upright font of the system that has a character beside Latin letters and digits."""
    from matplotlib.font_manager import fontManager  # looks through the system's folders

    fonts = [font for font in fontManager.ttflist if (font.style, font.weight) == ("normal", 400)]
    files = [Path(font.fname) for font in fonts if "Last Resort" not in font.name]  # its letters are all boxes
    return next((file for file in files if {character, "a", "0"} <= _characters(file)), None)
