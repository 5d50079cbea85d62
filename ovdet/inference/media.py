"""Videos, frame by frame: read upright, and written whole or not at all.

Shape letters: H, W of a frame.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ovdet.errors import InputError
from ovdet.files import temporary_path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what cannot be read is told in one line below

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
USUAL_RATE = 25.0  # frames a second, where a file does not say or says nonsense


def is_video(path: str | Path) -> bool:
    """Whether a file's name says that it is a video."""
    return Path(path).suffix.lower() in SUFFIXES


@dataclass(frozen=True)
class Video:
    """A video's file, opened once to see that it is one.

    Attributes:
        path: the file.
        rate: frames a second.
        num_frames: as the file says, which need not be true; None where it does not say.
    """

    path: Path
    rate: float
    num_frames: int | None

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """
        Raises:
            InputError: there is no such file, or it is no video that OpenCV can read.
        """
        if not Path(path).is_file():
            raise InputError(f"expected a video, got {path}, which is not a file")
        with _capture(path) as capture:
            rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return cls(Path(path), rate if 1 <= rate <= 1000 else USUAL_RATE, int(frames) if frames >= 1 else None)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each frame as (H, W, 3) contiguous uint8 RGB; turned upright where the file says how.

        Raises:
            InputError: not even the first frame can be read.
        """
        with _capture(self.path) as capture:
            is_there, frame = capture.read()
            if not is_there:
                raise InputError(f"expected a video, got {self.path}, of which no frame can be read")
            while is_there:
                yield np.ascontiguousarray(frame[:, :, ::-1])
                is_there, frame = capture.read()


@contextmanager
def writing_video(path: str | Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes frames (H, W, 3) uint8 RGB, all of one size; the file is there once the block is through.

    A block that fails leaves nothing, and an older file as it was.

    Args:
        path: ends in .mp4.
        rate: frames a second.

    Raises:
        InputError: the place cannot be written to, or is full.
    """
    writer = cv2.VideoWriter()
    with temporary_path(path, ".part.mp4") as part:

        def write(frame: np.ndarray) -> None:
            odd = [(0, size % 2) for size in frame.shape[:2]]
            frame = np.pad(frame, (*odd, (0, 0)), "edge")  # MPEG-4 knows even sizes alone
            size = frame.shape[1::-1]  # width, height
            if not writer.isOpened() and not writer.open(
                str(part), cv2.VideoWriter_fourcc(*"mp4v"), _usable(rate), size
            ):
                raise InputError(f"expected a place to write a video of {size[0]} x {size[1]} pixels to, got {path}")
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

        try:
            yield write
        finally:
            writer.release()
        _check_written(part, path)


def _usable(rate: float) -> float:
    """The nearest rate that MPEG-4 can hold: a whole number of thousandths, hundredths or tenths, 65535 at most."""
    return round(rate, next(digits for digits in (3, 2, 1) if rate * 10**digits < 65535))


def _check_written(part: Path, path: str | Path) -> None:
    """OpenCV does not say that a disk is full; but a video that was cut off cannot be opened."""
    try:
        Video.open(part)
    except InputError as error:
        raise InputError(f"expected a place to write a video to, got {path}, where it came out broken") from error


@contextmanager
def _capture(path: str | Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(f"expected a video, got {path}, which OpenCV cannot read")
        yield capture
    finally:
        capture.release()
