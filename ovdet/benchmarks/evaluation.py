"""Time of COCO evaluation, from parsed json files to AP per class, against pycocotools."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO as RustCOCO
from hotcoco import COCOeval as RustCOCOeval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovdet.benchmarks.timing import Row, compare
from ovdet.errors import InputError
from ovdet.evaluation.average_precision import average_precision
from ovdet.evaluation.ground_truth import index_ground_truth

Content = Mapping[str, Any]
Detections = Sequence[Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: two files to evaluate, or random boxes."""
    parser.add_argument("--annotations", metavar="F.json", help="ground truth, COCO format (default: random boxes)")
    parser.add_argument("--detections", metavar="F.json", help="COCO results on it, boxes")
    parser.add_argument("--images", type=int, default=500, metavar="N", help="random boxes: images (default: 500)")
    parser.add_argument("--classes", type=int, default=80, metavar="K", help="random boxes: classes (default: 80)")


def run(arguments: argparse.Namespace) -> list[Row]:
    """One row: ours, pycocotools as the peer, hotcoco alone as the lower bound; AP must agree.

    Raises:
        InputError: one file without the other, or a file that does not fit.
    """
    if bool(arguments.annotations) != bool(arguments.detections):
        raise InputError("expected both --annotations and --detections, or neither")
    if arguments.images < 1 or arguments.classes < 1:
        raise InputError(f"expected --images and --classes of at least 1, got {arguments.images}, {arguments.classes}")
    if arguments.annotations:
        content, detections = _read(arguments.annotations), _read(arguments.detections)
    else:
        content, detections = draw_boxes(arguments.images, arguments.classes)
    own, peers = copy.deepcopy((content, detections)), copy.deepcopy((content, detections))  # pycocotools writes in it
    apart = np.abs(evaluate_ours(*own) - evaluate_pycocotools(*peers)).max(initial=0)
    if not apart < 1e-9:
        raise AssertionError(f"expected pycocotools' AP for every class, {apart} percent apart")
    row = compare(
        f"{len(detections)} detections, {len(content['images'])} images, {len(content['categories'])} classes",
        lambda: evaluate_ours(*own),
        peer=("pycocotools", lambda: evaluate_pycocotools(*peers)),
        limit=lambda: evaluate_hotcoco(*own),
        rounds=arguments.rounds,
    )
    return [row]


def evaluate_ours(content: Content, detections: Detections) -> np.ndarray:
    """AP of each class, (K,) in percent by category id, -1 without objects."""
    truth = index_ground_truth(content)
    return np.nan_to_num(average_precision(truth, detections, list(truth.names)).figures["AP"], nan=-1.0)


def evaluate_pycocotools(content: Content, detections: Detections) -> np.ndarray:
    """As `evaluate_ours`, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        engine = COCOeval(truth, truth.loadRes(detections), "bbox")
        engine.params.maxDets = [100]
        engine.evaluate()
        engine.accumulate()
    return _per_class(engine.eval["precision"])


def evaluate_hotcoco(content: Content, detections: Detections) -> np.ndarray:
    """As `evaluate_ours`, by hotcoco with nothing around it."""
    truth = RustCOCO(content)
    engine = RustCOCOeval(truth, truth.load_res(detections), "bbox")
    engine.params.max_dets = [100]
    engine.evaluate()
    engine.accumulate()
    return _per_class(np.asarray(engine.eval["precision"]))


def _per_class(precision: np.ndarray) -> np.ndarray:
    mean = precision[..., 0, 0].mean(axis=(0, 1))
    return np.where(mean < 0, -1.0, mean * 100)


def draw_boxes(num_images: int, num_classes: int) -> tuple[Content, Detections]:
    """Random ground truth with 10 objects per image and 60 detections, most of them near one; seeded."""
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(1, num_images + 1)]
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, num_classes + 1)]
    annotations, detections = [], []
    for image in images:
        boxes = rng.uniform((0, 0, 8, 8), (500, 350, 140, 130), (10, 4))
        classes = rng.integers(1, num_classes + 1, 10)
        for box, class_id in zip(boxes.tolist(), classes.tolist(), strict=True):
            entry = {"image_id": image["id"], "category_id": class_id, "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **entry})
        near = np.abs(boxes[rng.integers(0, 10, 60)] + rng.normal(0, 8, (60, 4)))
        found = np.where(rng.random(60) < 0.7, classes[rng.integers(0, 10, 60)], rng.integers(1, num_classes + 1, 60))
        for box, class_id, score in zip(near.tolist(), found.tolist(), rng.random(60).tolist(), strict=True):
            detections.append({"image_id": image["id"], "category_id": class_id, "bbox": box, "score": score})
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"expected a json file, {path} cannot be read: {error}") from error
