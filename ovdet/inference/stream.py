"""Detections of many photos: decoded ahead of the network, in batches of like shapes, taken while it goes on.

Shape letters: H, W of a photo.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovdet.data.images import find_images
from ovdet.data.read_ahead import alike, in_order, num_readers, read_ahead
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.photo import Photo, to_rgb

logger = logging.getLogger(__name__)

KEPT_PIXELS = 4_000_000  # of a photo that waits; a larger file is read again by those who want its pixels
BATCHES_AHEAD = 2  # that the network works ahead of whoever takes its results

OnFailure = Callable[[Any, InputError], None]


@dataclass(frozen=True, eq=False)
class StreamedPhoto:
    """A photo of a stream and what was found in it.

    Attributes:
        source: as it was given: a path, an array, a Frame of a video, ...
        detections: in pixels of the photo.
    """

    source: Any
    detections: Detections
    _rgb: np.ndarray | None

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB; a large file is read again.

        Raises:
            InputError: it has gone.
        """
        return to_rgb(self.source) if self._rgb is None else self._rgb


def log_failure(source: Any, error: InputError) -> None:
    """A warning in the log about a photo that cannot be used."""
    logger.warning("left out: %s", error)


def photos_of(source: str | Path | Iterable[Photo]) -> Iterable[Photo]:
    """The photos of a file or folder, the frames of a video (a file, or media.Video), or an iterable as it is.

    Raises:
        InputError: there is no such file, a folder without photos, or one photo in the place of several.
    """
    is_many = isinstance(source, (str, Path)) or hasattr(source, "__iter__")
    if isinstance(source, Image.Image) or getattr(source, "ndim", None) == 3 or not is_many:
        raise InputError(f"expected a file, a folder or several photos, got one {type(source).__name__}")
    if isinstance(source, (str, Path)):
        from ovdet.inference.media import Video, is_video  # PyAV takes a while to import

        return Video.open(source).timed_frames() if is_video(source) else find_images(source)
    return source.timed_frames() if hasattr(source, "timed_frames") else source


def stream_photos(
    photos: Iterable[Photo],
    prepare: Callable[[np.ndarray], Any],
    detect: Callable[[Sequence[Any]], Sequence[Any]],
    finish: Callable[[Any], Detections] = lambda found: found,
    *,
    shape_of: Callable[[Any], Hashable] = lambda inputs: None,
    batch_size: int = 1,
    readers: int = 0,
    on_failure: OnFailure = log_failure,
    channel_order: str = "BGR",
) -> Iterator[StreamedPhoto]:
    """Detect on photos in their order.

    Threads read and prepare them; one more, the network's, works ahead of another, which finishes what it found, up to
    two batches ahead of whoever takes the results. No thread outlives the iteration.

    Args:
        photos: any number; a thread of its own iterates over them.
        prepare: (H, W, 3) uint8 RGB -> what `detect` takes; called in several threads at once.
        detect: prepared photos of one shape -> what the network finds on each.
        finish: that of one photo -> its detections; meanwhile the network goes on.
        shape_of: of a prepared photo.
        batch_size: photos of a batch at most.
        readers: threads that read and prepare; 0 for as many as help.
        on_failure: gets a photo that cannot be used, and why, in its turn.
        channel_order: of arrays.
    """
    readers = readers or num_readers()

    def read(photo: Photo) -> _Read:
        try:
            rgb = to_rgb(photo, channel_order)
            inputs = prepare(rgb)
        except InputError as error:
            return _Read(photo, error=error)
        is_large = isinstance(photo, (str, Path, Image.Image)) and rgb.size > 3 * KEPT_PIXELS
        return _Read(photo, inputs, None if is_large else rgb)

    def run(batch: Sequence[tuple[int, _Read]]) -> list[tuple[int, _Read, Any]]:
        is_bad = batch[0][1].error is not None
        found = [None] * len(batch) if is_bad else detect([each.inputs for _, each in batch])
        return [(place, each, its) for (place, each), its in zip(batch, found, strict=True)]

    def finish_all(batch: Sequence[tuple[int, _Read, Any]]) -> list[tuple[int, StreamedPhoto | _Read]]:
        if batch[0][1].error is not None:
            return [(place, each) for place, each, _ in batch]
        return [(place, StreamedPhoto(each.source, finish(its), each.rgb)) for place, each, its in batch]

    def shape(each: _Read) -> Hashable:
        return each.error is None and (shape_of(each.inputs),)

    with closing(read_ahead(photos, read, threads=readers, ahead=readers + batch_size)) as readings:
        batches = alike(readings, shape, batch_size=batch_size, window=4 * batch_size)
        with (
            closing(read_ahead(batches, run, threads=1, ahead=1)) as found,
            closing(read_ahead(found, finish_all, threads=1, ahead=BATCHES_AHEAD)) as results,
        ):
            for result in in_order(each for batch in results for each in batch):
                if isinstance(result, StreamedPhoto):
                    yield result
                else:
                    on_failure(result.source, result.error)


class _Read(NamedTuple):
    """A photo that is ready for the network, or why it cannot be used."""

    source: Any
    inputs: Any = None
    rgb: np.ndarray | None = None
    error: InputError | None = None
