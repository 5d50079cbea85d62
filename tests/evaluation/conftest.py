"""Ground truth and detections with every oddity, and what pycocotools and lvis-api say of them."""

from __future__ import annotations

import contextlib
import copy
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZE = (120, 160)  # height, width


def make_content(seed: int = 0, num_images: int = 12, num_classes: int = 6) -> dict[str, Any]:
    """A COCO json: crowds, boxes without area, areas that are not the box's, images without objects, classes with ids
    that are not in a row, and a class without objects (the last)."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 3 * k + 2, "name": f"class {k}"} for k in range(num_classes)]
    images = [{"id": 10 * i + 1, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.jpg"}
              for i in range(num_images)]  # fmt: skip
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(0, 9) if rng.random() < 0.85 else 0):
            box = [float(v) for v in rng.uniform((0, 0, 3, 3), (100, 80, 60, 40)).round(rng.integers(0, 3))]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": categories[rng.integers(num_classes - 1)]["id"],
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.choice([1, 1, 8, 0.6])),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": [polygon(box)],
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def polygon(box: list[float]) -> list[float]:
    """A quadrilateral that fills most of an XYWH box."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + 0.7 * height, x, y + height]


def make_detections(content: dict[str, Any], seed: int = 1, masks: bool = False) -> list[dict[str, Any]]:
    """Shifted copies of the objects, some of another class, some exact, some without area, with ties in the scores;
    some images without any."""
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in content["categories"]]
    silent = {image["id"] for image in content["images"] if rng.random() < 0.15}
    detections = []
    for annotation in content["annotations"]:
        for _ in range(0 if annotation["image_id"] in silent else rng.integers(0, 7)):
            box = np.array(annotation["bbox"]) + rng.normal(0, rng.choice([0, 2, 6]), 4)
            box[2:] = np.maximum(box[2:], 0) * (rng.random() > 0.05)
            box = [float(value) for value in box]
            found = {"bbox": box}
            if masks:
                rle = mask_util.merge(mask_util.frPyObjects([polygon(box)], *SIZE))
                found = {"segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()}}
            category_id = annotation["category_id"] if rng.random() < 0.8 else ids[rng.integers(len(ids))]
            score = float(np.round(rng.random(), 1))
            detections.append({"image_id": annotation["image_id"], "category_id": category_id, "score": score, **found})
    return detections


def coco_index(content: dict[str, Any]) -> COCO:
    """pycocotools' index, without its prints."""
    coco = COCO()
    coco.dataset = copy.deepcopy(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def run_pycocotools(
    content: dict[str, Any],
    detections: list[dict[str, Any]],
    iou_type: str = "bbox",
    category_ids: list[int] | None = None,
    max_detections: int = 100,
) -> np.ndarray:
    """pycocotools' precision, (T, R, K, A), -1 without objects."""
    truth = coco_index(content)
    other = "segmentation" if iou_type == "bbox" else "bbox"
    plain = [{key: value for key, value in detection.items() if key != other} for detection in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval(truth, truth.loadRes(copy.deepcopy(plain)), iou_type)
        if category_ids is not None:
            engine.params.catIds = list(category_ids)
        engine.params.maxDets = [max_detections]
        engine.evaluate()
        engine.accumulate()
    return engine.eval["precision"][..., 0]


def headline(precision: np.ndarray) -> list[float]:
    """AP, AP50, AP75, APs, APm, APl in percent as pycocotools and lvis-api summarize them; nan for the mean of none."""
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision[..., 1:], -1, 0)]
    found = [part[part > -1] for part in parts]
    return [float(part.mean() * 100) if part.size else float("nan") for part in found]


@pytest.fixture(scope="session")
def judges() -> SimpleNamespace:
    """The functions of this file."""
    functions = make_content, make_detections, run_pycocotools, headline
    return SimpleNamespace(**{function.__name__: function for function in functions})
