"""Box losses and decoding against detectron2's own predictor with a plain linear layer."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ovdet.modeling import OpenVocabBoxPredictor

OPTIONS = dict(test_score_thresh=0.05, test_nms_thresh=0.5, test_topk_per_image=10)


@pytest.fixture
def pair(make_unit_rows):
    """Ours, and detectron2's with the very same linear maps: cosine logits are linear in unit embeddings."""
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    ours = OpenVocabBoxPredictor(
        ShapeSpec(channels=16), width=16, temperature=0.1, box2box_transform=transform, **OPTIONS
    )
    ours.set_vocabulary(make_unit_rows(5))
    theirs = FastRCNNOutputLayers(
        ShapeSpec(channels=16), box2box_transform=transform, num_classes=5, cls_agnostic_bbox_reg=True, **OPTIONS
    )
    ours.projection.linear.weight.data = torch.eye(16)
    torch.nn.init.normal_(ours.bbox_pred.weight, std=0.1)
    theirs.bbox_pred.load_state_dict(ours.bbox_pred.state_dict())
    background = torch.nn.functional.normalize(ours.classifier.background.data, dim=0)
    theirs.cls_score.weight.data = torch.cat([ours.classifier.class_embeddings, background[None]]) / 0.1
    return ours, theirs


def make_proposals(number: int = 6) -> list[Instances]:
    instances = Instances((100, 120))
    corners = torch.rand(number, 2, generator=torch.Generator().manual_seed(3)) * 60
    instances.proposal_boxes = Boxes(torch.cat([corners, corners + 30], dim=1))
    instances.gt_boxes = Boxes(torch.cat([corners + 2, corners + 33], dim=1))
    instances.gt_classes = torch.tensor([0, 4, 5, 2, 5, 1])[:number]
    return [instances]


def test_losses_equal_detectron2s(pair, make_unit_rows):
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    with EventStorage(0):
        ours, theirs = (predictor.losses(predictor(features), proposals) for predictor in pair)
    assert set(ours) == {"loss_cls", "loss_box_reg"}
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], atol=1e-5), key


def test_detections_equal_detectron2s(pair, make_unit_rows):
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    (ours,), (theirs,) = (predictor.inference(predictor(features), proposals)[0] for predictor in pair)
    assert len(ours) == len(theirs) > 0
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.allclose(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-4)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_no_regions(pair):
    features, proposals = torch.zeros(0, 16, requires_grad=True), make_proposals(0)
    with EventStorage(0):
        losses = pair[0].losses(pair[0](features), proposals)
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()


def test_gradient_reaches_the_features(pair, make_unit_rows):
    features = make_unit_rows(6, seed=2).requires_grad_()
    with EventStorage(0):
        sum(pair[0].losses(pair[0](features), make_proposals()).values()).backward()
    assert features.grad.abs().sum() > 0
