"""Learning from photos of which only the classes are known: losses against plain NumPy, what each photo counts in."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from configs.common.components import cascade
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.modeling.box_predictor import FederatedBoxPredictor
from ovdet.modeling.image_labels import (
    ImageLabelRCNN,
    largest_proposal,
    sigmoid_loss,
    softmax_loss,
    stage_logits,
)
from ovdet.modeling.region_embedding import refine


def random_case(num_photos=7, num_classes=9):
    """Logits (N, K + 1), labels and counts (N, K): one to three labels each, which count."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (num_photos, num_classes + 1))
    labels = np.zeros((num_photos, num_classes), dtype=bool)
    for row in labels:
        row[rng.permutation(num_classes)[: rng.integers(1, 4)]] = True
    return logits, labels, labels | (rng.random(labels.shape) < 0.6)


def numpy_sigmoid_loss(logits, labels, counts):
    total = 0.0
    for z, own, counted in zip(logits[:, :-1], labels, counts, strict=True):
        p = 1 / (1 + np.exp(-z))
        total += sum(-np.log(p[k] if own[k] else 1 - p[k]) for k in np.flatnonzero(counted))
    return total / len(logits)


def numpy_softmax_loss(logits, labels, counts):
    total = 0.0
    for z, own, counted in zip(logits, labels, counts, strict=True):
        others = [k for k in np.flatnonzero(counted) if not own[k]] + [len(own)]
        each = [-np.log(np.exp(z[k]) / (np.exp(z[k]) + np.exp(z[others]).sum())) for k in np.flatnonzero(own)]
        total += np.mean(each)
    return total / len(logits)


@pytest.mark.parametrize(("loss", "expected"), [(sigmoid_loss, numpy_sigmoid_loss), (softmax_loss, numpy_softmax_loss)])
def test_losses_against_numpy(loss, expected):
    logits, labels, counts = random_case()
    given = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    given32, labels_, counts_ = given.float(), torch.tensor(labels), torch.tensor(counts)
    assert loss(given32, labels_, counts_).item() == pytest.approx(expected(logits, labels, counts), rel=1e-5)
    gradient = torch.autograd.grad(loss(given, labels_, counts_), given)[0]
    for place in ((0, 0), (3, 4), (6, 9)):
        moved = logits.copy()
        moved[place] += 1e-5
        slope = (expected(moved, labels, counts) - expected(logits, labels, counts)) / 1e-5
        assert gradient[place].item() == pytest.approx(slope, abs=1e-4)
    empty = torch.zeros(0, 10, requires_grad=True)
    nothing = loss(empty, torch.zeros(0, 9, dtype=torch.bool), torch.zeros(0, 9, dtype=torch.bool))
    assert nothing.item() == 0 and nothing.requires_grad


def proposals_of(boxes, scores, size=(100, 120)):
    found = Instances(size)
    found.proposal_boxes, found.objectness_logits = Boxes(torch.tensor(boxes).reshape(-1, 4)), torch.tensor(scores)
    return found


def test_the_largest_of_the_best_proposals():
    boxes = [[0.0, 0, 10, 10], [5, 5, 50, 60], [0, 0, 110, 90], [-300, 0, 20, 20]]
    scores = [3.0, 2.0, 1.0, 4.0]
    assert largest_proposal(proposals_of(boxes, scores), 128).proposal_boxes.tensor.tolist() == [boxes[2]]
    assert largest_proposal(proposals_of(boxes, scores), 3).proposal_boxes.tensor.tolist() == [boxes[1]]  # clipped ones
    whole = largest_proposal(proposals_of(torch.zeros(0, 4).tolist(), torch.zeros(0).tolist()), 128)
    assert whole.proposal_boxes.tensor.tolist() == [[0, 0, 120, 100]]


@pytest.fixture
def detector(build_tiny):
    def change(model):
        model._target_ = ImageLabelRCNN
        model.labels, model.image_label_weight = L(copy.copy)(x=spoken), 0.5
        return model

    spoken = lambda: (torch.tensor([[True, True, False], [True, False, True]]),)  # noqa: E731
    return build_tiny(change).train()


