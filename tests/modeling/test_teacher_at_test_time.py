"""The teacher at test time: each detection scores as its own box does, and boxes are asked about as they are seen."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from configs.common import methods
from configs.common.components import iou_head
from ovdet.class_embeddings import ClassEmbeddings

SIZE = (64, 96)  # height, width
NAMES = 16  # as many as the width of the space: a name for each direction
IS_BASE = torch.arange(NAMES) % 2 == 0
CLASSES = ClassEmbeddings.of(torch.eye(NAMES), [str(number) for number in range(NAMES)], IS_BASE)


def embed_places(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The name by the box's center, and some of the next name by its height."""
    first = (boxes[:, 0] + boxes[:, 2]).mul(NAMES / 2 / SIZE[1]).long().clamp(0, NAMES - 1)
    second = 0.9 * (boxes[:, 3] - boxes[:, 1]) / SIZE[0]
    names = torch.eye(NAMES)
    return F.normalize(names[first] + second[:, None] * names[(first + 1) % NAMES], dim=1)


@pytest.fixture(params=["rcnn_style", "vild_text_teacher"])
def method(request):
    return request.param


@pytest.fixture
def detector(method, build):
    """A detector that asks `embed_places`; what its teacher and its text branch were asked and said."""
    seen = SimpleNamespace()

    def change(node):
        node = getattr(methods, method)(iou_head(node))
        node.roi_heads.region_teacher.embed_regions = embed_places
        node.roi_heads.image_temperature = 0.05
        return node

    model = build(change).eval()
    heads = model.roi_heads
    torch.nn.init.normal_(heads.iou_head.linear.weight)  # the order of proposals is not that of their objectness
    torch.nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.05)
    heads.box_predictor.test_topk_per_image = 200
    ask = heads.region_teacher

    def spy_text(module, inputs, embeddings):
        seen.text = embeddings

    def spy(photo, boxes, objectness_logits, image_size):
        seen.boxes, seen.logits = boxes, objectness_logits
        seen.keep, seen.embeddings = ask(photo, boxes, objectness_logits, image_size)
        return seen.keep, seen.embeddings

    heads.box_predictor.projection.register_forward_hook(spy_text)
    heads.region_teacher = spy
    return model, seen


@torch.no_grad()
def test_each_detection_scores_as_its_own_box(method, detector, make_inputs):
    model, seen = detector
    (found,) = model.inference(make_inputs(1, height=SIZE[0], width=SIZE[1]), classes=CLASSES, do_postprocess=False)
    assert not torch.equal(seen.keep, seen.keep.sort().values)
    boxes, classes = found.pred_boxes.tensor, found.pred_classes
    same = (boxes[:, None] == seen.boxes).all(2)  # (detections, regions)
    assert len(boxes) > 20 and (same.sum(1) == 1).all()
    region = same.int().argmax(1)
    image = (embed_places(None, boxes) / 0.05).softmax(1).gather(1, classes[:, None])[:, 0]
    if method == "rcnn_style":
        expected = (image * seen.logits[region].sigmoid()) ** 0.5
    else:
        text = (
            model.roi_heads.box_predictor.classifier(seen.text[region], CLASSES.embeddings)
            .softmax(1)
            .gather(1, classes[:, None])[:, 0]
        )
        share = torch.where(IS_BASE, 2 / 3, 1 / 3)[classes]
        expected = text**share * image ** (1 - share)
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_boxes_that_are_one_within_the_photo_are_asked_about_once(detector, make_inputs):
    model, seen = detector
    heads = model.roi_heads
    torch.nn.init.zeros_(heads.box_predictor.bbox_pred.weight)  # boxes stay as they are proposed
    (inputs,) = make_inputs(1, height=SIZE[0], width=SIZE[1])
    proposals = Instances(SIZE)
    proposals.proposal_boxes = Boxes(
        torch.tensor([[-20.0, -20, 40, 40], [-60, 0, 40, 40], [0, -50, 40, 40], [50, 20, 90, 60]])
    )
    proposals.objectness_logits = torch.zeros(4)
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    heads(None, features, [proposals], classes=CLASSES, photos=[inputs["image"]])
    asked = seen.boxes[seen.keep]
    assert sorted(asked.tolist()) == [[0, 0, 40, 40], [50, 20, 90, 60]] and len(seen.embeddings) == 2
