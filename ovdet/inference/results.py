"""What the demo does with photos, folders of them, and videos."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from ovdet.data.images import find_images
from ovdet.errors import InputError
from ovdet.export.onnx_detector import load_onnx_predictor
from ovdet.files import atomic_write, atomic_writer, require_path
from ovdet.hub.find import DEFAULT_MODEL, choose_model
from ovdet.inference.detections import Detections
from ovdet.inference.draw import draw_detections
from ovdet.inference.media import Video, is_video, writing_video
from ovdet.inference.predictor import OpenVocabPredictor, to_rgb
from ovdet.text.classes import rows_of
from ovdet.text.vocabulary import parse_vocabulary

DETECTIONS_FILE = "detections.json"
SAMPLES = ("chelsea.png", "coffee.png", "motorcycle_left.png")  # of scikit-image; free to use


def load_predictor(
    model: str | None,
    config_file: str | None,
    weights: str | None,
    *,
    overrides: Sequence[str] = (),
    device: str | None = None,
    compile: bool = False,
    half: bool = False,
) -> OpenVocabPredictor:
    """A trained detector, or an exported one.

    Args:
        model: see `find_model`; None with neither config nor weights takes the package's own.
        config_file: of a trained detector, instead of a model.
        weights: the config's checkpoint, None for the last one of its run; or an .onnx file, which needs no config.
        overrides: `key=value` for the config.
        device: see `OpenVocabPredictor.from_config`.
        compile: see `speed_up`; not for an .onnx file.
        half: see `speed_up`; not for an .onnx file.

    Raises:
        InputError: they are not there or do not fit each other.
    """
    if weights and weights.endswith(".pt2"):
        raise InputError(f"expected a checkpoint or an .onnx file, got {weights}: reading a .pt2 can run code")
    if weights and weights.endswith(".onnx"):
        if model or config_file or overrides or compile or half:
            raise InputError(
                "expected no model, config, teacher, overrides, --compile or --half with an .onnx file, "
                "which holds what it needs"
            )
        return load_onnx_predictor(weights, device=device)
    if weights and not config_file:
        raise InputError("expected --config-file with --weights: what detector they are of")
    files = choose_model(model or (None if config_file else DEFAULT_MODEL), config_file, weights)
    return OpenVocabPredictor.from_config(*files, overrides=overrides, device=device, compile=compile, half=half)


def parse_negatives(text: str | None) -> tuple[str, ...] | None:
    """As a vocabulary on the command line, synonyms too; None for the detector's own, "" for none."""
    return text if text is None else tuple(rows_of(parse_vocabulary(text))[0]) if text.strip() else ()


def find_input(path: str | None, more: Sequence[str] = ()) -> Video | list[Path]:
    """A video, a photo, the photos of a folder; None for some that scikit-image ships.

    Args:
        path: of one of these.
        more: photos, as a shell makes them of `*.jpg`.

    Raises:
        InputError: it is not there, or nothing of these.
    """
    if path is None:
        return sample_images()
    if more:
        return [file for each in (path, *more) for file in find_images(each)]
    return Video.open(path) if is_video(path) else find_images(require_path(path))


def check_output(folder: Path, input: str | None) -> None:
    """Refuse a place where results cannot go, before there are any.

    Raises:
        InputError: it is a file; or the folder of the photos itself: the next run would take pictures for photos.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected --output to be a folder, {folder} is a file")
    if input and folder.is_dir() and Path(input).is_dir() and folder.samefile(input):
        raise InputError(f"expected --output to be another folder than that of the photos, got {folder} for both")


def sample_images() -> list[Path]:
    """Photos that scikit-image ships.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec("skimage")
    files = [Path(found.origin).with_name("data") / name for name in SAMPLES] if found and found.origin else []
    if not files or not all(file.is_file() for file in files):
        raise InputError("expected --input with a photo, or scikit-image for some of its own: pip install scikit-image")
    return files


def write_results(
    detect: Callable[..., Detections], images: Sequence[Path], folder: Path, *, names: Sequence[str] = ()
) -> Iterator[tuple[Path, Detections]]:
    """Detect on each photo; write a picture each as it is done, and detections.json at the end.

    A photo that cannot be read does not stop the others; an interruption leaves a detections.json of those that are
    done. More than one photo shows a progress bar on stderr.

    Args:
        detect: an OpenVocabPredictor, its thresholds bound.
        images: files.
        folder: where to write; created.
        names: see `draw_detections`.

    Yields:
        Each picture's path and what is on it, without its masks: those of many photos would fill the memory.

    Raises:
        InputError: photos that could not be used, after all others were done.
    """
    rows: list[dict] = []
    failures: list[InputError] = []
    taken = {image.resolve() for image in images}  # a picture takes the place of no photo and of no other picture
    try:
        for image in track(images, "detecting", console=Console(stderr=True), disable=len(images) == 1):
            try:
                photo = to_rgb(image)
                found = detect(photo, channel_order="RGB")
            except InputError as error:
                failures.append(error)
                if images[1:]:
                    print(f"left out: {error}", file=sys.stderr)
                continue
            path = _free_path(folder, image, ".png", taken)
            taken.add(path.resolve())
            atomic_write(path, _png(_draw(photo, found, names)))
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
        The annotated video's path, its number of frames, and in how many of them each name is.

    Raises:
        InputError: it cannot be read, or the folder not be written to.
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


def _draw(photo: np.ndarray, found: Detections, names: Sequence[str]) -> np.ndarray:
    return draw_detections(photo, found.boxes, found.labels, found.scores, found.masks, names)


def _row(found: Detections, **source: str | float) -> dict:
    """Where it comes from, its size, what was found."""
    height, width = found.size
    return {**source, "width": width, "height": height, "detections": list(found)}


def _as_json(rows: Sequence[dict]) -> bytes:
    """A list of photos, a detection a line."""
    return b"[" + b",\n ".join(map(_as_bytes, rows)) + b"]\n"


def _as_bytes(row: dict) -> bytes:
    """Names of files that are not UTF-8 (surrogates, to Python) as json's own escapes."""
    head = json.dumps({**row, "detections": []}, ensure_ascii=False).removesuffix("]}")
    lines = [f"\n  {json.dumps(detection, ensure_ascii=False)}" for detection in row["detections"]]
    return f"{head}{','.join(lines)}]}}".encode(errors="backslashreplace")


def _free_path(folder: Path, file: Path, suffix: str, taken: set[Path]) -> Path:
    """photo.jpg -> photo.png; photo.jpg.png, photo.jpg.2.png, ... where that is another photo or picture already."""
    names = chain([file.stem, file.name], (f"{file.name}.{number}" for number in count(2)))
    return next(path for name in names if (path := folder / f"{name}{suffix}").resolve() not in taken)


def _png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()
