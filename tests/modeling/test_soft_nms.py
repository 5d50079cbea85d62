"""Soft-NMS beside a loop within each class, and in the place of NMS."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torchvision.ops import box_iou

from ovdet.errors import InputError
from ovdet.modeling.postprocess import postprocess_image
from ovdet.modeling.soft_nms import SoftNMS
from ovdet.modeling.topk import topk_of_matrix


def loop(boxes, scores, sigma, least):
    """Of one class, as the paper's algorithm 1 has it -> indices and scores."""
    left, overlaps = dict(enumerate(scores.tolist())), box_iou(boxes, boxes).tolist()
    found = []
    while left:
        best = max(left, key=left.get)
        score = left.pop(best)
        if score <= least:
            break
        found.append((best, score))
        for other in left:
            left[other] *= math.exp(-(overlaps[best][other] ** 2) / sigma)
    return found


def inputs(number: int = 40, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 40], dim=1)
    return boxes, torch.rand(number, 3, generator=generator)


def test_the_same_as_a_loop_within_each_class():
    boxes, matrix = inputs()
    scores, classes = matrix.flatten(), torch.arange(3).repeat(40)
    candidates = boxes.repeat_interleave(3, dim=0)
    index, lowered = SoftNMS(sigma=0.5, min_score=0.01)(candidates, scores, classes, -1)
    for class_id in range(3):
        expected = loop(boxes, matrix[:, class_id], 0.5, 0.01)
        of_class = classes[index] == class_id
        assert (index[of_class] // 3).tolist() == [place for place, _ in expected]
        assert torch.allclose(lowered[of_class], torch.tensor([score for _, score in expected]), atol=1e-5)
    assert torch.equal(lowered, lowered.sort(descending=True).values)


@pytest.mark.parametrize("most", [0, 1, 7, 200, -1])
def test_in_the_place_of_nms(most):
    boxes, matrix = inputs(150)
    options = dict(score_threshold=0.05, nms_threshold=0.5, max_detections=most)
    found = postprocess_image(
        partial(topk_of_matrix, matrix), boxes, (100, 100), **options, soft_nms=SoftNMS(min_score=0.05)
    )
    of_classes = [loop(boxes, matrix[:, class_id], 0.5, 0.05) for class_id in range(3)]
    everything = [(score, place, class_id) for class_id, pairs in enumerate(of_classes) for place, score in pairs]
    everything.sort(reverse=True)
    expected = everything if most < 0 else everything[:most]
    assert len(found) == len(expected)
    assert torch.allclose(found.scores, torch.tensor([score for score, _, _ in expected]), atol=1e-5)
    assert found.pred_classes.tolist() == [class_id for _, _, class_id in expected]


def test_more_candidates_are_asked_for_as_long_as_one_may_come_first():
    """A thousand boxes on one object would hide the second one, whose raw score is lower."""
    boxes = torch.cat([torch.tensor([[0.0, 0, 50, 50]]).repeat(1500, 1), torch.tensor([[60.0, 60, 90, 90]])])
    matrix = torch.cat([torch.linspace(0.9, 0.8, 1500), torch.tensor([0.5])])[:, None]
    options = dict(score_threshold=0.0, nms_threshold=0.5, max_detections=2)
    found = postprocess_image(partial(topk_of_matrix, matrix), boxes, (100, 100), **options, soft_nms=SoftNMS())
    assert torch.allclose(found.scores, torch.tensor([0.9, 0.5]))


def test_nothing_and_faults():
    index, scores = SoftNMS()(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 10)
    assert index.shape == scores.shape == (0,)
    with pytest.raises(InputError, match="-1"):
        SoftNMS(sigma=-1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(train_on_pred_boxes=True), "heads for boxes and masks"),
        (dict(keypoint_in_features=["p4"]), "heads for boxes and masks"),
        (dict(box_passes=0), "box_passes of at least 1, got 0"),
        (dict(soft_nms_sigma=0.0), "a positive soft_nms_sigma or none, got 0.0"),
    ],
)
def test_heads_that_make_no_sense(build_tiny, given, message):
    def change(model):
        model.roi_heads.update(given)
        return model

    with pytest.raises(Exception, match=message):
        build_tiny(change)
