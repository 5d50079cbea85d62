"""Detections of images and videos as files: annotated pictures or a video, and detections.json.

Shape letters: H, W of a frame.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image

from ovdet.data.read_ahead import read_ahead
from ovdet.errors import InputError
from ovdet.files import atomic_write, atomic_writer, check_place
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.media import Video
from ovdet.inference.stream import StreamedPhoto
from ovdet.inference.video_writer import writing_video
from ovdet.progress import track

DETECTIONS_FILE = "detections.json"
WRITERS = 2  # threads that draw pictures and compress them


def check_output(folder: Path, input: str | None) -> None:
    """Refuse a folder that results cannot be written to, before there are any.

    Raises:
        InputError: as of `check_place`; or the folder of the images itself: the next run would take pictures for
            images.
    """
    check_place(folder, is_folder=True)
    if input and folder.is_dir() and Path(input).is_dir() and folder.samefile(input):
        raise InputError(f"expected --output to be another folder than that of the photos, got {folder} for both")


def write_results(
    stream: Callable[..., Iterator[StreamedPhoto]], images: Sequence[Path], folder: Path, *, names: Sequence[str] = ()
) -> Iterator[tuple[Path, Path, Detections]]:
    """Detect on each image; write a picture for each as it is done, and detections.json at the end.

    An image that cannot be read does not stop the others; an interruption leaves a detections.json of those that are
    done. More than one image shows a progress bar on stderr. Threads draw while the network goes on.

    Args:
        stream: of a predictor, its limits bound.
        images: files.
        folder: where to write; created.
        names: see `draw_detections`.

    Yields:
        Each image, its picture's path and what is on it, without its masks: those of many images would fill the memory.

    Raises:
        InputError: images that could not be used, after all others were done.
    """
    rows: list[dict] = []
    failures: list[InputError] = []
    taken = {image.resolve() for image in images}  # a picture replaces neither an image nor another picture

    def leave_out(image: Path, error: InputError) -> None:
        failures.append(error)
        if images[1:]:
            print(f"left out: {error}", file=sys.stderr)

    def named() -> Iterator[tuple[StreamedPhoto, Path]]:
        with closing(stream(images, on_failure=leave_out)) as photos:
            for photo in photos:
                path = free_path(folder, photo.source, ".png", taken)
                taken.add(path.resolve())
                yield photo, path

    def write(job: tuple[StreamedPhoto, Path]) -> tuple[Path, Path, Detections]:
        photo, path = job
        atomic_write(path, _png(_draw(photo.rgb(), photo.detections, names)))
        return photo.source, path, replace(photo.detections, masks=None)

    try:
        with closing(read_ahead(named(), write, threads=WRITERS, ahead=2 * WRITERS)) as written:
            bar = dict(total=len(images), disable=len(images) == 1)
            for image, path, found in track(written, "detecting", **bar):
                rows.append(_row(found, image=str(image)))
                yield image, path, found
    finally:
        if rows:
            atomic_write(folder / DETECTIONS_FILE, _as_json(rows))
    if failures:
        more = f" ({len(failures) - 1} more like it)" if failures[1:] else ""
        done = f" (done: {len(rows)})" if rows else ""
        raise InputError(f"{failures[0]}{more}{done}")


def write_video(
    photos: Iterator[StreamedPhoto], video: Video, folder: Path, *, names: Sequence[str] = ()
) -> tuple[Path, int, Counter[str]]:
    """Write an annotated video and detections.json, both at the end.

    An interruption leaves both of the frames that are done.

    Args:
        photos: the video's frames and what is on them, see `OpenVocabPredictor.stream`.
        video: its file.
        folder: where to write; created.
        names: see `draw_detections`.

    Returns:
        The annotated video's path, its number of frames, and in how many of them each name was found.

    Raises:
        InputError: the video cannot be read, or the folder not be written to.
    """
    path = free_path(folder, video.path, ".mp4", {video.path.resolve()})
    frames_with: Counter[str] = Counter()
    done, interrupted = 0, None
    with (
        closing(photos),
        atomic_writer(folder / DETECTIONS_FILE) as stream,
        writing_video(path, video.rate) as write_frame,
    ):
        try:
            for photo in track(photos, "detecting", total=video.num_frames):
                found, seconds = photo.detections, photo.source.seconds
                write_frame(_draw(photo.rgb(), found, names), seconds)
                frames_with.update(set(found.labels))
                row = _row(found, video=str(video.path), frame=done, seconds=round(seconds, 3))
                stream.write((b",\n " if done else b"[") + _as_bytes(row))
                done += 1
        except (KeyboardInterrupt, SystemExit) as error:
            if not done:
                raise
            interrupted = error
        stream.write(b"]\n")
    if interrupted is not None:
        raise interrupted
    return path, done, frames_with


def _draw(rgb: np.ndarray, found: Detections, names: Sequence[str]) -> np.ndarray:
    return draw_detections(rgb, found.boxes, found.labels, found.scores, found.masks, names)


def _row(found: Detections, **source: str | float) -> dict:
    """An entry of detections.json: the source, its size, its detections."""
    return {**source, **found.to_dict()}


def _as_json(rows: Sequence[dict]) -> bytes:
    """A list of images, a detection a line."""
    return b"[" + b",\n ".join(map(_as_bytes, rows)) + b"]\n"


def _as_bytes(row: dict) -> bytes:
    """Names of files that are not UTF-8 (surrogates, to Python) as json's own escapes."""
    head = json.dumps({**row, "detections": []}, ensure_ascii=False).removesuffix("]}")
    lines = [f"\n  {json.dumps(detection, ensure_ascii=False)}" for detection in row["detections"]]
    return f"{head}{','.join(lines)}]}}".encode(errors="backslashreplace")


def free_path(folder: Path, file: Path, suffix: str, taken: set[Path]) -> Path:
    """photo.jpg -> photo.png; photo.jpg.png, photo.jpg.2.png, ... where that is another image or picture already."""
    names = chain([file.stem, file.name], (f"{file.name}.{number}" for number in count(2)))
    return next(path for name in names if (path := folder / f"{name}{suffix}").resolve() not in taken)


def _png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()
