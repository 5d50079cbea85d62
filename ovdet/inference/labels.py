"""Labels of a folder's photos, written as they come: a journal that a later run goes on with.

The journal is a file of JSON lines: the first says what was asked for, every other is a photo with its detections. A
process that is killed leaves at most one line torn, which the next run writes anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ovdet.errors import InputError, first_line
from ovdet.files import make_folder
from ovdet.inference.detections import Detections
from ovdet.inference.mask_formats import to_run_lengths
from ovdet.inference.stream import OnFailure, StreamedPhoto

JOURNAL = "labels.jsonl"
_FORMAT = 1


class Box(msgspec.Struct, frozen=True, omit_defaults=True):
    """A detection: `box` is XYXY in pixels of the upright photo."""

    box: tuple[float, float, float, float]
    score: float
    label: str
    mask: str = ""  # of a detector that has masks: COCO's compressed run lengths, in the size of the photo


class LabeledPhoto(msgspec.Struct, frozen=True):
    """A photo of the folder and what was found in it, best first."""

    image: str  # its name in the folder
    width: int
    height: int
    detections: tuple[Box, ...]


class _Header(msgspec.Struct, frozen=True):
    ovdet_labels: int
    asked: dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """All photos of a folder that were labeled.

    Attributes:
        folder: of the photos.
        names: the classes, in the order in which formats number them.
        photos: in the order of their names.
        model: the detector's name.
    """

    folder: Path
    names: tuple[str, ...]
    photos: tuple[LabeledPhoto, ...]
    model: str


class Journal:
    """The file that a labeling run appends to."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        """Open the journal of a folder, or begin one.

        Args:
            folder: of the results; created.
            asked: what decides about the labels, as plain values: names, thresholds, detector.

        Raises:
            InputError: the folder cannot be written to, or its journal is another's or answers another question.
        """
        make_folder(folder)
        self.path = folder / JOURNAL
        self.done: dict[str, LabeledPhoto] = {}
        if self.path.exists():
            size = self._read(dict(asked))
            os.truncate(self.path, size)  # a torn last line goes
        if not self.path.exists() or not self.path.stat().st_size:
            self._append(_Header(_FORMAT, dict(asked)))

    def add(self, photo: LabeledPhoto) -> None:
        """Append a photo; it lasts once this returns."""
        self._append(photo)
        self.done[photo.image] = photo

    def _append(self, row: msgspec.Struct) -> None:
        try:
            with open(self.path, "ab") as stream:
                stream.write(msgspec.json.encode(row) + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"expected a place to write to, got {self.path}: {error.strerror or error}") from error

    def _read(self, asked: dict[str, Any]) -> int:
        """Take over what is whole; the number of bytes of it."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]  # the last one may be torn
        if not whole:
            return 0
        try:
            before = msgspec.json.decode(whole[0], type=_Header).asked
            rows = [msgspec.json.decode(line, type=LabeledPhoto) for line in whole[1:]]
        except msgspec.DecodeError as error:
            raise InputError(
                f"expected {self.path} to be a journal of labels, it is not: {first_line(error)}"
            ) from error
        asked = json.loads(json.dumps(asked))  # tuples as lists
        if odd := [key for key in {**asked, **before} if asked.get(key) != before.get(key)]:
            key = odd[0]
            raise InputError(
                f"expected the {key} that {self.path} was begun with ({before.get(key)}), got {asked.get(key)}; "
                "another --output begins anew"
            )
        self.done = {row.image: row for row in rows}
        return sum(map(len, whole))


def label_photos(
    stream: Callable[..., Iterator[StreamedPhoto]], photos: Sequence[Path], journal: Journal, on_failure: OnFailure
) -> Iterator[tuple[Path, LabeledPhoto]]:
    """Label the photos that a journal does not have yet.

    Args:
        stream: of a predictor, its names and limits bound.
        photos: files of one folder.
        journal: takes each as it is done.
        on_failure: gets those that cannot be used, and why.

    Yields:
        Each photo with its labels.
    """
    new = []
    for photo in photos:
        if not photo.name.isprintable():  # JSON and XML have no place for them
            error = InputError(f"expected a photo with a name of ordinary characters, got {photo.name!r}")
            on_failure(photo, error)
        elif photo.name not in journal.done:
            new.append(photo)
    with closing(stream(new, on_failure=on_failure)) as seen:
        for photo in seen:
            labeled = labeled_photo(photo.source.name, photo.detections)
            journal.add(labeled)
            yield photo.source, labeled


def labeled_photo(name: str, found: Detections) -> LabeledPhoto:
    """Detections as a journal's row: boxes within the photo, of some width and height."""
    height, width = found.size
    boxes = np.clip(found.boxes.astype(np.float64), 0, [width, height, width, height]).round(2)
    masks = [""] * len(boxes) if found.masks is None else map(to_run_lengths, found.masks)
    rows = zip(boxes.tolist(), found.scores.tolist(), found.labels, masks, strict=True)
    kept = [
        Box(tuple(box), round(score, 4), label, mask)
        for box, score, label, mask in rows
        if box[2] > box[0] and box[3] > box[1]
    ]
    return LabeledPhoto(name, width, height, tuple(kept))