def photo(seed, **more):
    pixels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    instances = Instances((64, 96))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[8.0, 8, 50, 50]])), torch.tensor([1])
    if more:
        instances = instances[torch.zeros(0, dtype=torch.long)]
    return {"image": pixels, "height": 64, "width": 96, "instances": instances, **more}


def test_each_photo_counts_where_it_should(detector):
    width = detector.roi_heads.box_predictor.classifier.width
    classes = ClassEmbeddings.of(torch.randn(3, width), ["cat", "dog", "bird"])
    labeled = photo(2, image_labels=torch.tensor([2]), set_index=1)

    def losses(*photos):
        torch.manual_seed(3)
        with EventStorage():
            return detector(list(photos), classes=classes)

    boxes, labels, both = losses(photo(1)), losses(labeled), losses(photo(1), labeled)
    assert boxes.keys() == labels.keys() == both.keys() >= {"loss_image_labels", "loss_cls", "loss_rpn_cls"}
    for key in boxes:
        expected = labels if key == "loss_image_labels" else boxes
        assert both[key].item() == pytest.approx(expected[key].item(), rel=1e-4), key
    assert boxes["loss_image_labels"] == 0 and boxes["loss_image_labels"].requires_grad
    assert all(loss == 0 and loss.requires_grad for key, loss in labels.items() if key != "loss_image_labels")
    labels["loss_image_labels"].backward()
    touched = {name.split(".")[0] for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"backbone", "roi_heads"}
    # by hand: the largest proposal's logits, class 1 masked
    images = detector.preprocess_image([labeled])
    features = detector.backbone(images.tensor)
    detector.proposal_generator.eval()
    proposals, _ = detector.proposal_generator(images, features)
    region = largest_proposal(proposals[0], 128)
    (logits,) = stage_logits(detector.roi_heads, features, [region], classes)
    z = logits[0].double()
    expected = 0.5 * -torch.log_softmax(z[[0, 2, 3]], 0)[1]
    assert labels["loss_image_labels"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_no_ground_truth_reaches_proposals(detector):
    assert detector.proposal_generator.training
    losses = None
    with EventStorage():
        width = detector.roi_heads.box_predictor.classifier.width
        classes = ClassEmbeddings.of(torch.randn(3, width), ["cat", "dog", "bird"])
        losses = detector([photo(4, image_labels=torch.tensor([0, 2]), set_index=0)], classes=classes)
    assert torch.isfinite(losses["loss_image_labels"]) and detector.proposal_generator.training
    found = detector.eval()([photo(1)], classes=classes)
    assert found[0]["instances"].has("scores")


def test_stages_of_a_cascade(build_tiny):
    """Each stage looks where the one before moved the region, as at test time."""

    def change(model):
        return cascade(federated_scores(model))

    heads = build_tiny(change).roi_heads
    assert len(heads.stages) == 3
    features = {name: torch.randn(2, 16, 8, 12) for name in ("p4", "p5")}
    regions = [largest_proposal(proposals_of([[8.0, 8, 90, 80]], [1.0]), 9) for _ in range(2)]
    width = heads.box_predictor.classifier.width
    classes = ClassEmbeddings.of(torch.randn(3, width), ["cat", "dog", "bird"])
    with torch.no_grad():
        _, _, text, _ = refine(heads, features, regions)
        found = stage_logits(heads, features, regions, classes)
    for part, (_, predictor), logits in zip(text.split(width, dim=1), heads.stages, found, strict=True):
        torch.testing.assert_close(predictor.classifier(part, classes.embeddings), logits)


def federated_scores(model):
    """Sigmoid scores in the tiny detector."""
    predictor = model.roi_heads.box_predictor
    predictor._target_ = FederatedBoxPredictor
    predictor.update(class_weights=None, loss_classes=4, temperature=0.02, prior=0.01)
    return model
