"""What the demo does with photos and folders of them."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from ovdet.engine import DEFAULT_MODEL, choose_model
from ovdet.errors import InputError
from ovdet.export import load_onnx_predictor
from ovdet.files import write_whole
from ovdet.predictor import Detections, OpenVocabPredictor, to_rgb
from ovdet.visualize import draw_detections

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
    detect: Callable[..., Detections], images: Sequence[Path], folder: Path
) -> list[tuple[Path, Detections]]:
    """Detect on each photo; write a picture each as it is done, and detections.json at the end.

    A photo that cannot be read does not stop the others. More than one photo shows a progress bar.

    Args:
        detect: an OpenVocabPredictor, its thresholds bound.
        images: files.
        folder: where to write; created.

    Returns:
        The pictures' paths and what is on them, without its masks: those of many photos would fill the memory.

    Raises:
        InputError: photos that could not be used, after all others were done.
    """
    results: list[tuple[Path, Detections]] = []
    rows: list[dict] = []
    failures: list[InputError] = []
    taken = {image.resolve() for image in images}  # a picture takes the place of no photo and of no other picture
    for image in track(images, "detecting", disable=len(images) == 1):
        try:
            photo = to_rgb(image)
            found = detect(photo, channel_order="RGB")
        except InputError as error:
            failures.append(error)
            continue
        picture = draw_detections(photo, found.boxes, found.labels, found.scores, found.masks)
        path = _picture_path(folder, image, taken)
        taken.add(path.resolve())
        write_whole(path, _png(picture))
        results.append((path, replace(found, masks=None)))
        height, width = found.size
        rows.append({"image": str(image), "width": width, "height": height, "detections": list(found)})
    if rows:
        write_whole(folder / "detections.json", _as_json(rows).encode())
    if failures:
        more = f" ({len(failures) - 1} more like it)" if failures[1:] else ""
        done = f" (done: {len(rows)})" if rows else ""
        raise InputError(f"{failures[0]}{more}{done}")
    return results


def _as_json(rows: Sequence[dict]) -> str:
    """A list of photos, a detection a line."""
    photos = []
    for row in rows:
        head = json.dumps({**row, "detections": []}, ensure_ascii=False).removesuffix("]}")
        lines = [f"\n  {json.dumps(detection, ensure_ascii=False)}" for detection in row["detections"]]
        photos.append(f"{head}{','.join(lines)}]}}")
    return "[" + ",\n ".join(photos) + "]\n"


def _picture_path(folder: Path, image: Path, taken: set[Path]) -> Path:
    """photo.jpg -> photo.png; photo.jpg.png, photo.jpg.2.png, ... where that is another photo or picture already."""
    names = chain([image.stem, image.name], (f"{image.name}.{number}" for number in count(2)))
    return next(path for name in names if (path := folder / f"{name}.png").resolve() not in taken)


def _png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()
