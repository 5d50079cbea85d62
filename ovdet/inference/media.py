"""Inputs of a detector: images, folders of them, and videos, frame by frame.

Shape letters: H, W of a frame.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import av
import numpy as np

from ovdet.data.images import Frame, find_images
from ovdet.errors import InputError, first_line
from ovdet.files import require_path
from ovdet.inference.live import MAX_RATE, USUAL_RATE, Camera, newest

av.logging.set_level(None)  # quiet: what cannot be read is told in one line below
VIDEO_SUFFIXES = {
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}
_PATIENCE = (10.0, 30.0)  # seconds until an address is opened, and until the next part of it comes
_REMOTE = re.compile("[a-z][a-z0-9+.-]+://", re.IGNORECASE)
SAMPLES = {  # photos that come with packages, free to use
    "skimage": tuple(f"data/{name}.png" for name in ("chelsea", "coffee", "motorcycle_left", "astronaut", "camera")),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}


def find_inputs(paths: Sequence[str]) -> tuple[list[Path], list[Video]]:
    """The images and the videos that paths name.

    Args:
        paths: videos, images, folders of images, in any order and number; none for `sample_images`.

    Raises:
        InputError: a path does not exist, or is none of these.
    """
    for path in paths:
        if _REMOTE.match(path) or path.isdecimal() and not Path(path).exists():
            what = "a camera" if path.isdecimal() else "an address"
            raise InputError(f"expected files or folders on this machine, got {what}: {path}; save it to a file first")
    videos = [Video.open(path) for path in paths if is_video(path)]
    images = [file for path in paths if not is_video(path) for file in find_images(require_path(path))]
    return (images if paths else sample_images()), videos


def find_videos(paths: Sequence[str]) -> list[Video | Camera]:
    """Videos that paths name, in their order.

    Args:
        paths: files, folders (their videos, in the order of their names), addresses that FFmpeg reads, numbers of
            cameras.

    Raises:
        InputError: there is no such file or camera, a folder without videos, or what FFmpeg cannot read.
    """
    found = []
    for path in paths:
        if path.isdecimal() and not Path(path).exists():
            found.append(Camera.open(int(path)))
        elif _REMOTE.match(path):
            found.append(Video.open_address(path))
        elif Path(require_path(path)).is_dir():
            files = sorted(file for file in Path(path).iterdir() if is_video(file) and not file.name.startswith("."))
            if not files:
                raise InputError(f"expected videos in {path}, got none")
            found.extend(map(Video.open, files))
        else:
            found.append(Video.open(path))
    return found


def sample_images() -> list[Path]:
    """Images that scikit-image and scikit-learn ship.

    Raises:
        InputError: one of them is not installed.
    """
    found = {package: importlib.util.find_spec(package) for package in SAMPLES}
    files = [Path(found[key].origin).parent / name for key, names in SAMPLES.items() if found[key] for name in names]
    if not all(found.values()) or not all(file.is_file() for file in files):
        raise InputError("expected a photo, or packages that have some: pip install scikit-image scikit-learn")
    return files


def is_video(path: str | Path) -> bool:
    """Whether a file is a video, by its suffix."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Video:
    """A video that can be read; iterate for its frames.

    Attributes:
        path: the file; of an address a name for files about it.
        rate: frames per second, in the mean where it varies.
        num_frames: as the file says, which need not be true; None where it does not say.
        address: of what is no file here; None for a file.
        is_live: whether it comes at its own pace: an address of something without a length.
    """

    path: Path
    rate: float
    num_frames: int | None
    address: str | None = None
    is_live: bool = False

    @property
    def name(self) -> str:
        """The file or address as FFmpeg takes it."""
        return self.address or str(self.path)

    @classmethod
    def open(cls, path: str | Path) -> Video:
        """A video file's rate and length.

        Raises:
            InputError: there is no such file, or FFmpeg cannot read it.
        """
        if not Path(path).is_file():
            raise InputError(f"expected a video, got {path}, which is not a file")
        return cls._opened(path, Path(path), None)

    @classmethod
    def open_address(cls, address: str) -> Video:
        """A video elsewhere, by an address that FFmpeg reads: http://, rtsp://, ...

        Raises:
            InputError: FFmpeg cannot read it.
        """
        name = re.sub(r"[^\w.-]+", "_", urlsplit(address).path.rpartition("/")[2]) or "stream"
        return cls._opened(address, Path(name), address)

    @classmethod
    def _opened(cls, place: str | Path, path: Path, address: str | None) -> Video:
        with _opened(place) as (container, stream):
            rate, is_live = float(stream.average_rate or 0), address is not None and container.duration is None
            rate = rate if 0 < rate < MAX_RATE else USUAL_RATE
            return cls(path, rate, stream.frames or None, address, is_live)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each frame as (H, W, 3) contiguous uint8 RGB; upright, where the file says how it was held.

        Raises:
            InputError: not even the first frame can be read.
        """
        return (frame for _, frame in self.timed_frames())

    def timed_frames(self) -> Iterator[Frame]:
        """Frames with the seconds since the first one at which each is shown, by the file's own time stamps.

        Of what is live the newest frame each time; those that came meanwhile are left out.

        Raises:
            InputError: not even the first frame can be read, or the connection broke off.
        """
        return newest(self._frames()) if self.is_live else self._frames()

    def _frames(self) -> Iterator[Frame]:
        number, first = 0, None
        with _opened(self.name) as (container, stream):
            for frame in _decoded(container, stream, self.name):
                first = frame.time if first is None else first
                seconds = number / self.rate if frame.time is None or first is None else frame.time - first
                turns = round(frame.rotation / 90) % 4  # counterclockwise
                yield Frame(seconds, np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns)))
                number += 1
        if not number:
            raise InputError(f"expected a video, got {self.name}, of which no frame can be read")


def _decoded(container: av.container.InputContainer, stream: av.VideoStream, name: str) -> Iterator[av.VideoFrame]:
    """Frames that can be decoded: a file that was cut off ends where it ends, a broken frame is left out."""
    try:
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):
                yield from packet.decode()
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"expected the rest of {name}, it cannot be read: {first_line(error)}") from error


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    is_remote = bool(_REMOTE.match(str(path)))
    options = {"rtsp_flags": "prefer_tcp"} if str(path).lower().startswith("rtsp") else {}
    try:
        container = av.open(str(path), options=options, timeout=_PATIENCE if is_remote else None)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"expected a video, got {path}, which FFmpeg cannot read: {first_line(error)}") from error
    with container:
        if not container.streams.video:
            raise InputError(f"expected a video, got {path}, which has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream
