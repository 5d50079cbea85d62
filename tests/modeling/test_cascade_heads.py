"""The cascade beside detectron2's own, and a small detector as Detic is built: heat maps, cascade, masks."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from configs.common.components import cascade, centernet_proposals
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.box_predictor import BACKGROUND, FederatedBoxPredictor
from ovdet.modeling.box_regressors import TwoLayerBoxRegressor
from ovdet.modeling.cascade_heads import match_to_targets
from ovdet.modeling.iou_head import IoUHead
from ovdet.modeling.score_fusion import TextScores
from ovdet.modeling.scoring import MAX_DENSE_ROWS
from ovdet.modeling.text_classifier import MeanSigmoidBranch, SigmoidBranch

WIDTH = 16


def like_detic(model):
    """The lite model with CenterNet's proposals and a cascade of three heads."""
    model.roi_heads.box_predictor = L(FederatedBoxPredictor)(
        input_shape=L(ShapeSpec)(channels=32),
        width=WIDTH,
        class_weights=lambda: torch.ones(4),
        loss_classes=4,
        box_regressor=L(TwoLayerBoxRegressor)(in_features=32),
        box2box_transform=L(Box2BoxTransform)(weights=[10, 10, 5, 5]),
        test_score_thresh=1e-4,
        test_topk_per_image=20,
    )
    model = centernet_proposals(cascade(model), in_features=["p3", "p4", "p5"], strides=[8, 16, 32])
    model.proposal_generator.post_nms_topk = [60, 30]
    return model


@pytest.fixture
def detector(build):
    model = build(like_detic)
    for _, predictor in model.roi_heads.stages:
        torch.nn.init.normal_(predictor.projection.linear.weight, std=1.0)
        torch.nn.init.normal_(predictor.bbox_pred[2].weight, std=0.1)
    return model


def test_stages_are_stricter_one_after_the_other(detector):
    heads = detector.roi_heads
    weights = [tuple(predictor.box2box_transform.weights) for _, predictor in heads.stages]
    assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert [matcher.thresholds[1] for matcher in (heads.proposal_matcher, *heads.later_matchers)] == [0.6, 0.7, 0.8]
    assert detector.proposal_generator.sizes == ((0, 80), (64, 160), (128, 10_000))


@pytest.fixture
def classes(make_unit_rows):
    return ClassEmbeddings.of(make_unit_rows(4), ["a", "b", "c", "d"])


class TheirPredictor(torch.nn.Module):
    """One of ours behind the interface that detectron2's cascade calls."""

    def __init__(self, ours, rows):
        super().__init__()
        self.ours, self.rows = ours, rows
        self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image = 1e-4, 0.5, 20

    def forward(self, features):
        return self.ours(features, self.rows)

    def predict_boxes(self, predictions, proposals):
        return self.ours.predict_boxes(predictions, proposals)

    def predict_probs(self, predictions, proposals):
        return predictions[0].sigmoid().split([len(p) for p in proposals])


def test_the_same_as_detectron2s_cascade(detector, classes, make_inputs):
    """Without the proposals' scores, which that one does not look at."""
    model = detector.eval()
    heads = model.roi_heads
    heads.score_fusion = TextScores()
    theirs = CascadeROIHeads(
        box_in_features=heads.box_in_features,
        box_pooler=heads.box_pooler,
        box_heads=[head for head, _ in heads.stages],
        box_predictors=[TheirPredictor(predictor, classes.embeddings) for _, predictor in heads.stages],
        proposal_matchers=[heads.proposal_matcher, *heads.later_matchers],
        num_classes=4,
        batch_size_per_image=16,
        positive_fraction=0.25,
    ).eval()
    images = model.preprocess_image(make_inputs(2))
    with torch.no_grad():
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features)
        expected, _ = theirs(images, features, proposals)
        found, _ = heads(images, features, proposals, classes=classes)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) >= 3 and torch.equal(one.pred_classes, other.pred_classes)
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
        assert torch.allclose(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3)


