"""Box losses and decoding against detectron2's own predictor with a plain linear layer."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ovdet.modeling.box_predictor import BACKGROUND, FederatedBoxPredictor, OpenVocabBoxPredictor

OPTIONS = dict(test_score_thresh=0.05, test_nms_thresh=0.5, test_topk_per_image=10)


@pytest.fixture
def pair(make_unit_rows):
    """Ours, and detectron2's with the very same linear maps: cosine logits are linear in unit embeddings."""
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    ours = OpenVocabBoxPredictor(
        ShapeSpec(channels=16), width=16, temperature=0.1, box2box_transform=transform, **OPTIONS
    )
    theirs = FastRCNNOutputLayers(
        ShapeSpec(channels=16), box2box_transform=transform, num_classes=5, cls_agnostic_bbox_reg=True, **OPTIONS
    )
    ours.projection.linear.weight.data = torch.eye(16)
    torch.nn.init.normal_(ours.bbox_pred.weight, std=0.1)
    theirs.bbox_pred.load_state_dict(ours.bbox_pred.state_dict())
    background = torch.nn.functional.normalize(ours.classifier.background.data, dim=0)
    theirs.cls_score.weight.data = torch.cat([make_unit_rows(5), background[None]]) / 0.1
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
    ours, theirs = (losses_of(predictor, features, proposals, make_unit_rows(5)) for predictor in pair)
    assert set(ours) == {"loss_cls", "loss_box_reg"}
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], atol=1e-5), key


def test_one_predictor_for_any_number_of_classes(pair, make_unit_rows):
    """The background is not one of them, whatever their number."""
    features, proposals = make_unit_rows(6, seed=2), for_ours(make_proposals())
    box_losses = []
    for number in (5, 1203, 5, 6):
        losses = losses_of(pair[0], features, proposals, make_unit_rows(number))
        logits = pair[0](features, make_unit_rows(number))[0]
        labels = torch.tensor([0, 4, number, 2, number, 1])
        torch.testing.assert_close(losses["loss_cls"], torch.nn.functional.cross_entropy(logits, labels))
        box_losses.append(losses["loss_box_reg"])
    assert torch.equal(torch.stack(box_losses), box_losses[0].expand(4))


def test_detections_equal_detectron2s(pair, make_unit_rows):
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    (ours,), (theirs,) = (
        predictor.inference(answer(predictor, features, make_unit_rows(5)), proposals)[0] for predictor in pair
    )
    assert len(ours) == len(theirs) > 0
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.allclose(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-4)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_no_regions(pair, make_unit_rows):
    features, proposals = torch.zeros(0, 16, requires_grad=True), make_proposals(0)
    losses = losses_of(pair[0], features, proposals, make_unit_rows(5))
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()


def test_gradient_reaches_the_features(pair, make_unit_rows):
    features = make_unit_rows(6, seed=2).requires_grad_()
    sum(losses_of(pair[0], features, make_proposals(), make_unit_rows(5)).values()).backward()
    assert features.grad.abs().sum() > 0


def for_ours(proposals: list[Instances]) -> list[Instances]:
    """The same with our label of the background, for which detectron2 has the number of classes."""
    (instances,) = copy.deepcopy(proposals)
    instances.gt_classes[instances.gt_classes == 5] = BACKGROUND
    return [instances]


def answer(predictor, features, classes) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and box deltas; detectron2's predictor has its classes within."""
    return predictor(features, classes) if isinstance(predictor, OpenVocabBoxPredictor) else predictor(features)


def losses_of(predictor, features, proposals, classes) -> dict[str, torch.Tensor]:
    proposals = for_ours(proposals) if isinstance(predictor, OpenVocabBoxPredictor) else proposals
    with EventStorage(0):
        return predictor.losses(answer(predictor, features, classes), proposals)


WEIGHTS = torch.tensor([4.0, 9.0, 1.0, 25.0, 16.0])


