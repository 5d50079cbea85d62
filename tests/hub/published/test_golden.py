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

from ovdet.modeling.centernet import CenterNetProposals, logit_of_log
from ovdet.modeling.region_embedding import pool, refine, with_boxes
from ovdet.modeling.scoring import Regions, build_scorer

pytestmark = pytest.mark.slow  # networks of full size

OF_MAPS, OF_SCORES, OF_BOXES = 1e-4, 1e-4, 0.02  # deviations of a map; scores; pixels

OF_COCO_AND_LVIS = {"detic_vild": ("lvis_v1", "lvis_v1"), "detic_r50": ("lvis_v1", "coco"),
                    "detic_swinb": ("lvis_v1", "coco"), "detic_ovcoco": ("coco", "coco")}  # fmt: skip
DETICS = [(case, "synthetic", "") for case in OF_COCO_AND_LVIS] + [
    (case, photo, classes)
    for case, pair in OF_COCO_AND_LVIS.items()
    for photo, classes in zip(("photo_a", "photo_b"), pair, strict=True)
]


def told(cases):
    return [pytest.param(case, id="-".join(case[:2])) for case in cases]


@pytest.fixture(scope="module", params=told(DETICS))
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


def heat_maps(generator) -> bool:
    return isinstance(generator, CenterNetProposals)


def test_proposal_head(case, seen):
    generator = case.predictor.model.proposal_generator
    maps = [seen[1][name] for name in generator.in_features]
    names = ("agn_hm", "reg") if heat_maps(generator) else ("objectness", "deltas")
    with torch.no_grad():
        outputs = generator.head(maps) if heat_maps(generator) else generator.rpn_head(maps)
    for name, levels in zip(names, outputs, strict=True):
        for level, found in enumerate(levels):
            check_map(found[0], case.golden, f"feat.{name}.L{level}")


def test_proposals(case, seen):
    found = seen[2]
    assert abs(len(found) - int(case.golden["prop.count"])) <= 2
    scores = found.objectness_logits
    scores = scores.sigmoid() if heat_maps(case.predictor.model.proposal_generator) else scores
    assert share_found(found.proposal_boxes.tensor, scores, scores, case.golden, "prop") >= 0.97


def test_box_head(case, seen):
    """From the golden proposals, stage by stage."""
    golden, heads, rows = case.golden, case.predictor.model.roi_heads, case.classes.embeddings
    images, features, _ = seen
    given = Instances(images.image_sizes[0])
    given.proposal_boxes = Boxes(torch.from_numpy(golden["prop.boxes"]))
    given.objectness_logits = torch.from_numpy(golden["prop.scores"])
    if heat_maps(case.predictor.model.proposal_generator):
        given.objectness_logits = logit_of_log(given.objectness_logits.log())
    num_classes = len(rows)
    with torch.no_grad():
        moved = [given]
        for stage, (box_head, predictor) in enumerate(heads.stages):
            box_features = box_head(pool(heads, features, moved))
            logits, deltas = predictor(box_features, rows)
            expected = golden[f"stage{stage}.feat8"]
            assert close(box_features[:8, :64], expected, OF_MAPS * expected.std())
            assert close(logits[:8, :num_classes], golden[f"stage{stage}.logits8"][:, :num_classes], 1e-3)
            assert close(deltas, golden[f"stage{stage}.deltas"], 1e-3)
            moved = [with_boxes(moved[0], predictor.predict_boxes((None, deltas), moved)[0])]
        _, _, text, boxes = refine(heads, features, [given])
        regions = Regions(boxes[0], text, text, given.objectness_logits)
        scores = build_scorer(heads, regions, given.image_size, None).log_scores(rows, None).exp()

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


@pytest.mark.parametrize("of", told(DETICS))
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


