"""Writing H.264 videos, with the time of each frame: whole at the end, or growing and playable at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ovdet.errors import InputError, first_line
from ovdet.files import temporary_path

_TICK = Fraction(1, 90_000)  # seconds, of a video's time stamps


@contextmanager
def writing_video(path: str | Path, rate: float) -> Iterator[Callable[..., None]]:
    """Write an H.264 video atomically: yields a function that takes frames (H, W, 3) uint8 RGB, all of one size.

    The function's second argument is when a frame is shown, in seconds from the first one; without it frames follow at
    `rate`. A block that fails leaves nothing, and an older file as it was.

    Args:
        path: ends in .mp4.
        rate: frames per second, in the mean.

    Raises:
        InputError: the place cannot be written to, or is full; or no frame came.
    """
    with temporary_path(path, ".part.mp4") as part, _opened(part, path, {"movflags": "faststart"}) as container:
        encoder = _Encoder(container, rate, {})
        yield encoder.write
        if not encoder.count:
            raise InputError(f"expected a place to write a video to, got {path} and no frame")
        encoder.finish()


@contextmanager
def growing_video(path: str | Path, rate: float) -> Iterator[Callable[..., None]]:
    """As `writing_video`, but in place: what a process that is killed leaves can be played, up to the last second.

    A fragmented MP4, a fragment about every second. A block that fails leaves the frames that came.

    Args:
        path: ends in .mp4.
        rate: frames per second, in the mean.

    Raises:
        InputError: the place cannot be written to.
    """
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
    with _opened(path, path, options) as container:
        encoder = _Encoder(container, rate, {"tune": "zerolatency", "g": str(max(1, round(rate)))})
        try:
            yield encoder.write
        finally:
            if encoder.count:
                encoder.finish()


class _Encoder:
    """Frames into a container."""

    def __init__(self, container: av.container.OutputContainer, rate: float, options: dict[str, str]) -> None:
        self.container, self.rate, self.count, self._last = container, rate, 0, -1
        self.stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        self.stream.pix_fmt, self.stream.codec_context.time_base = "yuv420p", _TICK
        self.stream.options = {"crf": "20", "preset": "veryfast", **options}

    def write(self, frame: np.ndarray, seconds: float | None = None) -> None:
        frame = np.pad(frame, (*((0, size % 2) for size in frame.shape[:2]), (0, 0)), "edge")  # even sizes
        if not self.count:
            self.stream.height, self.stream.width = frame.shape[:2]
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        at = self.count / self.rate if seconds is None else seconds
        picture.pts = self._last = max(self._last + 1, round(at / _TICK))
        picture.time_base = _TICK
        self.container.mux(self.stream.encode(picture))
        self.count += 1

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))


@contextmanager
def _opened(file: str | Path, told: str | Path, options: dict[str, str]) -> Iterator[av.container.OutputContainer]:
    try:
        container = av.open(str(file), "w", format="mp4", options=options)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"expected a place to write a video to, got {told}: {first_line(error)}") from error
    with container:
        yield container
