"""The whole detector, each method of ViLD: losses, gradients, any K, checkpoints, the teacher on crops."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import box_iou

from configs.common.components import iou_head
from ovdet.errors import InputError
from ovdet.modeling.nms import nms_class_agnostic
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions


@pytest.fixture(scope="module")
def methods():
    """configs/common/methods.py."""
    path = Path(__file__).parents[2] / "configs/common/methods.py"
    spec = importlib.util.spec_from_file_location("ovdet_config_methods", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mean_color(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """A teacher of 16 dimensions: a fixed map of box geometry and color, unit norm."""
    color = photo.float().mean(dim=(1, 2)) / 255
    code = torch.cat([boxes / 100, color.expand(len(boxes), 3), torch.ones(len(boxes), 9)], dim=1)
    return torch.nn.functional.normalize(code, dim=1)


def step(model, inputs) -> dict[str, torch.Tensor]:
    model.train()
    with EventStorage(0):
        losses = model(inputs)
    sum(losses.values()).backward()
    return losses


def with_online(model):
    model.region_source = L(OnlineRegions)(embed_crops=mean_color, max_regions=6)
    return model


def stored(model):
    model.region_source = L(StoredRegions)()
    return model


def with_crops(model, embed_crops=mean_color):
    if "region_teacher" in model.roi_heads:
        model.roi_heads.region_teacher.embed_regions = embed_crops
    return model


def with_online_if_distilled(model):
    return with_online(model) if model.roi_heads.get("distillation") is not None else model


BASE_LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


@pytest.mark.parametrize("method", ["vild", "vild_image", "vild_ensemble"])
def test_distilling_methods_train(methods, build, make_inputs, make_unit_rows, method):
    model = build(lambda node: with_online(getattr(methods, method)(node)))
    model.set_vocabulary(("a", "b", "c"), make_unit_rows(3))
    losses = step(model, make_inputs())
    assert set(losses) == BASE_LOSSES | {"loss_distill"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_distill"] > 0
    assert (losses["loss_cls"] == 0) == (method == "vild_image")
    distilled = model.roi_heads.image_branch or model.roi_heads.box_predictor
    assert distilled.projection.linear.weight.grad.abs().sum() > 0


def test_text_alone_trains_without_a_teacher(build, make_inputs, make_unit_rows):
    model = build()
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    assert set(step(model, make_inputs())) == BASE_LOSSES


@pytest.mark.parametrize("method", ["vild_text_teacher", "vild"])
def test_no_proposals_and_boxes_that_are_no_numbers(methods, build, make_inputs, make_unit_rows, method):
    """Features beyond the range of float16, say: what has no number is left out, be it all."""

    def refuse(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        assert torch.isfinite(boxes).all()
        return mean_color(photo, boxes)

    model = build(lambda node: with_crops(with_online_if_distilled(getattr(methods, method)(node)), refuse)).eval()
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    model.roi_heads.box_predictor.test_score_thresh = -1.0
    assert len(model(make_inputs(1))[0]["instances"]) > 0
    model.roi_heads.box_predictor.bbox_pred.bias.data[0] = torch.nan
    assert len(model(make_inputs(1))[0]["instances"]) == 0
    model.proposal_generator.min_box_size = 1e6
    assert len(model(make_inputs(1))[0]["instances"]) == 0


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_the_online_teacher_sees_rgb(methods, build, make_inputs, make_unit_rows, input_format):
    seen = []

    def look(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        seen.append(photo)
        return mean_color(photo, boxes)

    def change(node):
        node = methods.vild(node)
        node.region_source, node.input_format = L(OnlineRegions)(embed_crops=look, max_regions=4), input_format
        return node

    model = build(change)
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    (inputs,) = make_inputs(1)
    step(model, [inputs])
    expected = inputs["image"] if input_format == "RGB" else inputs["image"].flip(0)
    assert torch.equal(seen[0], expected) and not torch.equal(expected[0], expected[2])


def test_the_image_side_has_a_temperature_of_its_own(methods, build, make_unit_rows):
    def change(node):
        node.roi_heads.image_temperature = 0.07
        return methods.vild_ensemble(with_online(node))

    heads = build(change).roi_heads
    embeddings = make_unit_rows(3)
    assert torch.equal(heads._image_side(embeddings, None).queries, embeddings / 0.07)


def test_localization_quality_is_learned_and_counts_as_objectness(methods, build, make_inputs, make_unit_rows):
    def change(node):
        node = iou_head(methods.vild_ensemble(with_online(node)))
        node.roi_heads.score_fusion.objectness_exponent = 0.5
        return node

    model = build(change)
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    assert set(step(model, make_inputs())) == BASE_LOSSES | {"loss_distill", "loss_iou"}
    assert model.roi_heads.iou_head.linear.weight.grad.abs().sum() > 0
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = -1.0
    before = model(make_inputs(1))[0]["instances"].scores
    model.roi_heads.iou_head.linear.bias.data -= 5
    after = model(make_inputs(1))[0]["instances"].scores
    assert len(before) and after.max() < 0.8 * before.max()


def test_photos_without_boxes_train(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: with_online(methods.vild(node)))
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    losses = step(model, make_inputs(boxes=0))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_stored_and_online_regions_give_one_loss(methods, build, make_inputs, make_unit_rows):
    """Two providers, one interface: the same boxes and embeddings, the same distillation loss."""
    inputs = make_inputs(1)
    boxes = inputs[0]["instances"].gt_boxes.tensor
    stored = copy.deepcopy(inputs)
    stored[0]["regions"] = Instances((64, 96))
    stored[0]["regions"].proposal_boxes = Boxes(boxes)
    stored[0]["regions"].teacher_embeddings = mean_color(inputs[0]["image"], boxes)

    def use(source):
        def change(node):
            node.region_source = source
            return node

        return change

    values = []
    for source, batch in (
        (L(StoredRegions)(), stored),
        (L(OnlineRegions)(embed_crops=mean_color, max_regions=2, ground_truth_share=1.0), inputs),
    ):
        model = build(lambda node, source=source: use(source)(methods.vild(copy.deepcopy(node))))
        model.set_vocabulary(("a", "b"), make_unit_rows(2))
        values.append(step(model, batch)["loss_distill"])
    assert torch.allclose(*values, atol=1e-5)


def test_an_empty_store_entry_trains(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: stored(methods.vild(node)))
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    inputs = make_inputs(1)
    inputs[0]["regions"] = Instances((64, 96))
    inputs[0]["regions"].proposal_boxes = Boxes(torch.zeros(0, 4))
    inputs[0]["regions"].teacher_embeddings = torch.zeros(0, 16)
    assert step(model, inputs)["loss_distill"] == 0


def test_a_missing_store_is_named(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: stored(methods.vild(node)))
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    with pytest.raises(InputError, match="region_store"):
        step(model, make_inputs(1))


@pytest.mark.parametrize("method", ["vild", "vild_image", "vild_ensemble", "vild_text_teacher", "rcnn_style"])
@pytest.mark.parametrize("number", [1, 65])
def test_detections_at_any_vocabulary(methods, build, make_inputs, make_unit_rows, method, number):
    model = build(lambda node: with_online_if_distilled(with_crops(getattr(methods, method)(node))))
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.set_vocabulary([str(i) for i in range(number)], make_unit_rows(number), [i % 2 == 0 for i in range(number)])
    outputs = model.eval()(make_inputs())
    for output in outputs:
        instances = output["instances"]
        assert instances.image_size == (64, 96)
        assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)
        if len(instances):
            assert instances.pred_classes.max() < number


def test_text_detections_equal_detectron2s_own_inference(build, make_inputs, make_unit_rows):
    model = build().eval()
    model.set_vocabulary([str(i) for i in range(40)], make_unit_rows(40))
    heads, predictor = model.roi_heads, model.roi_heads.box_predictor
    predictor.test_score_thresh = 1e-3
    inputs = make_inputs()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [p.proposal_boxes for p in proposals])
        expected, _ = predictor.inference(predictor(heads.box_head(pooled)), proposals)
        found = model.inference(inputs, do_postprocess=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == 20
        assert torch.equal(ours.pred_classes, theirs.pred_classes)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["vild", "vild_image", "vild_ensemble", "vild_text_teacher", "rcnn_style"])
def test_a_vocabulary_in_chunks_gives_the_same_detections(methods, build, make_inputs, make_unit_rows, method):
    model = build(lambda node: with_online_if_distilled(with_crops(getattr(methods, method)(node)))).eval()
    model.roi_heads.box_predictor.test_score_thresh = 1e-4
    model.set_vocabulary([str(i) for i in range(1000)], make_unit_rows(1000), [i % 9 == 0 for i in range(1000)])
    dense = model(make_inputs())
    model.roi_heads.max_dense_classes = 999
    for ours, theirs in zip(model(make_inputs()), dense, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) == len(theirs) > 0
        assert torch.equal(ours.pred_classes, theirs.pred_classes)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=0)


def test_one_name_to_an_object(build, make_inputs, make_unit_rows):
    def change(node):
        node.roi_heads.suppress = nms_class_agnostic
        return node

    model = build(change).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.set_vocabulary([str(i) for i in range(40)], make_unit_rows(40))
    for output in model(make_inputs()):
        boxes = output["instances"].pred_boxes.tensor
        assert len(boxes) > 1 and (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.5


def test_regions_that_are_not_finite_are_left_out(build, make_inputs, make_unit_rows):
    model = build().eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    broken = model.roi_heads.box_predictor.projection.register_forward_hook(
        lambda module, inputs, embeddings: embeddings.index_fill(0, torch.arange(5, len(embeddings)), float("nan"))
    )
    with broken:
        first, second = (output["instances"] for output in model(make_inputs()))
    assert 0 < len(first) <= 10 and len(second) == 0


def test_crops_come_from_the_original_photo(methods, build, make_inputs, make_unit_rows):
    seen = []

    def spy(photo, boxes):
        seen.append((tuple(photo.shape), boxes.max().item()))
        return mean_color(photo, boxes)

    model = build(lambda node: with_crops(methods.rcnn_style(node), spy))
    model.set_vocabulary(("a", "b"), make_unit_rows(2))
    inputs = make_inputs(1)
    inputs[0]["image_orig"] = torch.zeros(3, 640, 960, dtype=torch.uint8)
    model.eval()(inputs)
    assert seen[0][0] == (3, 640, 960)
    assert seen[0][1] > 96  # boxes were scaled to it


def test_class_agnostic_masks(build, make_inputs, make_unit_rows):
    def change(node):
        node.roi_heads.mask_in_features = ["p3", "p4", "p5"]
        node.roi_heads.mask_pooler = L(ROIPooler)(
            output_size=14, scales=(1 / 8, 1 / 16, 1 / 32), sampling_ratio=2, pooler_type="ROIAlignV2"
        )
        node.roi_heads.mask_head = L(MaskRCNNConvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels=128, width=14, height=14), num_classes=1, conv_dims=[8, 8]
        )
        return node

    model = build(change)
    model.set_vocabulary(("a", "b", "c"), make_unit_rows(3))
    inputs = make_inputs()
    for photo in inputs:
        photo["instances"].gt_masks = BitMasks(torch.ones(2, 64, 96, dtype=torch.bool))
    assert "loss_mask" in step(model, inputs)
    empty = make_inputs(boxes=0)
    for photo in empty:
        photo["instances"].gt_masks = BitMasks(torch.zeros(0, 64, 96, dtype=torch.bool))
    assert step(model, empty)["loss_mask"] == 0
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.set_vocabulary([str(i) for i in range(20)], make_unit_rows(20))
    for output in model.eval()(make_inputs()):
        assert output["instances"].pred_masks.shape[1:] == (64, 96)


def test_checkpoint_of_48_classes_loads_at_1_65_and_1203(build, make_inputs, make_unit_rows):
    trained = build()
    trained.set_vocabulary([str(i) for i in range(48)], make_unit_rows(48))
    for number in (1, 65, 1203):
        other = build()
        other.set_vocabulary([str(i) for i in range(number)], make_unit_rows(number))
        other.load_state_dict(trained.state_dict())
        other.eval()(make_inputs(1))
        assert other.roi_heads.num_classes == number


def test_vocabulary_refusals(build, make_unit_rows):
    model = build()
    with pytest.raises(ValueError, match="3 for 2 names"):
        model.set_vocabulary(("a", "b"), make_unit_rows(3))
    with pytest.raises(ValueError, match="is_base"):
        model.set_vocabulary(("a", "b"), make_unit_rows(2), [True])


def closed(methods, names):
    def change(node):
        node = methods.closed_set(node)
        node.training_classes = list(names)
        node.roi_heads.num_classes = node.roi_heads.box_predictor.num_classes = len(names)
        return node

    return change


def test_closed_set_reports_its_classes_in_another_vocabulary(methods, build, make_inputs):
    model = build(closed(methods, ("cat", "dog")))
    assert set(step(model, make_inputs())) == BASE_LOSSES
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.set_vocabulary(("zebra", "dog", "bus"))
    outputs = model.eval()(make_inputs())
    classes = torch.cat([output["instances"].pred_classes for output in outputs])
    assert set(classes.tolist()) == {1}
    with pytest.raises(ValueError, match="2 classes"):
        step(model, make_inputs())


def test_parts_that_do_not_fit_each_other_are_refused(methods, build):
    with pytest.raises(InputError, match="region_source"):
        build(lambda node: with_online(copy.deepcopy(node)))
    with pytest.raises(InputError, match="region_source"):
        build(lambda node: methods.vild(node) if node.pop("region_source") else node)


def test_a_classifier_of_another_size_than_the_training_set(methods, build):
    def change(node):
        node = closed(methods, ("cat", "dog"))(node)
        node.training_classes = ["cat", "dog", "cow"]
        return node

    with pytest.raises(InputError, match="3 classes"):
        build(change)