_ROWS = "roi_heads.box_predictor.{}cls_score.weight"
REGIONCLIP = {"regionclip_zs_coco65": _ROWS.format(""), "regionclip_ft_coco48": _ROWS.format("test_")}
REGIONCLIPS = [
    (case, photo, rows) for photo in ("synthetic", "photo_a", "photo_b") for case, rows in REGIONCLIP.items()
]


@pytest.fixture(scope="module", params=told(REGIONCLIPS))
def regionclip(request, build_case):
    return build_case(*request.param)


def test_regionclip_proposals(regionclip):
    """Input, maps, RPN and proposals of the network that proposes."""
    golden, model = regionclip.golden, regionclip.predictor.model
    generator = model.proposal_generator
    with torch.no_grad():
        images = model.preprocess_image([regionclip.inputs])
        own = generator.own_images(images)
        features = generator.backbone(own.tensor)
        outputs = generator.proposal_generator.rpn_head(
            [features[name] for name in generator.proposal_generator.in_features]
        )
        (found,), losses = generator(images, {})
    assert losses == {}
    for name, image, tolerance in (("clip", images, 1e-4), ("offline", own, 1e-3)):  # of 60, and of 1, a deviation
        assert tuple(image.tensor[0].shape) == tuple(golden[f"input_{name}.shape"])
        values = image.tensor[0][tuple(torch.from_numpy(golden[f"input_{name}.pos"]).T)]
        assert close(values, golden[f"input_{name}.val"], tolerance)
    checked = [name for name in features if f"feat.offline.{name}.val" in golden]
    assert checked
    for name in checked:
        check_map(features[name][0], golden, f"feat.offline.{name}")
    for name, levels in zip(("objectness", "deltas"), outputs, strict=True):
        for level, map_ in enumerate(levels):
            if f"feat.{name}.L{level}.val" in golden:
                check_map(map_[0], golden, f"feat.{name}.L{level}")
    assert abs(len(found) - int(golden["prop.count"])) <= 2
    logits = found.objectness_logits
    assert share_found(found.proposal_boxes.tensor, logits, logits, golden, "prop") >= 0.97


def test_regionclip_box_head(regionclip):
    """From the golden proposals."""
    golden, model, rows = regionclip.golden, regionclip.predictor.model, regionclip.classes.embeddings
    heads = model.roi_heads
    with torch.no_grad():
        images = model.preprocess_image([regionclip.inputs])
        features = model.backbone(images.tensor)
        given = Instances(images.image_sizes[0])
        given.proposal_boxes = Boxes(torch.from_numpy(golden["prop.boxes"]))
        given.objectness_logits = torch.from_numpy(golden["prop.scores"])
        _, box_features, text, boxes = refine(heads, features, [given])
        logits = heads.box_predictor.classifier(text, rows)
        regions = Regions(boxes[0], text, text, given.objectness_logits)
        scores = build_scorer(heads, regions, given.image_size, None).log_scores(rows, None).exp()

    check_map(features["res4"][0], golden, "feat.clip.res4")
    assert close(box_features[:8], golden["head.attnpool8"], OF_MAPS * golden["head.attnpool8"].std())
    assert close(logits, golden["head.logits"], 1e-3) and not logits[:, -1].any()  # the background's
    assert close(logits.softmax(1), golden["head.softmax"], OF_SCORES)
    is_number = np.isfinite(golden["head.scores"]).all(1)
    assert close(scores[is_number], golden["head.scores"][is_number, :-1], OF_SCORES)
    assert (scores[~is_number] < 1e-3).all()  # they are left out
    assert close(boxes[0], golden["head.boxes"], OF_BOXES)


@pytest.mark.parametrize("of", told(REGIONCLIPS))
def test_regionclip_detections(build_case, of):
    case = build_case(*of)
    golden = case.golden
    with torch.no_grad():
        found = case.predictor.model([case.inputs], classes=case.classes)[0]["instances"]
    assert len(found) == len(golden["det.boxes"])
    assert share_found(found.pred_boxes.tensor, found.scores, found.pred_classes, golden, "det") >= 0.99
