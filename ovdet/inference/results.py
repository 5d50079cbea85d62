"""Detections of images and videos as files: annotated pictures or a video, and detections.json.

Shape letters: H, W of a frame.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from ovdet.errors import InputError
from ovdet.files import atomic_write, atomic_writer, temporary_path
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.media import Video
from ovdet.inference.predictor import to_rgb

DETECTIONS_FILE = "detections.json"


def check_output(folder: Path, input: str | None) -> None:
    """Refuse a folder that results cannot be written to, before there are any.

    Raises:
        InputError: it is a file; or the folder of the images itself: the next run would take pictures for images.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected --output to be a folder, {folder} is a file")
    if input and folder.is_dir() and Path(input).is_dir() and folder.samefile(input):
        raise InputError(f"expected --output to be another folder than that of the photos, got {folder} for both")


def write_results(
    detect: Callable[..., Detections], images: Sequence[Path], folder: Path, *, names: Sequence[str] = ()
) -> Iterator[tuple[Path, Detections]]:
    """Detect on each image; write a picture for each as it is done, and detections.json at the end.

    An image that cannot be read does not stop the others; an interruption leaves a detections.json of those that are
    done. More than one image shows a progress bar on stderr.

    Args:
        detect: an OpenVocabPredictor, its thresholds bound.
        images: files.
        folder: where to write; created.
        names: see `draw_detections`.

    Yields:
        Each picture's path and what is on it, without its masks: those of many images would fill the memory.

    Raises:
        InputError: images that could not be used, after all others were done.
    """
    rows: list[dict] = []
    failures: list[InputError] = []
    taken = {image.resolve() for image in images}  # a picture replaces neither an image nor another picture
    try:
        for image in track(images, "detecting", console=Console(stderr=True), disable=len(images) == 1):
            # detect
            try:
                rgb = to_rgb(image)
                found = detect(rgb, channel_order="RGB")
            except InputError as error:
                failures.append(error)
                if images[1:]:
                    print(f"left out: {error}", file=sys.stderr)
                continue
            # write
            path = _free_path(folder, image, ".png", taken)
            taken.add(path.resolve())
            atomic_write(path, _png(_draw(rgb, found, names)))
            rows.append(_row(found, image=str(image)))
            yield path, replace(found, masks=None)
    finally:
        if rows:
            atomic_write(folder / DETECTIONS_FILE, _as_json(rows))
    if failures:
        more = f" ({len(failures) - 1} more like it)" if failures[1:] else ""
        done = f" (done: {len(rows)})" if rows else ""
        raise InputError(f"{failures[0]}{more}{done}")


def write_video(
    detect: Callable[..., Detections], video: Video, folder: Path, *, names: Sequence[str] = ()
) -> tuple[Path, int, Counter[str]]:
    """Detect on each frame of a video; write an annotated video and detections.json, both at the end.

    Args:
        detect: an OpenVocabPredictor, its thresholds bound.
        video: its file.
        folder: where to write; created.
        names: see `draw_detections`.

    Returns:
        The annotated video's path, its number of frames, and in how many of them each name was found.

    Raises:
        InputError: the video cannot be read, or the folder not be written to.
    """
    path = _free_path(folder, video.path, ".mp4", {video.path.resolve()})
    frames_with: Counter[str] = Counter()
    with atomic_writer(folder / DETECTIONS_FILE) as stream, writing_video(path, video.rate) as write_frame:
        frames = track(video, "detecting", total=video.num_frames, console=Console(stderr=True))
        for number, frame in enumerate(frames):
            found = detect(frame, channel_order="RGB")
            write_frame(_draw(frame, found, names))
            frames_with.update(set(found.labels))
            row = _row(found, video=str(video.path), frame=number, seconds=round(number / video.rate, 3))
            stream.write(b",\n " if number else b"[")
            stream.write(_as_bytes(row))
        stream.write(b"]\n")
    return path, number + 1, frames_with


@contextmanager
def writing_video(path: str | Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video atomically: yields a function that takes frames (H, W, 3) uint8 RGB, all of one size.

    A block that fails leaves nothing, and an older file as it was. supervision's VideoSink would cut odd sizes by a
    pixel, refuse the rates of slow motion, and leave half a file.

    Args:
        path: ends in .mp4.
        rate: frames per second.

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
                str(part), cv2.VideoWriter_fourcc(*"mp4v"), _nearest_rate(rate), size
            ):
                raise InputError(f"expected a place to write a video of {size[0]} x {size[1]} pixels to, got {path}")
            writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

        try:
            yield write
        finally:
            writer.release()
        _check_written(part, path)


def _nearest_rate(rate: float) -> float:
    """The nearest rate that MPEG-4 can hold: a whole number of thousandths, hundredths or tenths, 65535 at most."""
    return round(rate, next(digits for digits in (3, 2, 1) if rate * 10**digits < 65535))


def _check_written(part: Path, path: str | Path) -> None:
    """OpenCV does not say that a disk is full; but a video that was cut off cannot be opened."""
    try:
        Video.open(part)
    except InputError as error:
        raise InputError(f"expected a place to write a video to, got {path}, where it came out broken") from error


def _draw(rgb: np.ndarray, found: Detections, names: Sequence[str]) -> np.ndarray:
    return draw_detections(rgb, found.boxes, found.labels, found.scores, found.masks, names)


def _row(found: Detections, **source: str | float) -> dict:
    """Where it comes from, its size, what was found."""
    height, width = found.size
    return {**source, "width": width, "height": height, "detections": list(found)}


def _as_json(rows: Sequence[dict]) -> bytes:
    """A list of images, a detection a line."""
    return b"[" + b",\n ".join(map(_as_bytes, rows)) + b"]\n"


def _as_bytes(row: dict) -> bytes:
    """Names of files that are not UTF-8 (surrogates, to Python) as json's own escapes."""
    head = json.dumps({**row, "detections": []}, ensure_ascii=False).removesuffix("]}")
    lines = [f"\n  {json.dumps(detection, ensure_ascii=False)}" for detection in row["detections"]]
    return f"{head}{','.join(lines)}]}}".encode(errors="backslashreplace")


def _free_path(folder: Path, file: Path, suffix: str, taken: set[Path]) -> Path:
    """photo.jpg -> photo.png; photo.jpg.png, photo.jpg.2.png, ... where that is another image or picture already."""
    names = chain([file.stem, file.name], (f"{file.name}.{number}" for number in count(2)))
    return next(path for name in names if (path := folder / f"{name}{suffix}").resolve() not in taken)


def _png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()
