"""Detections against detectron2's own routine, and the choice of regions against torchvision's NMS."""

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from torchvision.ops import box_iou, nms

from ovdet.modeling.postprocess import detect, select_regions


def random_boxes(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 80
    return torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("number", [0, 1, 50])
def test_equals_detectron2_with_a_background_column(number):
    boxes, scores = random_boxes(number), torch.rand(number, 4, generator=torch.Generator().manual_seed(1))
    (ours,) = detect([boxes], [scores], [(100, 90)], score_threshold=0.3, nms_threshold=0.5, max_detections=20)
    padded = torch.cat([scores, torch.full((number, 1), 0.9)], dim=1)
    (theirs,), _ = fast_rcnn_inference([boxes.clone()], [padded], [(100, 90)], 0.3, 0.5, 20)
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores) and torch.equal(ours.pred_classes, theirs.pred_classes)


def test_regions_are_the_most_object_like_that_do_not_overlap():
    boxes, logits = random_boxes(40), torch.randn(40, generator=torch.Generator().manual_seed(2))
    keep = select_regions(boxes, logits, 0.5, 10)
    assert torch.equal(keep, nms(boxes, logits, 0.5)[:10])
    overlap = box_iou(boxes[keep], boxes[keep]) - torch.eye(len(keep))
    assert overlap.max() <= 0.5
    assert len(select_regions(torch.zeros(0, 4), torch.zeros(0), 0.5, 10)) == 0
