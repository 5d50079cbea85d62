"""What a detector can be shown: images, folders of them, and videos, frame by frame.

Shape letters: H, W of a frame.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ovdet.data.images import find_images
from ovdet.errors import InputError
from ovdet.files import require_path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what cannot be read is told in one line below

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
USUAL_RATE = 25.0  # frames per second, where a file does not say or says nonsense
SAMPLES = ("chelsea.png", "coffee.png", "motorcycle_left.png")  # of scikit-image; free to use


def find_input(path: str | None, more: Sequence[str] = ()) -> Video | list[Path]:
    """The video or the images that a path names.

    Args:
        path: a video, an image, or a folder of images; None for scikit-image's samples.
        more: further images, as a shell makes them of `*.jpg`.

    Raises:
        InputError: a path does not exist, or is none of these.
    """
    if path is None:
        return sample_images()
    if more:
        return [file for each in (path, *more) for file in find_images(each)]
    return Video.open(path) if is_video(path) else find_images(require_path(path))


def sample_images() -> list[Path]:
    """Images that scikit-image ships.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec("skimage")
    files = [Path(found.origin).with_name("data") / name for name in SAMPLES] if found and found.origin else []
    if not files or not all(file.is_file() for file in files):
        raise InputError("expected --input with a photo, or scikit-image for some of its own: pip install scikit-image")
    return files


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Video:
    """A video file that can be read; iterate for its frames.

    Attributes:
        path: the file.
        rate: frames per second.
        num_frames: as the file says, which need not be true; None where it does not say.
    """

    path: Path
    rate: float
    num_frames: int | None

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """A video file's rate and length.

        Raises:
            InputError: there is no such file, or OpenCV cannot read it.
        """
        if not Path(path).is_file():
            raise InputError(f"expected a video, got {path}, which is not a file")
        with _capture(path) as capture:
            rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return cls(Path(path), rate if 1 <= rate <= 1000 else USUAL_RATE, int(frames) if frames >= 1 else None)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each frame as (H, W, 3) contiguous uint8 RGB; upright, where the file says how it was held.

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
def _capture(path: str | Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise InputError(f"expected a video, got {path}, which OpenCV cannot read")
        yield capture
    finally:
        capture.release()
