"""How well boxes fit: against detectron2's IoU, without objects, its gradient, and that it says something of a box."""

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from ovdet.modeling.iou_head import MIN_IOU, IoUHead, geometric_mean_logits

PROPOSALS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60], [0, 0, 10, 8]])
OBJECT = torch.tensor([[0.0, 0, 10, 10]])


def of_image(proposals: torch.Tensor, with_object: bool = True) -> Instances:
    instances = Instances((100, 100))
    instances.proposal_boxes = Boxes(proposals)
    if with_object:
        instances.gt_boxes = Boxes(OBJECT.expand(len(proposals), 4))
    return instances


def test_the_loss_is_the_distance_to_the_overlap_on_objects_alone():
    iou_head, logits = IoUHead(8, weight=2.0), torch.tensor([0.3, -1.0, 5.0, 0.0])
    overlaps = pairwise_iou(Boxes(PROPOSALS), Boxes(OBJECT))[:, 0]
    on_object = overlaps >= MIN_IOU
    assert on_object.tolist() == [
        True,
        True,
        False,
        True,
    ]  # the third lies on none: nothing is said of it
    expected = 2 * torch.nn.functional.l1_loss(logits.sigmoid()[on_object], overlaps[on_object])
    images = [of_image(PROPOSALS[:1]), of_image(PROPOSALS[1:])]
    torch.testing.assert_close(iou_head.losses(logits, images)["loss_iou"], expected)


@pytest.mark.parametrize(
    "images", [[of_image(PROPOSALS[:0])], [of_image(PROPOSALS[2:3])], [of_image(PROPOSALS, with_object=False)]]
)
def test_no_regions_or_no_objects_give_zero_with_a_gradient_path(images):
    iou_head = IoUHead(8)
    features = torch.randn(sum(map(len, images)), 8)
    loss = iou_head.losses(iou_head(features), images)["loss_iou"]
    loss.backward()
    assert loss == 0 and iou_head.linear.weight.grad is not None and not iou_head.linear.weight.grad.any()


def test_gradient():
    iou_head = IoUHead(8)
    logits = torch.randn(4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: iou_head.losses(x, [of_image(PROPOSALS)])["loss_iou"], (logits,))


def test_it_learns_the_overlap_of_boxes_that_are_told_apart():
    torch.manual_seed(0)
    iou_head, features = IoUHead(8), torch.eye(8)[:4]
    optimizer = torch.optim.Adam(iou_head.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        iou_head.losses(iou_head(features), [of_image(PROPOSALS)])["loss_iou"].backward()
        optimizer.step()
    found = iou_head(features).sigmoid()
    torch.testing.assert_close(found[[0, 1, 3]], torch.tensor([1.0, 0.5, 0.8]), rtol=0, atol=0.06)


def test_objectness_is_joined_geometrically():
    first, second = torch.tensor([0.0, 3.0, -60.0, 60.0]), torch.tensor([0.0, -1.0, -60.0, 60.0])
    joined = geometric_mean_logits(first, second)
    torch.testing.assert_close(joined.sigmoid(), (first.sigmoid() * second.sigmoid()).sqrt())
    assert torch.isfinite(joined).all() and geometric_mean_logits(first[:0], second[:0]).shape == (0,)
