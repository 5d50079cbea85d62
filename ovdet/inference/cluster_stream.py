"""Detections of many photos by a Ray cluster: as `OpenVocabPredictor.stream`, by workers with a detector each.

Photos lie on a file system that all machines see under the same names.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ovdet.cluster import map_on_cluster
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.stream import OnFailure, StreamedPhoto, log_failure

_SHARDS = 2000  # of a job, about; what a lost worker costs, against what a shard costs Ray
_SMALLEST, _LARGEST = 8, 256  # photos of a shard


def stream_on_cluster(
    photos: Sequence[Path],
    build: Callable[[], Any],
    *,
    processes: int = 0,
    on_failure: OnFailure = log_failure,
    **options: Any,
) -> Iterator[StreamedPhoto]:
    """The detections of a predictor's `stream`, in the order in which they are found.

    Args:
        photos: files.
        build: makes the predictor in each process, its names set; can be pickled.
        processes: see `map_on_cluster`.
        on_failure: gets photos that cannot be used, and why.
        options: of `stream`: batch size and limits.

    Raises:
        InputError: as of `map_on_cluster`.
    """
    size = min(max(len(photos) // _SHARDS, _SMALLEST), _LARGEST)
    paths = [str(photo.resolve()) for photo in photos]
    given = dict(zip(paths, photos, strict=True))
    rows = [{"photos": json.dumps(paths[start : start + size])} for start in range(0, len(paths), size)]
    if not rows:
        return
    with closing(map_on_cluster(StreamWorker, (build, options), rows, processes=processes)) as results:
        for row in results:
            photo = given[row["photo"]]
            if row["error"]:
                on_failure(photo, InputError(row["error"]))
            else:
                yield StreamedPhoto(photo, unpack(row["found"]), None)


class StreamWorker:
    """One process of `stream_on_cluster`."""

    def __init__(self, build: Callable[[], Any], options: dict[str, Any]) -> None:
        self.predictor = build()
        self.options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list]:
        """One shard's photos -> a row for each: its path, its packed Detections, or what is wrong with it."""
        rows: list[tuple[str, bytes, str]] = []

        def note(photo: str, error: InputError) -> None:
            rows.append((photo, b"", str(error)))

        photos = json.loads(batch["photos"][0])
        with closing(self.predictor.stream(photos, on_failure=note, **self.options)) as seen:
            rows.extend((photo.source, _pack(photo.detections), "") for photo in seen)
        photo, found, error = map(list, zip(*rows, strict=True))
        return {"photo": photo, "found": found, "error": error}


def unpack(found: bytes) -> Detections:
    """Detections as a worker sends them."""
    return pickle.loads(zlib.decompress(found))


def _pack(found: Detections) -> bytes:
    return zlib.compress(pickle.dumps(found), level=1)  # masks are long runs of one value
