"""A synthetic detection data set: colored shapes on textured paper, with held-out combinations as novel classes.

Every color and every shape occurs among the base classes; the novel classes put them together anew ("red square").
As in OV-COCO the photos show novel objects too, and it is the split that keeps their annotations out of training.
Layout: root/images/*.jpg, root/instances_train.json, root/instances_val.json, root/ov_split.json; where they are asked
for, photos of one large shape each in root/labeled/CLASS/*.jpg.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovdet.errors import InputError

COLORS = {  # RGB
    "red": (214, 40, 40),
    "green": (44, 150, 62),
    "blue": (36, 84, 200),
    "yellow": (240, 196, 20),
    "purple": (128, 52, 160),
    "orange": (242, 120, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
CLASS_NAMES = tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)
NOVEL = ("red square", "green triangle", "blue circle", "yellow star", "purple cross", "orange square")
BASE = tuple(name for name in CLASS_NAMES if name not in NOVEL)

MIN_RADIUS, MAX_RADIUS = 17.0, 40.0  # pixels; the smallest square then has sides of about 24
SUPERSAMPLING = 4
FILES = ("instances_train.json", "instances_val.json", "ov_split.json")


@dataclass(frozen=True)
class Shape:
    """One drawn object."""

    name: str  # one of CLASS_NAMES
    center: tuple[float, float]  # (x, y) in pixels
    radius: float  # of the circle around it, in pixels
    angle: float = 0.0  # degrees

    def outline(self) -> np.ndarray:
        """(P, 2) float64 corner points (x, y) in pixels."""
        points = _unit_outline(self.name.split()[1])
        turn = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        return points @ rotation.T * self.radius + np.asarray(self.center)

    def box(self) -> tuple[float, float, float, float]:
        """XYXY in pixels."""
        points = self.outline()
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _unit_outline(shape: str) -> np.ndarray:
    """(P, 2) corner points on or within the unit circle around the origin."""
    corners = {"circle": 32, "square": 4, "triangle": 3, "star": 10}
    if shape == "cross":
        a = 0.34  # half the width of an arm
        b = np.sqrt(1 - a * a)
        arm = [(a, a), (a, b), (-a, b), (-a, a)]
        return np.array([(x, y) for x, y in arm] + [(-y, x) for x, y in arm[1:]] + [(-x, -y) for x, y in arm[1:]]
                        + [(y, -x) for x, y in arm[1:3]])  # fmt: skip
    number = corners[shape]
    angles = 2 * np.pi * np.arange(number) / number + (np.pi / 4 if shape == "square" else -np.pi / 2)
    radii = np.where(np.arange(number) % 2 == 0, 1.0, 0.45) if shape == "star" else np.ones(number)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def draw_scene(shapes: Sequence[Shape], size: tuple[int, int] = (192, 256), seed: int = 0) -> np.ndarray:
    """Draw shapes on light textured paper.

    Args:
        shapes: later ones cover earlier ones.
        size: (height, width) in pixels.
        seed: of the paper and of the slight changes of color.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    rng = np.random.default_rng(seed)
    image = _draw_paper(size, rng)
    height, width = size
    canvas = cv2.resize(image, (width * SUPERSAMPLING, height * SUPERSAMPLING), interpolation=cv2.INTER_LINEAR)
    for shape in shapes:
        color = np.array(COLORS[shape.name.split()[0]]) + rng.integers(-14, 15, 3)
        fill = tuple(int(value) for value in color.clip(0, 255))
        edge = tuple(int(value * 0.72) for value in fill)
        inner = replace(shape, radius=0.94 * shape.radius)
        cv2.fillPoly(canvas, [_canvas_points(shape)], fill, lineType=cv2.LINE_AA)
        cv2.polylines(canvas, [_canvas_points(inner)], True, edge, thickness=SUPERSAMPLING, lineType=cv2.LINE_AA)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def _canvas_points(shape: Shape) -> np.ndarray:
    """(P, 2) int32 corners on the enlarged canvas: OpenCV counts from pixel centers, an outline from the edge."""
    return np.round(shape.outline() * SUPERSAMPLING - 0.5).astype(np.int32)