def make_federated_pair(make_unit_rows, loss_classes: int, novel: int = 0):
    """Ours, and detectron2's federated predictor with the same linear maps and `novel` more columns of weight 0."""
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    ours = FederatedBoxPredictor(
        ShapeSpec(channels=16), width=16, temperature=0.1, prior=0.1, box2box_transform=transform,
        class_weights=lambda: WEIGHTS, loss_classes=loss_classes, **OPTIONS,
    )  # fmt: skip
    theirs = FastRCNNOutputLayers(
        ShapeSpec(channels=16), box2box_transform=transform, num_classes=5 + novel, cls_agnostic_bbox_reg=True,
        use_sigmoid_ce=True, use_fed_loss=True, fed_loss_num_classes=loss_classes,
        get_fed_loss_cls_weights=lambda: torch.cat([WEIGHTS, torch.zeros(novel)]), **OPTIONS,
    )  # fmt: skip
    ours.projection.linear.weight.data = torch.eye(16)
    torch.nn.init.normal_(ours.bbox_pred.weight, std=0.1)
    theirs.bbox_pred.load_state_dict(ours.bbox_pred.state_dict())
    columns = torch.cat([make_unit_rows(5), make_unit_rows(novel + 1, seed=9)]) / 0.1
    theirs.cls_score.weight.data, theirs.cls_score.bias.data[:-1] = columns, ours.classifier.bias.data
    return ours, theirs


def losses_and_gradient(predictor, features, proposals, classes):
    features = features.clone().requires_grad_()
    torch.manual_seed(5)  # the draw of absent classes
    losses = losses_of(predictor, torch.nn.functional.normalize(features, dim=1), proposals, classes)
    sum(losses.values()).backward()
    return losses, features.grad


@pytest.mark.parametrize("loss_classes", [1, 4, 5])
def test_federated_loss_equals_detectron2s(make_unit_rows, loss_classes):
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    ours, theirs = make_federated_pair(make_unit_rows, loss_classes)
    came, gradient = losses_and_gradient(ours, features, proposals, make_unit_rows(5))
    expected, their_gradient = losses_and_gradient(theirs, features, proposals, make_unit_rows(5))
    for key in came:
        assert torch.allclose(came[key], expected[key], atol=1e-5), key
    assert torch.allclose(gradient, their_gradient, atol=1e-4) and gradient.abs().sum() > 0
    assert torch.allclose(ours.classifier.bias.grad, theirs.cls_score.bias.grad.sum(), atol=1e-5)


def test_without_novel_columns_the_loss_is_that_of_novel_columns_of_weight_0(make_unit_rows):
    """Detic's variant: all columns stay, those of novel classes are never drawn."""
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    ours, theirs = make_federated_pair(make_unit_rows, loss_classes=5, novel=3)
    proposals[0].gt_classes = torch.tensor([0, 1, 2, 3, 4, 5])  # all base classes count, whatever is drawn
    came, _ = losses_and_gradient(ours, features, proposals, make_unit_rows(5))
    proposals[0].gt_classes[-1] = 8  # the background among 5 + 3
    expected, _ = losses_and_gradient(theirs, features, proposals, make_unit_rows(5))
    assert torch.allclose(came["loss_cls"], expected["loss_cls"], atol=1e-5)


def test_federated_detections_equal_detectron2s(make_unit_rows):
    features, proposals = make_unit_rows(6, seed=2), make_proposals()
    (ours,), (theirs,) = (
        predictor.inference(answer(predictor, features, make_unit_rows(5)), proposals)[0]
        for predictor in make_federated_pair(make_unit_rows, 4)
    )
    assert len(ours) == len(theirs) > 0 and torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-5)


def test_federated_without_regions(make_unit_rows):
    predictor, _ = make_federated_pair(make_unit_rows, 4)
    losses = losses_of(predictor, torch.zeros(0, 16), make_proposals(0), make_unit_rows(5))
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in predictor.parameters())


def test_weights_are_asked_for_in_training_alone_and_must_fit(make_unit_rows):
    asked = []
    predictor = FederatedBoxPredictor(
        ShapeSpec(channels=16), width=16, box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        class_weights=lambda: asked.append(1) or WEIGHTS, **OPTIONS,
    )  # fmt: skip
    predictor.inference(predictor(make_unit_rows(6, seed=2), make_unit_rows(4)), make_proposals())
    assert not asked and not [key for key in predictor.state_dict() if "fed_loss" in key]
    with pytest.raises(ValueError, match="got 5 for 4 classes"):
        losses_of(predictor, make_unit_rows(2, seed=2), make_proposals(2), make_unit_rows(4))
