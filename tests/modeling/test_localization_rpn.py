"""Objectness by localization: against detectron2's FCOS, without objects, its gradient, and what it learns."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from ovdet.modeling.localization_rpn import LocalizationRPN, centerness

OBJECTS = torch.tensor([[8.0, 8, 40, 40], [50, 20, 62, 60]])


@pytest.fixture(autouse=True)
def storage():
    with EventStorage():
        yield


def make_rpn(kind: type = LocalizationRPN, **changes) -> RPN:
    torch.manual_seed(0)
    options = dict(
        in_features=["p3"],
        head=StandardRPNHead(in_channels=4, num_anchors=3),
        anchor_generator=DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8], offset=0.0),
        anchor_matcher=Matcher(thresholds=[0.3], labels=[-1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=128,
        positive_fraction=1.0,
        pre_nms_topk=(200, 200),
        post_nms_topk=(50, 50),
    )
    return kind(**{**options, **changes})


def targets(*boxes: torch.Tensor) -> list[Instances]:
    photos = []
    for of_photo in boxes:
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(of_photo)
        photos.append(instances)
    return photos


def losses_of(rpn: RPN, features: torch.Tensor, *boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    images = ImageList(torch.zeros(len(boxes), 3, 64, 64), [(64, 64)] * len(boxes))
    return rpn(images, {"p3": features}, targets(*boxes))[1]


def test_centerness_is_that_of_fcos():
    generator = DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[1.0], strides=[8], offset=0.5)
    anchors = generator([torch.zeros(1, 4, 8, 8)])[0]
    boxes = OBJECTS[torch.arange(len(anchors)) % 2]
    fcos = FCOS(backbone=_Backbone(), head=torch.nn.Identity(), num_classes=1, pixel_mean=[0], pixel_std=[1])
    centers = (anchors.tensor[:, :2] + anchors.tensor[:, 2:]) / 2
    inside = ((centers > boxes[:, :2]) & (centers < boxes[:, 2:])).all(1)
    expected = fcos.compute_ctrness_targets([anchors], [boxes])[0]
    found = centerness(anchors.tensor, boxes)
    assert 0 < inside.sum() < len(inside)
    torch.testing.assert_close(found[inside], expected[inside])
    assert not found[~inside].any()


class _Backbone(torch.nn.Module):
    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"p3": ShapeSpec(channels=4, stride=8)}


def test_the_loss_is_the_distance_to_the_centerness_on_objects_alone():
    rpn, features = make_rpn(loss_weight={"loss_rpn_cls": 2.0, "loss_rpn_loc": 1.0}), torch.randn(2, 4, 8, 8)
    found = losses_of(rpn, features, OBJECTS, OBJECTS[:1])
    anchors = rpn.anchor_generator([features])[0].tensor
    logits = rpn.rpn_head([features])[0][0].permute(0, 2, 3, 1).flatten(1)  # (N, A)
    distances = []
    for of_image, boxes in zip(logits, (OBJECTS, OBJECTS[:1]), strict=True):
        matched, labels = rpn.anchor_matcher(pairwise_iou(Boxes(boxes), Boxes(anchors)))
        for index in torch.nonzero(labels == 1).flatten().tolist():
            wanted = centerness(anchors[index], boxes[matched[index]])
            distances.append((of_image[index].sigmoid() - wanted).abs())
    assert len(distances) > 10
    torch.testing.assert_close(found["loss_rpn_cls"], 2 * torch.stack(distances).mean())
    as_before = losses_of(make_rpn(RPN), features, OBJECTS, OBJECTS[:1])
    torch.testing.assert_close(found["loss_rpn_loc"], as_before["loss_rpn_loc"])


@pytest.mark.parametrize("boxes", [(OBJECTS[:0],), (OBJECTS[:0], OBJECTS[:0])], ids=["one photo", "two"])
def test_no_objects_give_zero_with_a_gradient_path(boxes):
    rpn = make_rpn()
    losses = losses_of(rpn, torch.randn(len(boxes), 4, 8, 8), *boxes)
    sum(losses.values()).backward()
    weight = rpn.rpn_head.objectness_logits.weight
    assert losses["loss_rpn_cls"] == 0 and weight.grad is not None and not weight.grad.any()


def test_gradient():
    rpn = make_rpn().double()
    anchors = rpn.anchor_generator([torch.zeros(1, 4, 8, 8)])
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets(OBJECTS))
    deltas = torch.zeros(1, len(anchors[0]), 4, dtype=torch.double)
    logits = torch.randn(1, len(anchors[0]), dtype=torch.double, requires_grad=True)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return rpn.losses(anchors, [logits], labels, [deltas], boxes)["loss_rpn_cls"]

    assert torch.autograd.gradcheck(loss, (logits,))


def test_an_object_without_a_box_is_not_held_against_it():
    """Where an anchor lies on no box, nothing is said: its logit has no gradient. The classifier's has one."""
    features = torch.randn(1, 4, 8, 8)

    def touched(rpn: RPN) -> torch.Tensor:
        anchors = rpn.anchor_generator([features])
        labels, boxes = rpn.label_and_sample_anchors(anchors, targets(OBJECTS[:1]))
        logits = torch.zeros(1, len(anchors[0]), requires_grad=True)
        rpn.losses(anchors, [logits], labels, [torch.zeros(1, len(anchors[0]), 4)], boxes)["loss_rpn_cls"].backward()
        return (logits.grad[0] != 0) & (pairwise_iou(Boxes(OBJECTS[:1]), Boxes(anchors[0].tensor))[0] < 0.1)

    standard = Matcher(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True)
    assert not touched(make_rpn()).any()
    assert touched(make_rpn(RPN, anchor_matcher=standard, positive_fraction=0.5)).any()


def test_it_learns_where_objects_are():
    rpn = make_rpn()
    features = torch.zeros(1, 4, 8, 8)
    features[0, 0, 1:5, 1:5] = 1  # where the first object is
    features[0, 1, 3, 3] = 1  # its center
    optimizer = torch.optim.Adam(rpn.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        sum(losses_of(rpn, features, OBJECTS[:1]).values()).backward()
        optimizer.step()
    rpn.eval()
    proposals = rpn(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), {"p3": features})[0][0]
    assert pairwise_iou(Boxes(OBJECTS[:1]), Boxes(proposals.proposal_boxes.tensor[:1])) > 0.7
