"""ATSS's assignment of anchors: against a loop over the paper's algorithm, without objects, and in a training step."""

import statistics

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import box_iou

from ovdet.errors import InputError
from ovdet.modeling.adaptive_rpn import AdaptiveRPN, adaptive_assignment

SIZE = (96, 128)


def make_anchors() -> list[torch.Tensor]:
    """Of two levels with two anchors at each place, a little beside the pixels, so that no two are as near."""
    sizes = dict(sizes=[[16, 24], [40, 64]], aspect_ratios=[1.0], strides=[8, 16], offset=0.37)
    maps = [torch.zeros(1, 1, SIZE[0] // stride, SIZE[1] // stride) for stride in (8, 16)]
    anchors = [each.tensor for each in DefaultAnchorGenerator(**sizes)(maps)]
    noise = torch.Generator().manual_seed(0)
    return [each + torch.rand(each.shape, generator=noise) for each in anchors]


def make_boxes(number: int, seed: int = 1) -> torch.Tensor:
    corners = torch.rand(number, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([80.0, 60])
    sides = 6 + torch.rand(number, 2, generator=torch.Generator().manual_seed(seed + 1)) * 50
    return torch.cat([corners, corners + sides], dim=1)


def assigned_by_a_loop(levels: list[torch.Tensor], boxes: torch.Tensor, candidates: int) -> dict[int, int]:
    """The object of each foreground anchor, in plain numbers."""
    owner: dict[int, tuple[float, int]] = {}
    for object_id, box in enumerate(boxes.tolist()):
        center, near, first = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), [], 0
        for level in levels:
            order = sorted(
                range(len(level)),
                key=lambda k: sum((float(level[k][i] + level[k][i + 2]) / 2 - center[i]) ** 2 for i in (0, 1)),
            )
            near += [first + k for k in order[:candidates]]
            first += len(level)
        joined = torch.cat(levels)
        overlaps = box_iou(torch.tensor([box]), joined)[0]
        of_near = [float(overlaps[k]) for k in near]
        least = statistics.mean(of_near) + statistics.stdev(of_near)
        for k, overlap in zip(near, of_near, strict=True):
            x, y = (float(joined[k][i] + joined[k][i + 2]) / 2 for i in (0, 1))
            if overlap >= least and box[0] < x < box[2] and box[1] < y < box[3]:
                owner[k] = max(owner.get(k, (-1.0, -1)), (overlap, object_id))
    return {k: object_id for k, (_, object_id) in owner.items()}


@pytest.mark.parametrize("candidates", [3, 9, 18])
def test_it_is_the_algorithm_of_the_paper(candidates):
    levels = make_anchors()
    for seed in range(5):
        boxes = make_boxes(6, seed)
        is_object, index = adaptive_assignment(levels, boxes, candidates)
        expected = assigned_by_a_loop(levels, boxes, candidates)
        assert len(expected) > 2 and is_object.sum() == len(expected)
        assert {int(k): int(index[k]) for k in is_object.nonzero()[:, 0]} == expected


def test_more_candidates_than_anchors_are_all_of_them():
    levels, boxes = make_anchors(), make_boxes(3)
    is_object, _ = adaptive_assignment(levels, boxes, 10_000)
    assert torch.equal(is_object, adaptive_assignment(levels, boxes, max(map(len, levels)))[0]) and is_object.any()


def test_no_objects():
    is_object, index = adaptive_assignment(make_anchors(), torch.zeros(0, 4), 9)
    assert not is_object.any() and len(index) == len(is_object)


def make_rpn(**changes) -> AdaptiveRPN:
    torch.manual_seed(0)
    options = dict(
        in_features=["p3", "p4"],
        head=StandardRPNHead(in_channels=4, num_anchors=2),
        anchor_generator=DefaultAnchorGenerator(sizes=[[16, 24], [40, 64]], aspect_ratios=[1.0], strides=[8, 16]),
        anchor_matcher=Matcher(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=64,
        positive_fraction=0.5,
        pre_nms_topk=(200, 200),
        post_nms_topk=(50, 50),
    )
    return AdaptiveRPN(**{**options, **changes})


def losses_of(rpn: AdaptiveRPN, *boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    maps = {name: torch.randn(len(boxes), 4, SIZE[0] // stride, SIZE[1] // stride, generator=generator)
            for name, stride in (("p3", 8), ("p4", 16))}  # fmt: skip
    images, targets = ImageList(torch.zeros(len(boxes), 3, *SIZE), [SIZE] * len(boxes)), []
    for each in boxes:
        targets.append(Instances(SIZE, gt_boxes=Boxes(each)))
    with EventStorage():
        return rpn(images, maps, targets)[1]


def test_a_training_step_of_photos_with_objects_and_without():
    losses = losses_of(make_rpn(), make_boxes(4), torch.zeros(0, 4))
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"} and all(0 < loss.item() < 10 for loss in losses.values())
    rpn = make_rpn()
    sum(losses_of(rpn, make_boxes(4)).values()).backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in rpn.rpn_head.parameters())


def test_its_objectness_is_learned():
    rpn = make_rpn()
    optimizer = torch.optim.Adam(rpn.parameters(), lr=0.02)
    first = None
    for _ in range(60):
        loss = losses_of(rpn, make_boxes(4))["loss_rpn_cls"]
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first


def test_no_candidates_are_refused():
    with pytest.raises(InputError, match="one candidate or more"):
        make_rpn(candidates=0)
