"""A page to review labels: pictures of the detections that are least sure, in one file that any browser shows."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ovdet.data.images import read_image
from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.inference.labels import Box, LabeledPhoto, Labels

REVIEW = "review.html"
_SIDE = 240  # pixels of a picture
_AROUND = 0.5  # of the box's longer side, shown around it
_STYLE = (
    "body{font:15px system-ui;margin:2em}figure{display:inline-block;width:250px;margin:4px;vertical-align:top}"
    "img{max-width:100%;max-height:240px}figcaption{overflow-wrap:anywhere}"
)


def least_sure(labels: Labels, thresholds: Mapping[str, float], number: int) -> list[tuple[LabeledPhoto, Box]]:
    """The detections whose scores lie least above the thresholds of their names, by ratio; least sure first."""
    every = [(photo, box) for photo in labels.photos for box in photo.detections]
    every.sort(key=lambda each: each[1].score / max(thresholds[each[1].label], 1e-6))
    return every[:number]


def write_review(labels: Labels, thresholds: Mapping[str, float], folder: Path, *, number: int = 60) -> Path:
    """Write review.html with the least sure detections.

    Args:
        labels: of a folder.
        thresholds: lowest score of each name.
        folder: where to write.
        number: of detections, at most.
    """
    chosen = least_sure(labels, thresholds, number)
    figures = []
    for photo, box in chosen:
        caption = f"{html.escape(box.label)} {box.score:.2f}<br>{html.escape(photo.image)}"
        try:
            picture = _data_url(_crop(read_image(labels.folder / photo.image), box))
        except InputError:  # it is gone since it was labeled
            picture = ""
        figures.append(f'<figure><img alt="" src="{picture}"><figcaption>{caption}</figcaption></figure>')
    total = sum(len(photo.detections) for photo in labels.photos)
    head = f"<!doctype html><meta charset=utf-8><title>Review</title><style>{_STYLE}</style>"
    intro = f"<h1>The {len(chosen)} least sure of {total} detections on {len(labels.photos)} photos</h1>"
    atomic_write(folder / REVIEW, "\n".join([head, intro, *figures, ""]).encode())
    return folder / REVIEW


def _crop(rgb: np.ndarray, box: Box) -> Image.Image:
    """(H, W, 3) uint8 -> the box with its surroundings, small."""
    height, width = rgb.shape[:2]
    x1, y1, x2, y2 = box.box
    margin = _AROUND * max(x2 - x1, y2 - y1)
    left, top = max(int(x1 - margin), 0), max(int(y1 - margin), 0)
    right, bottom = min(int(x2 + margin) + 1, width), min(int(y2 + margin) + 1, height)
    image = Image.fromarray(rgb[top:bottom, left:right])
    scale = min(_SIDE / max(image.size), 4.0)
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    place = [float(value) for value in (np.array(box.box) - [left, top, left, top]) * scale]
    ImageDraw.Draw(image).rectangle(place, outline=(255, 40, 40), width=2)
    return image


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
