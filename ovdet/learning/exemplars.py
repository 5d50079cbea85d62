"""Exemplars: a photo of a thing, or a box in a photo, as a query; several of them make a class."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovdet.errors import InputError, expand_home
from ovdet.learning.examples import to_boxes
from ovdet.learning.learn import AnnotatedPhoto

_WHOLE = (0.0, 0.0, 1e9, 1e9)  # pixels; cut to the photo where its size is known
_PART = re.compile(r"\s*(?P<file>[^\[\]]+?)\s*(?:\[(?P<box>[^\[\]]*)\])?\s*")
_COMMA_OUTSIDE = re.compile(r",(?![^\[]*\])")


def parse_exemplars(texts: Sequence[str]) -> dict[str, list[tuple[str, tuple[float, ...] | None]]]:
    """ "mug=mug1.jpg,mug2.jpg[10,20,200,220]" of a command line -> {"mug": [("mug1.jpg", None), ("mug2.jpg", box)]}.

    Raises:
        InputError: another form, a file that is not there, or as of `expand_home`.
    """
    exemplars: dict[str, list[tuple[str, tuple[float, ...] | None]]] = {}
    for text in texts:
        name, equals, files = text.partition("=")
        parts = [_PART.fullmatch(part) for part in _COMMA_OUTSIDE.split(files)]
        if not (name.strip() and equals and all(parts)):
            raise InputError(f'expected an exemplar as "name=photo.jpg,photo.jpg[x1,y1,x2,y2]", got {text!r}')
        for part in parts:
            file = expand_home(part["file"])
            if not Path(file).is_file():
                raise InputError(f"expected a photo as an exemplar of {name.strip()!r}, got {file}, which is no file")
            exemplars.setdefault(name.strip(), []).append((file, _parse_box(part["box"], text)))
    return exemplars


def _parse_box(text: str | None, whole: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        box = tuple(map(float, text.split(",")))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise InputError(f"expected a box [x1,y1,x2,y2] in pixels, got [{text}] in {whole!r}")
    return box


def exemplar_photos(exemplars: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[AnnotatedPhoto]]:
    """Names, and their exemplars as annotated photos; boxes of one file are of one photo.

    Args:
        exemplars: by name a list of photos, which the thing fills, or of pairs (photo, box x1, y1, x2, y2); a box of
            None is the whole photo.

    Raises:
        InputError: no exemplars, or a box of other than four finite numbers.
    """
    if not isinstance(exemplars, Mapping) or not exemplars:
        raise InputError(f"expected exemplars as a mapping from names to lists of photos, got {exemplars!r}")
    images: dict[Any, Any] = {}
    boxes: dict[Any, list[tuple[int, Tensor]]] = {}
    for class_id, (name, given) in enumerate(exemplars.items()):
        if isinstance(given, (str, Path)) or not isinstance(given, Sequence) or not len(given):
            raise InputError(f"expected a list of photos as exemplars of {name!r}, got {given!r}")
        for each in given:
            image, box = each if isinstance(each, (tuple, list)) and len(each) == 2 else (each, None)
            xyxy = to_boxes(_WHOLE if box is None else box, f"an exemplar of {name!r}")
            if len(xyxy) != 1:
                raise InputError(f"expected one box x1, y1, x2, y2 of an exemplar of {name!r}, got {len(xyxy)}")
            key = str(image) if isinstance(image, (str, Path)) else id(image)
            images[key] = image
            boxes.setdefault(key, []).append((class_id, xyxy))
    photos = []
    for key, of_photo in boxes.items():
        ids = torch.tensor([class_id for class_id, _ in of_photo])
        photos.append(AnnotatedPhoto(images[key], torch.cat([xyxy for _, xyxy in of_photo]), ids))
    return list(exemplars), photos
