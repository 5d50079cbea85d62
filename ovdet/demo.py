"""What the demo does with photos and folders of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from ovdet.errors import InputError
from ovdet.export import load_onnx_predictor
from ovdet.files import write_whole
from ovdet.predictor import Detections, OpenVocabPredictor, to_rgb
from ovdet.visualize import draw_detections

QUICK_CONFIG, QUICK_WEIGHTS = "configs/quick/vild.py", "output/quick/vild/model_final.pth"
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_predictor(
    config_file: str | None, weights: str | None, *, overrides: Sequence[str] = (), device: str | None = None
) -> OpenVocabPredictor:
    """A trained detector, or an exported one.

    Args:
        config_file: of a trained detector; None takes the quick one and its weights.
        weights: its checkpoint, None for the last one of the config's run; or an .onnx file, which needs no config.
        overrides: `key=value` for the config.
        device: see `OpenVocabPredictor.from_config`.

    Raises:
        InputError: they are not there or do not fit each other.
    """
    if weights and weights.endswith(".pt2"):
        raise InputError(f"expected a checkpoint or an .onnx file, got {weights}: reading a .pt2 can run code")
    if weights and weights.endswith(".onnx"):
        if config_file or overrides:
            raise InputError("expected no config, teacher or overrides with an .onnx file, which holds what it needs")
        return load_onnx_predictor(weights, device=device)
    if weights and not config_file:
        raise InputError("expected --config-file with --weights: what detector they are of")
    if not config_file and not Path(QUICK_WEIGHTS).is_file():
        raise InputError("expected --config-file and --weights of a trained detector (`make demo` trains a small one)")
    weights = weights or ("" if config_file else QUICK_WEIGHTS)
    return OpenVocabPredictor.from_config(config_file or QUICK_CONFIG, weights, overrides=overrides, device=device)


def find_images(path: str) -> list[Path]:
    """A file, or the photos of a folder in the order of their names.

    Raises:
        InputError: it does not exist, or the folder has no photos.
    """
    found = Path(path)
    if not found.is_dir():
        if not found.exists():
            raise InputError(f"expected an image or a folder of images, {path} does not exist")
        return [found]
    images = sorted(file for file in found.iterdir() if file.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"expected images ({', '.join(sorted(SUFFIXES))}) in {path}, got none")
    return images


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
        The pictures' paths and what is on them.

    Raises:
        InputError: photos that could not be used, after all others were done.
    """
    results: list[tuple[Path, Detections]] = []
    rows: list[dict] = []
    failures: list[InputError] = []
    inputs = {image.resolve() for image in images}  # a picture never takes the place of a photo
    for image in track(images, "detecting", disable=len(images) == 1):
        try:
            photo = to_rgb(image)
            found = detect(photo, channel_order="RGB")
        except InputError as error:
            failures.append(error)
            continue
        picture = draw_detections(photo, found.boxes, found.labels, found.scores, found.masks)
        path = _picture_path(folder, image, taken={*inputs, *(path.resolve() for path, _ in results)})
        write_whole(path, _png(picture))
        results.append((path, found))
        height, width = found.size
        rows.append({"image": str(image), "width": width, "height": height, "detections": list(found)})
    if rows:
        write_whole(folder / "detections.json", (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
    if failures:
        more = f" (and {len(failures) - 1} more; the other {len(rows)} photos are done)" if rows or failures[1:] else ""
        raise InputError(f"{failures[0]}{more}")
    return results


def _picture_path(folder: Path, image: Path, taken: set[Path]) -> Path:
    """photo.jpg -> photo.png; photo.jpg.png, photo.jpg.2.png, ... where that is another photo or picture already."""
    names = chain([image.stem, image.name], (f"{image.name}.{number}" for number in count(2)))
    return next(path for name in names if (path := folder / f"{name}.png").resolve() not in taken)


def _png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()
