"""Detections kept in files while a data set is run, so that the masks of LVIS are never in memory together.

Each process writes a temporary file of its own, one line of json an image. The main process reads them all, image by
image.
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


class PredictionFile(NamedTuple):
    """The place of one process's detections; plain values that can be sent to another process.

    Attributes:
        path: the file.
        lines: image id -> (first byte, number of bytes) of its line.
    """

    path: str
    lines: dict[Any, tuple[int, int]]


class PredictionWriter:
    """Writes the detections of one process to a temporary file that is deleted with the object."""

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
        self._file = PredictionFile(os.path.abspath(path), {})
        self._remove = weakref.finalize(self, Path(path).unlink, missing_ok=True)

    def write(self, image_id: Any, detections: Sequence[Mapping[str, Any]]) -> None:
        """Write an image's detections (plain values); of an image written twice the last ones count."""
        line = json.dumps(list(detections)).encode()
        self._file.lines[image_id] = (self._stream.tell(), len(line))
        self._stream.write(line + b"\n")

    def file(self) -> PredictionFile:
        """Flush to disk -> what `PredictionReader` takes."""
        self._stream.flush()
        return self._file

    def close(self) -> None:
        """Delete the file."""
        self._stream.close()
        self._remove()


def check_files_shared(files: Iterable[PredictionFile]) -> None:
    """Refuse files of other processes that this machine does not see.

    Raises:
        InputError: a file is another machine's.
    """
    for file in files:
        if not os.path.isfile(file.path):
            raise InputError(f"expected an output folder that all machines share, {file.path} is not on this one")


class PredictionReader:
    """Reads the detections of all processes, one image at a time; a context manager."""

    def __init__(self, files: Iterable[PredictionFile]) -> None:
        """Open the files.

        Args:
            files: an image that two of them have (samplers pad the last batch) is taken from the first.

        Raises:
            InputError: a file is not there.
        """
        self._files = ExitStack()
        self._lines: dict[Any, tuple[Any, int, int]] = {}
        for file in files:
            try:
                stream = self._files.enter_context(open(file.path, "rb"))
            except OSError as error:
                self._files.close()
                message = "expected an output folder that all machines share, the detections in"
                raise InputError(f"{message} {file.path} cannot be read: {error.strerror or error}") from error
            for image_id, (start, length) in file.lines.items():
                self._lines.setdefault(image_id, (stream, start, length))

    def __enter__(self) -> PredictionReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def image_ids(self) -> list[Any]:
        """The images that were run, in the order of their ids."""
        return sorted(self._lines, key=lambda image_id: (isinstance(image_id, str), image_id))

    def read(self, image_id: Any) -> list[dict[str, Any]]:
        """An image's detections."""
        return json.loads(self._line(image_id))

    def write_results(self, path: str | Path) -> int:
        """Write all detections as one json list, COCO's results format -> its size in bytes.

        Raises:
            InputError: the place cannot be written to.
        """
        with atomic_writer(path) as stream:
            separator = b"[\n"
            for image_id in self.image_ids:
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