def _draw_paper(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8: a light tint with soft clouds, a gradient of light and fine grain."""
    height, width = size
    tint = rng.uniform(214, 236) + rng.uniform(-6, 6, 3)
    clouds = rng.normal(0, 7, (6, 8, 1)) + rng.normal(0, 2, (6, 8, 3))
    clouds = cv2.resize(clouds.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    light = np.linspace(-10, 10, width)[None, :, None] * rng.choice([-1, 1])
    grain = rng.normal(0, 3, (height, width, 1))
    return (tint + clouds + light + grain).clip(0, 255).astype(np.uint8)


def random_shapes(rng: np.random.Generator, size: tuple[int, int]) -> list[Shape]:
    """One to five shapes of any class that hardly touch, wholly within (height, width)."""
    height, width = size
    shapes: list[Shape] = []
    number = int(rng.integers(1, 6))
    largest = min(MAX_RADIUS, (min(size) - 4) / 2)
    for _ in range(20 * number):
        radius = float(rng.uniform(min(MIN_RADIUS, largest), largest))
        x, y = (float(rng.uniform(radius + 1, side - radius - 1)) for side in (width, height))
        apart = all(np.hypot(x - s.center[0], y - s.center[1]) > 0.9 * (radius + s.radius) for s in shapes)
        if apart:
            name = CLASS_NAMES[rng.integers(len(CLASS_NAMES))]
            shapes.append(Shape(name, (x, y), radius, float(rng.uniform(-12, 12))))
        if len(shapes) == number:
            break
    return shapes


def draw_dataset(
    root: str | Path,
    num_train: int = 240,
    num_val: int = 60,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    num_labeled: int = 0,
) -> None:
    """Draw a dataset into `root` (created if absent); equal arguments give equal files.

    Args:
        root: the folder.
        num_train: photos in instances_train.json.
        num_val: photos in instances_val.json.
        seed: of everything that is drawn.
        size: (height, width) of the photos in pixels, 48 at least.
        num_labeled: photos of one shape for each novel class.
    """
    if min(size) < 48 or min(num_train, num_val) < 1:
        raise InputError(f"expected sides of 48 pixels and photos in both parts, got {size}, {num_train}, {num_val}")
    root = Path(root)
    (root / "images").mkdir(parents=True, exist_ok=True)
    parameters = _parameters(num_train, num_val, seed, size, num_labeled)
    for part, first_id, number in (("train", 1, num_train), ("val", num_train + 1, num_val)):
        content = _draw_part(root, range(first_id, first_id + number), seed, size)
        content["info"] = {"description": "drawn by ovdet.data.synthetic", "parameters": parameters}
        (root / f"instances_{part}.json").write_text(json.dumps(content))
    split = {"base": BASE, "novel": NOVEL, "source": "ovdet.data.synthetic: held-out pairs of color and shape"}
    (root / "ov_split.json").write_text(json.dumps(split, indent=1))
    for number, name in enumerate(NOVEL if num_labeled else ()):
        (root / "labeled" / name).mkdir(parents=True)
        for place in range(num_labeled):
            rng = np.random.default_rng([seed, number, place])
            radius = float(rng.uniform(0.3, 0.45)) * min(size)
            x, y = (float(rng.uniform(radius + 1, side - radius - 1)) for side in (size[1], size[0]))
            shape = Shape(name, (x, y), radius, float(rng.uniform(-12, 12)))
            _write_photo(root / "labeled" / name / f"{place + 1:06d}.jpg", draw_scene([shape], size, seed=place))


def _parameters(num_train: int, num_val: int, seed: int, size: tuple[int, int], num_labeled: int) -> dict[str, Any]:
    """The settings by which a data set was drawn."""
    parameters = {"num_train": num_train, "num_val": num_val, "seed": seed, "size": list(size)}
    return {**parameters, **({"num_labeled": num_labeled} if num_labeled else {})}


def _write_photo(file: Path, rgb: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    file.write_bytes(encoded)  # imwrite would say nothing of a full disk


def _draw_part(root: Path, image_ids: range, seed: int, size: tuple[int, int]) -> dict[str, Any]:
    """Draw and save the photos of one json; its content without "info"."""
    height, width = size
    images, annotations = [], []
    for image_id in image_ids:
        shapes = random_shapes(np.random.default_rng([seed, image_id]), size)
        file_name = f"{image_id:06d}.jpg"
        rgb = draw_scene(shapes, size, seed=seed * 1_000_003 + image_id)
        _write_photo(root / "images" / file_name, rgb)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations.extend(_annotate(shape, image_id) for shape in shapes)
    for number, annotation in enumerate(annotations, start=image_ids.start * 10):  # from 10: 0 confuses pycocotools
        annotation["id"] = number
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASS_NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotate(shape: Shape, image_id: int) -> dict[str, Any]:
    points = shape.outline()
    x, y = points[:, 0], points[:, 1]
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))  # the shoelace formula
    x1, y1, x2, y2 = shape.box()
    return {
        "image_id": image_id,
        "category_id": CLASS_NAMES.index(shape.name) + 1,
        "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(float(area), 2),
        "iscrowd": 0,
        "segmentation": [[round(float(value), 2) for value in points.reshape(-1)]],
    }


def build_synthetic(
    root: str | Path,
    num_train: int = 240,
    num_val: int = 60,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    num_labeled: int = 0,
) -> Path:
    """Draw a dataset unless `root` already holds it; it appears whole or not at all. Arguments of `draw_dataset`.

    Returns:
        `root`.

    Raises:
        InputError: `root` holds something else, or a dataset drawn with other arguments, or cannot be written to.
    """
    root = Path(root)
    expected = _parameters(num_train, num_val, seed, size, num_labeled)
    if _holds_dataset(root, expected):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        try:
            draw_dataset(temporary, num_train, num_val, seed, size, num_labeled)
            temporary.chmod(0o755)
            os.rename(temporary, root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not _holds_dataset(root, expected):  # another process may have been faster
            raise InputError(
                f"expected a place to write a drawn dataset to, got {root}: {error.strerror or error}"
            ) from error
    return root


def _holds_dataset(root: Path, expected: dict[str, Any]) -> bool:
    """Whether `root` holds the expected dataset; False where there is nothing, InputError where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not all((root / name).is_file() for name in FILES):
        raise InputError(f"expected {root} to be absent, empty or a drawn dataset; it holds something else")
    try:
        actual = json.loads((root / FILES[0]).read_text())["info"]["parameters"]
    except (ValueError, KeyError, TypeError):
        actual = None
    if actual != expected:
        raise InputError(f"expected a dataset drawn with {expected} in {root}, got {actual}; choose another folder")
    return True