def test_many_names_are_found_in_chunks(detector, make_inputs, make_unit_rows):
    names = ClassEmbeddings.of(make_unit_rows(300), [str(k) for k in range(300)])
    outputs = []
    for most in (MAX_DENSE_ROWS, 10):
        detector.roi_heads.max_dense_rows = most
        outputs.append(detector.eval()(make_inputs(1), classes=names)[0]["instances"])
    dense, chunked = outputs
    assert len(dense) >= 3 and torch.equal(dense.pred_classes, chunked.pred_classes)
    assert torch.allclose(dense.scores, chunked.scores, atol=1e-5)


@pytest.mark.parametrize("boxes", [2, 0])
def test_all_of_it_learns(detector, classes, make_inputs, boxes):
    model = detector.train()
    with EventStorage():
        losses = model(make_inputs(2, boxes), classes=classes)
    expected = {f"loss_{what}_stage{stage}" for what in ("cls", "box_reg") for stage in range(3)}
    assert losses.keys() == expected | {"loss_heatmap_pos", "loss_heatmap_neg", "loss_center_box"}
    assert all(loss.isfinite() and loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for part in (model.proposal_generator, model.roi_heads):
        for key, value in part.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all(), key
    assert model.roi_heads.earlier_heads[0].fc1.weight.grad.abs().sum() > 0


def test_no_proposals(detector, classes, make_inputs):
    model = detector.eval()
    model.proposal_generator.score_threshold = 1.0
    (found,) = model(make_inputs(1), classes=classes)
    assert len(found["instances"]) == 0


def test_stages_match_what_they_see():
    matcher = Matcher([0.6], [0, 1], allow_low_quality_matches=False)
    proposals, targets = Instances((100, 100)), Instances((100, 100))
    boxes = [[0.0, 0, 50, 50], [0, 0, 30, 50], [60, 60, 60, 90], [50, 50, 90, 90]]
    proposals.proposal_boxes = Boxes(torch.tensor(boxes))
    proposals.objectness_logits = torch.arange(4.0)
    targets.gt_boxes = Boxes(torch.tensor([[0.0, 0, 48, 50], [52, 52, 90, 90]]))
    targets.gt_classes = torch.tensor([7, 3])
    found = match_to_targets(proposals, targets, matcher)
    assert found.objectness_logits.tolist() == [0, 1, 3]  # one has no area
    overlaps = pairwise_iou(targets.gt_boxes, found.proposal_boxes)
    assert found.gt_classes.tolist() == [7, 7 if overlaps[0, 1] >= 0.6 else BACKGROUND, 3]
    empty = match_to_targets(proposals, targets[:0], matcher)
    assert empty.gt_classes.tolist() == [BACKGROUND] * 3 and empty.gt_boxes.tensor.shape == (3, 4)


def test_scores_are_the_mean_of_sigmoids(make_unit_rows):
    queries = [make_unit_rows(5, seed=seed) / 0.1 for seed in range(3)]
    biases = [torch.tensor(bias) for bias in (-1.0, 0.0, 2.0)]
    branch = MeanSigmoidBranch([SigmoidBranch(q, bias=b) for q, b in zip(queries, biases, strict=True)])
    rows = make_unit_rows(6, seed=9)
    expected = sum((q @ rows.T + b).sigmoid() for q, b in zip(queries, biases, strict=True)) / 3
    found, log_partition = branch.log_probabilities(rows)
    assert torch.allclose(found.exp(), expected, atol=1e-6) and not log_partition.any()


@pytest.mark.parametrize("fault", ["a teacher", "too few", "softmax"])
def test_what_is_no_cascade(build, fault):
    def change(model):
        heads = like_detic(model).roi_heads
        if fault == "a teacher":
            heads.iou_head = L(IoUHead)(in_features=32)
        elif fault == "too few":
            heads.later_matchers = heads.later_matchers[:1]
        else:
            heads.earlier_predictors[0]._target_ = "ovdet.modeling.box_predictor.OpenVocabBoxPredictor"
            for key in ("class_weights", "loss_classes"):
                del heads.earlier_predictors[0][key]
        return model

    expected = {"a teacher": "iou_head", "too few": "[2, 2, 1]", "softmax": "softmax"}
    with pytest.raises(InputError) as error:
        build(change)
    assert expected[fault] in str(error.value)
