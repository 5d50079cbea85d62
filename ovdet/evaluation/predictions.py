"""Detections kept on disk while a data set is run, so that the masks of LVIS are never in memory together.

Each process writes a file of its own, a line of json for each image. The main process reads them all, image by image.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ovdet.errors import InputError
from ovdet.files import atomic_writer


class Part(NamedTuple):
    """One process's detections; plain values that another process can be sent.

    Attributes:
        path: the file.
        lines: image id -> (first byte, number of bytes) of its line.
    """

    path: str
    lines: dict[Any, tuple[int, int]]


class PredictionFiles:
    """The detections of one process, in a temporary file that goes with the object."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Open the file.

        Args:
            folder: where; it is made if need be. With several machines, one that they share. None for the system's own.

        Raises:
            InputError: it cannot be written to.
        """
        try:
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(prefix=".detections.", suffix=".part", dir=folder)
        except OSError as error:
            raise InputError(f"expected a place to write to, got {folder}: {error.strerror or error}") from error
        self._stream = os.fdopen(handle, "wb")
        self._part = Part(os.path.abspath(path), {})
        self._remove = weakref.finalize(self, Path(path).unlink, missing_ok=True)

    def put(self, image_id: Any, detections: Sequence[Mapping[str, Any]]) -> None:
        """Keep an image's detections (plain values); an image put again has the last ones."""
        line = json.dumps(list(detections)).encode()
        self._part.lines[image_id] = (self._stream.tell(), len(line))
        self._stream.write(line + b"\n")

    def part(self) -> Part:
        """What is needed to read it, with all on disk that was put."""
        self._stream.flush()
        return self._part

    def close(self) -> None:
        """Remove the file."""
        self._stream.close()
        self._remove()


def check_shared(parts: Iterable[Part]) -> None:
    """Refuse files of other processes that cannot be seen from here.

    Raises:
        InputError: a file is not here: another machine's.
    """
    for part in parts:
        if not os.path.isfile(part.path):
            raise InputError(f"expected an output folder that all machines share, {part.path} is not on this one")


class WrittenPredictions:
    """The detections of all processes, read one image at a time; a context manager."""

    def __init__(self, parts: Iterable[Part]) -> None:
        """Open the files.

        Args:
            parts: an image that two of them have (samplers pad the last batch) is taken from the first.

        Raises:
            InputError: a file is not here.
        """
        self._files = ExitStack()
        self._lines: dict[Any, tuple[Any, int, int]] = {}
        for part in parts:
            try:
                stream = self._files.enter_context(open(part.path, "rb"))
            except OSError as error:
                self._files.close()
                message = "expected an output folder that all machines share, the detections in"
                raise InputError(f"{message} {part.path} cannot be read: {error.strerror or error}") from error
            for image_id, (start, length) in part.lines.items():
                self._lines.setdefault(image_id, (stream, start, length))

    def __enter__(self) -> WrittenPredictions:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def images(self) -> list[Any]:
        """The images that were run, in the order of their ids."""
        return sorted(self._lines, key=lambda image_id: (isinstance(image_id, str), image_id))

    def read(self, image_id: Any) -> list[dict[str, Any]]:
        """An image's detections."""
        return json.loads(self._line(image_id))

    def write_results(self, path: str | Path) -> int:
        """Write all detections as one json list, COCO's results format -> how many bytes are in it.

        Raises:
            InputError: the place cannot be written to.
        """
        with atomic_writer(path) as stream:
            separator = b"[\n"
            for image_id in self.images:
                inner = self._line(image_id)[1:-1]
                if inner:
                    stream.write(separator + inner)
                    separator = b",\n"
            stream.write(b"]\n" if separator == b",\n" else b"[]\n")
            return stream.tell()

    def _line(self, image_id: Any) -> bytes:
        stream, start, length = self._lines[image_id]
        stream.seek(start)
        return stream.read(length)
