"""Videos that do not wait: cameras of this machine, and the newest frame of what comes faster than it is looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from ovdet.errors import InputError
from ovdet.inference.photo import Frame

USUAL_RATE, MAX_RATE = 25.0, 100_000.0  # frames per second: where a source does not say, and what is nonsense
T = TypeVar("T")


@dataclass(frozen=True)
class Camera:
    """A camera of this machine, by its number, as OpenCV counts them; made by `open`.

    Attributes:
        number: from 0 on.
        rate: frames per second, as the camera says.
    """

    number: int
    rate: float
    num_frames: None = None  # it does not end
    is_live: bool = True

    @property
    def path(self) -> Path:
        """A name for files about it."""
        return Path(f"camera_{self.number}")

    @property
    def name(self) -> str:
        """The source's name in messages."""
        return f"camera {self.number}"

    @classmethod
    def open(cls, number: int) -> Camera:
        """A camera that gives pictures.

        Raises:
            InputError: there is none of this number, or it does not answer.
        """
        capture = _opened(number)
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        return cls(number, rate if 0 < rate < MAX_RATE else USUAL_RATE)

    def timed_frames(self) -> Iterator[Frame]:
        """The newest frame (H, W, 3) uint8 RGB each time, and the seconds since the first one; without end.

        Raises:
            InputError: the camera is not there, or not any more.
        """
        return newest(self._frames())

    def _frames(self) -> Iterator[Frame]:
        capture, first, number = _opened(self.number), None, 0
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    raise InputError(f"expected a picture of {self.name}, got none after {number} frames: unplugged?")
                now = time.monotonic()
                first = now if first is None else first
                yield Frame(now - first, np.ascontiguousarray(frame[:, :, ::-1]))
                number += 1
        finally:
            capture.release()


def _opened(number: int) -> cv2.VideoCapture:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it is told in one line below
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise InputError(f"expected camera {number} to answer, it does not: is it plugged in, and may you use it?")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where it can: what waits there is old
    return capture


def newest(items: Iterator[T]) -> Iterator[T]:
    """The newest item whenever one is asked for, each at most once; those that came and went meanwhile are left out.

    A thread takes the items as they come, so nothing piles up before a consumer that is slower. The last item is never
    left out; what the source raises is raised behind it.

    Args:
        items: of a live source.
    """
    changed, waiting, ended = threading.Condition(), [], []

    def take() -> None:
        error = None
        try:
            for item in items:
                with changed:
                    if ended:  # the consumer has gone
                        return
                    waiting[:] = [item]
                    changed.notify()
        except Exception as caught:
            error = caught
        finally:
            with changed:
                ended.append(error)
                changed.notify()

    threading.Thread(target=take, daemon=True).start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or ended)
                if not waiting:
                    break
                item = waiting.pop()
            yield item
    finally:
        with changed:
            ended.append(None)
    if ended[0] is not None:
        raise ended[0]
