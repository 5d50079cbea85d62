"""CenterNet's proposals and losses against loops over locations and objects, and against fvcore's focal loss."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.nn import giou_loss, sigmoid_focal_loss
from torchvision.ops import nms

from ovdet.modeling.centernet import (
    CenterNetHead,
    CenterNetProposals,
    HeatmapLoss,
    assign_targets,
    grid_locations,
    logit_of_log,
)

STRIDES, SIZES = (8, 16), ((0.0, 30.0), (20.0, 1000.0))


@pytest.fixture
def generator() -> CenterNetProposals:
    torch.manual_seed(0)
    head = CenterNetHead(8, num_levels=2, num_convs=1, num_groups=2)
    torch.nn.init.normal_(head.heatmap.weight, std=1.0)
    torch.nn.init.normal_(head.distances.weight, std=0.5)
    torch.nn.init.constant_(head.heatmap.bias, -1.0)
    torch.nn.init.constant_(head.distances.bias, 1.0)
    head.scales[1].data.fill_(1.5)
    return CenterNetProposals(
        head, in_features=["p3", "p4"], strides=STRIDES, sizes=SIZES, pre_nms_topk=(50, 20), post_nms_topk=(30, 10)
    )


def inputs(number: int = 2, height: int = 64, width: int = 96):
    torch.manual_seed(1)
    features = {f"p{k}": torch.randn(number, 8, height // 2**k, width // 2**k) for k in (3, 4)}
    images = ImageList(torch.zeros(number, 3, height, width), [(height, width - 10)] * number)
    return images, features


def objects(boxes, size=(64, 96)) -> Instances:
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.zeros(len(instances.gt_boxes), dtype=torch.long)
    return instances


def test_proposals_are_those_of_a_loop(generator):
    images, features = inputs()
    found, losses = generator.eval()(images, features)
    assert losses == {}
    logits, distances = generator.head([features["p3"], features["p4"]])
    for image, proposals in enumerate(found):
        entries = []
        for level, stride in enumerate(STRIDES):
            heat = logits[level][image, 0].sigmoid().detach()
            here = []
            for y in range(heat.shape[0]):
                for x in range(heat.shape[1]):
                    left, top, right, bottom = (distances[level][image, :, y, x] * stride).tolist()
                    center = x * stride + stride // 2, y * stride + stride // 2
                    box = [center[0] - left, center[1] - top, center[0] + right, center[1] + bottom]
                    box[2:] = max(box[2], box[0] + 0.01), max(box[3], box[1] + 0.01)
                    here.append((float(heat[y, x]), box))
            entries += sorted(here, reverse=True)[:20]
        boxes, scores = torch.tensor([box for _, box in entries]), torch.tensor([heat**0.5 for heat, _ in entries])
        keep = nms(boxes, scores, 0.9)[:10]
        assert torch.allclose(proposals.proposal_boxes.tensor, boxes[keep], atol=1e-4)
        assert torch.allclose(proposals.objectness_logits.sigmoid(), scores[keep], atol=1e-6)
    assert (found[0].proposal_boxes.tensor[:, :2] < 0).any()  # boxes may leave the image


def test_equals_of_the_last_proposal_stay(generator):
    images, features = inputs(1)
    torch.nn.init.zeros_(generator.head.heatmap.weight)
    torch.nn.init.zeros_(generator.head.distances.weight)
    torch.nn.init.constant_(generator.head.distances.bias, 0.4)
    (found,), _ = generator.eval()(images, features)
    assert len(found) == 40  # 20 of each level, all of one score


def loop_targets(boxes, locations, strides, sizes):
    """One location and one object after the other."""
    heat, positive, has_box, target = [], [], [], []
    for (x, y), stride, (least, most) in zip(locations.tolist(), strides.tolist(), sizes.tolist(), strict=True):
        peak, is_positive, best = 0.0, False, (math.inf, None)
        for x1, y1, x2, y2 in boxes:
            cx, cy, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            cell = [side // stride * stride + stride // 2 for side in (cx, cy)]
            is_here = [x, y] == cell
            on_level = least <= math.hypot(width, height) / 2 <= most
            variance = max(2 * (0.2 / 1.8) ** 2 * width * height, 16)
            distance = 0 if is_here else ((x - cx) ** 2 + (y - cy) ** 2) / variance
            peak = max(peak, math.exp(-distance))
            is_positive |= is_here and on_level
            beside = abs(x - cell[0]) <= stride and abs(y - cell[1]) <= stride
            if beside and on_level and x1 < x < x2 and y1 < y < y2 and distance < best[0]:
                best = (distance, [x1, y1, x2, y2])
        heat.append(peak if peak >= 1e-4 else 0.0)
        positive.append(is_positive)
        has_box.append(best[1] is not None)
        target.append(best[1] or [0.0] * 4)
    return torch.tensor(heat), torch.tensor(positive), torch.tensor(has_box), torch.tensor(target)


def grids():
    parts = [grid_locations(8, 12, 8, torch.device("cpu")), grid_locations(4, 6, 16, torch.device("cpu"))]
    counts = torch.tensor([len(part) for part in parts])
    strides, sizes = torch.tensor(STRIDES).float(), torch.tensor(SIZES)
    return torch.cat(parts), strides.repeat_interleave(counts), sizes.repeat_interleave(counts, 0)


def test_targets_are_those_of_a_loop():
    boxes = [[3.0, 5, 40, 30], [10, 8, 30, 28], [50, 20, 60, 26], [0, 0, 96, 64], [70, 40, 71, 41]]
    locations, strides, sizes = grids()
    found = assign_targets(torch.tensor(boxes), locations, strides, sizes)
    heat, positive, has_box, target = loop_targets(boxes, locations, strides, sizes)
    assert (
        torch.allclose(found.heat, heat, atol=1e-5) and positive.sum() == 5
    )  # one object is on both levels, two share a center
    assert torch.equal(found.is_positive, positive) and torch.equal(found.has_box, has_box)
    assert torch.equal(found.boxes[has_box], target[has_box])


def test_losses_are_those_of_a_loop(generator):
    images, features = inputs()
    truth = [[[3.0, 5, 40, 30], [50, 20, 60, 26]], []]
    _, losses = generator.train()(images, features, [objects(boxes) for boxes in truth])
    with torch.no_grad():
        logits, distances = generator.head([features["p3"], features["p4"]])
    locations, strides, sizes = grids()
    positive_loss = negative_loss = box_loss = 0.0
    num_positive = num_boxes = 0
    for image, boxes in enumerate(truth):
        heat, positive, has_box, target = loop_targets(boxes, locations, strides, sizes)
        found = torch.cat([level[image].flatten() for level in logits]).sigmoid()
        for p, h, is_positive in zip(found.tolist(), heat.tolist(), positive.tolist(), strict=True):
            if is_positive:
                positive_loss += -0.25 * (1 - p) ** 2 * math.log(p)
            if p < 0.85:
                negative_loss += -0.75 * p**2 * (1 - h) ** 4 * math.log(1 - p)
        pairs = zip(distances, STRIDES, strict=True)
        extents = torch.cat([level[image].flatten(1).T * stride for level, stride in pairs])
        predicted = torch.cat([locations - extents[:, :2], locations + extents[:, 2:]], dim=1)
        box_loss += float(giou_loss(predicted[has_box], target[has_box], reduction="sum"))
        num_positive, num_boxes = num_positive + int(positive.sum()), num_boxes + int(has_box.sum())
    assert float(losses["loss_heatmap_pos"]) == pytest.approx(0.5 * positive_loss / num_positive, rel=1e-4)
    assert float(losses["loss_heatmap_neg"]) == pytest.approx(0.5 * negative_loss / num_positive, rel=1e-4)
    assert float(losses["loss_center_box"]) == pytest.approx(box_loss / num_boxes, rel=1e-4)
    sum(losses.values()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in generator.parameters())
    assert generator.head.scales[0].grad.abs() > 0


def test_without_gaussians_it_is_the_focal_loss():
    torch.manual_seed(0)
    logits, labels = torch.randn(50), torch.rand(50) < 0.3
    loss = HeatmapLoss(ignored_above=2.0)(logits, labels.float(), labels)
    expected = sigmoid_focal_loss(logits, labels.float(), alpha=0.25, gamma=2, reduction="sum")
    assert torch.allclose(sum(loss), expected, rtol=1e-4)


def test_images_without_objects(generator):
    images, features = inputs()
    proposals, losses = generator.train()(images, features, [objects([]), objects([])])
    assert len(proposals) == 2 and not proposals[0].proposal_boxes.tensor.requires_grad
    assert float(losses["loss_heatmap_pos"]) == float(losses["loss_center_box"]) == 0
    sum(losses.values()).backward()
    assert all(value.grad is not None for value in generator.parameters())


def test_logits_of_logarithms():
    probabilities = torch.tensor([1e-6, 0.1, 0.5, 0.999])
    assert torch.allclose(logit_of_log(probabilities.log()), torch.logit(probabilities), atol=1e-3)
    assert logit_of_log(torch.zeros(1)).isfinite() and logit_of_log(torch.zeros(0)).shape == (0,)
