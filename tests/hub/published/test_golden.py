"""Published detectors against what their authors' code gives with the same weights: stage by stage, and in the end.

The numbers are of made-up weights (../shared/data/published); where that folder is absent these tests are skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

from ovdet.modeling.region_detection import build_scorer, refine
from ovdet.modeling.scoring import Regions

OF_MAPS, OF_SCORES, OF_BOXES = 1e-4, 1e-4, 0.02  # deviations of a map; scores; pixels

SYNTHETIC = [("detic_vild", "synthetic", ""), ("detic_ovcoco", "synthetic", "")]
PHOTOS = [
    ("detic_vild", "photo_a", "lvis_v1"),
    ("detic_vild", "photo_b", "lvis_v1"),
    ("detic_ovcoco", "photo_a", "coco"),
    ("detic_ovcoco", "photo_b", "coco"),
]


def told(cases, *marks):
    return [pytest.param(case, id="-".join(case[:2]), marks=marks) for case in cases]


@pytest.fixture(scope="module", params=told(SYNTHETIC) + told(PHOTOS, pytest.mark.slow))
def case(request, build_case):
    return build_case(*request.param)


@pytest.fixture(scope="module")
def seen(case):
    """Normalized images, the backbone's maps, proposals."""
    model = case.predictor.model
    with torch.no_grad():
        images = model.preprocess_image([case.inputs])
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
    return images, features, proposals[0]


def close(found: Tensor, expected: np.ndarray, tolerance: float) -> bool:
    return torch.allclose(found.float(), torch.from_numpy(expected).float(), atol=tolerance, rtol=0)


def check_map(found: Tensor, golden: dict[str, np.ndarray], name: str) -> None:
    """A map (C, H, W) against the mean, the deviation and values at some places of a golden one."""
    mean, std = golden[f"{name}.mean_std"]
    assert tuple(found.shape) == tuple(golden[f"{name}.shape"])
    values = found[tuple(torch.from_numpy(golden[f"{name}.pos"]).T)]
    assert close(values, golden[f"{name}.val"], OF_MAPS * std)
    assert (
        abs(float(found.mean()) - mean) <= OF_MAPS * std and abs(float(found.std(correction=0)) - std) <= OF_MAPS * std
    )


def share_found(boxes: Tensor, scores: Tensor, classes: Tensor, golden: dict[str, np.ndarray], name: str) -> float:
    """The share of golden boxes that are there: IoU of 0.99 (0.95 with classes, and the same one), the same score."""
    overlaps = box_iou(torch.from_numpy(golden[f"{name}.boxes"]), boxes.float())
    fits = (torch.from_numpy(golden[f"{name}.scores"])[:, None] - scores.float()).abs() <= OF_SCORES
    if f"{name}.classes" in golden:
        fits &= (overlaps >= 0.95) & (torch.from_numpy(golden[f"{name}.classes"])[:, None] == classes)
    else:
        fits &= overlaps >= 0.99
    return float(fits.any(1).float().mean())


def test_input(case, seen):
    image = seen[0].tensor[0]
    assert tuple(image.shape) == tuple(case.golden["input.shape"])
    values = image[tuple(torch.from_numpy(case.golden["input.pos"]).T)]
    assert close(values, case.golden["input.val"], 1e-4)


def test_features(case, seen):
    for name, found in seen[1].items():
        if f"feat.{name}.val" in case.golden:
            check_map(found[0], case.golden, f"feat.{name}")


def test_proposal_head(case, seen):
    generator = case.predictor.model.proposal_generator
    maps = [seen[1][name] for name in generator.in_features]
    with torch.no_grad():
        logits, deltas = generator.rpn_head(maps)
    for level, pair in enumerate(zip(logits, deltas, strict=True)):
        for name, found in zip(("objectness", "deltas"), pair, strict=True):
            check_map(found[0], case.golden, f"feat.{name}.L{level}")


def test_proposals(case, seen):
    found = seen[2]
    assert abs(len(found) - int(case.golden["prop.count"])) <= 2
    logits = found.objectness_logits
    assert share_found(found.proposal_boxes.tensor, logits, logits, case.golden, "prop") >= 0.97


def test_box_head(case, seen):
    """From the golden proposals."""
    golden, heads = case.golden, case.predictor.model.roi_heads
    images, features, _ = seen
    given = Instances(images.image_sizes[0])
    given.proposal_boxes = Boxes(torch.from_numpy(golden["prop.boxes"]))
    given.objectness_logits = torch.from_numpy(golden["prop.scores"])
    with torch.no_grad():
        _, box_features, text, boxes = refine(heads, features, [given])
        logits = heads.box_predictor.classifier(text, case.classes.embeddings)
        regions = Regions(boxes[0], text, text, given.objectness_logits)
        scores = build_scorer(heads, regions, given.image_size, None).log_scores(case.classes.embeddings, None).exp()

    num_classes = len(case.classes.names)
    assert close(box_features[:8, :64], golden["stage0.feat8"], 1e-4 * golden["stage0.feat8"].std())
    assert close(logits[:8, :num_classes], golden["stage0.logits8"][:, :num_classes], 1e-3)
    assert close(scores, golden["head.scores"][:, :num_classes], OF_SCORES)
    assert close(boxes[0], golden["head.boxes"], OF_BOXES)


def test_masks(case, seen):
    """Of the first golden detections."""
    heads, golden = case.predictor.model.roi_heads, case.golden
    if not heads.mask_on:
        assert "mask.logits4" not in golden
        return
    images, features, _ = seen
    height, width = images.image_sizes[0]
    scale = torch.tensor([width / case.inputs["width"], height / case.inputs["height"]]).repeat(2)
    boxes = Boxes(torch.from_numpy(golden["det.boxes"][:4]) * scale)
    with torch.no_grad():
        pooled = heads.mask_pooler([features[name] for name in heads.mask_in_features], [boxes])
        found = heads.mask_head.layers(pooled)[:, 0]
    assert close(found, golden["mask.logits4"], 1e-3 * golden["mask.logits4"].std())


@pytest.mark.parametrize("of", told(SYNTHETIC[:1]) + told(SYNTHETIC[1:] + PHOTOS, pytest.mark.slow))
def test_detections(build_case, of):
    case = build_case(*of)
    golden = case.golden
    with torch.no_grad():
        found = case.predictor.model([case.inputs], classes=case.classes)[0]["instances"]

    boxes = found.pred_boxes.tensor
    assert abs(len(found) - len(golden["det.boxes"])) <= 0.01 * len(golden["det.boxes"])
    assert share_found(boxes, found.scores, found.pred_classes, golden, "det") >= 0.99
    if found.has("pred_masks"):
        overlaps, index = box_iou(torch.from_numpy(golden["det.boxes"]), boxes).max(1)
        areas = found.pred_masks.flatten(1).sum(1)[index]
        near = (areas - torch.from_numpy(golden["det.mask_area"])).abs() <= 4 + 0.005 * areas
        assert near[overlaps > 0.95].float().mean() >= 0.99
