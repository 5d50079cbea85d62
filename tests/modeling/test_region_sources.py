"""Which regions the teacher sees, in training and at test time, and where in its photo."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ovdet.modeling.region_sources import OnlineRegions
from ovdet.modeling.region_teacher import RegionTeacher

SIZE = (2000, 3000)


def row_of_boxes(number: int, top: float = 0.0) -> torch.Tensor:
    """(number, 4): ten pixels wide, apart from each other."""
    left = torch.arange(number) * 20.0
    return torch.stack([left, left * 0 + top, left + 10, left * 0 + top + 10], dim=1)


def proposals_of(boxes: torch.Tensor, logits: torch.Tensor) -> Instances:
    proposals = Instances(SIZE)
    proposals.proposal_boxes, proposals.objectness_logits = Boxes(boxes), logits
    return proposals


def asked(source: OnlineRegions, known: torch.Tensor, proposals: Instances) -> torch.Tensor:
    """The boxes that the teacher is asked about in a step on one photo."""
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(known)
    (regions,) = source([{"instances": instances}], [torch.zeros(3, *SIZE)], [proposals])
    assert regions.teacher_embeddings.shape == (len(regions), 4)
    return regions.proposal_boxes.tensor


def embed(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(boxes + 1, dim=1)


@pytest.mark.parametrize(("share", "from_truth"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_ground_truth_takes_its_share_and_the_best_proposals_the_rest(share, from_truth):
    source = OnlineRegions(embed, max_regions=4, ground_truth_share=share)
    truth, boxes = row_of_boxes(10, top=500.0), row_of_boxes(100)
    logits = torch.arange(100.0).flip(0)  # the first is the most object-like
    seen = set()
    for _ in range(40):
        found = asked(source, truth, proposals_of(boxes, logits))
        assert (found[:, 1] == 500).sum() == from_truth and len(found) == 4
        seen.update((found[found[:, 1] == 0, 0] / 20).int().tolist())
    assert max(seen, default=0) < 16 and (share == 1 or len(seen) > 8)  # drawn from the 4 M best


def test_of_two_proposals_in_one_place_the_better_one_is_seen():
    boxes = torch.cat([row_of_boxes(3), row_of_boxes(3) + torch.tensor([1.0, 0, 1, 0])])  # an IoU of 9 / 11
    logits = torch.tensor([1.0, 1, 1, 2, 0, 2])
    source = OnlineRegions(embed, max_regions=8, ground_truth_share=0.0, nms_threshold=0.7)
    found = asked(source, row_of_boxes(0), proposals_of(boxes, logits))
    assert sorted(found[:, 0].tolist()) == [1.0, 20.0, 41.0]
    source = OnlineRegions(embed, max_regions=8, ground_truth_share=0.0, nms_threshold=0.9)
    assert len(asked(source, row_of_boxes(0), proposals_of(boxes, logits))) == 6


def test_fewer_than_are_wanted_or_none():
    source = OnlineRegions(embed, max_regions=8)
    assert len(asked(source, row_of_boxes(1, 500.0), proposals_of(row_of_boxes(2), torch.zeros(2)))) == 3
    assert len(asked(source, row_of_boxes(0), proposals_of(row_of_boxes(0), torch.zeros(0)))) == 0


def test_the_teacher_at_test_time_sees_the_best_where_they_lie_in_the_original_photo():
    boxes = torch.tensor([[0.0, 0, 16, 32], [1, 0, 17, 32], [48, 32, 96, 64], [0, 48, 8, 64]])
    seen = []

    def look(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        seen.append(boxes)
        return embed(photo, boxes)

    teacher = RegionTeacher(look, max_regions=2, nms_threshold=0.8)
    photo = torch.zeros(3, 640, 480)  # 10 times as high as the network's input and 5 times as wide
    keep, embeddings = teacher(photo, boxes, torch.tensor([2.0, 1, 3, 0]), (64, 96))
    assert keep.tolist() == [2, 0] and embeddings.shape == (2, 4)  # the second lies where the first does
    assert seen[0].tolist() == [[240, 320, 480, 640], [0, 0, 80, 320]]
    keep, embeddings = teacher(photo, boxes[:0], torch.zeros(0), (64, 96))
    assert len(keep) == 0 and embeddings.shape == (0, 4)
