"""The whole detector, each method of ViLD: losses, gradients, any K, checkpoints, the teacher on crops."""

import copy
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.caption_pretraining import CaptionPretrainingROIHeads
from ovdet.modeling.region_sources import OnlineRegions, StoredRegions
from ovdet.modeling.roi_heads import move_boxes
from ovdet.modeling.scoring import Regions, build_scorer
from ovdet.objectives.base import LABELS, PAIRS, VIEWS, Objective
from ovdet.objectives.caption_grounding import CaptionGrounding
from ovdet.objectives.coca import CoCa
from ovdet.objectives.devise import DeViSE
from ovdet.objectives.filip import FILIP
from ovdet.objectives.info_nce import ContrastiveDistillation, ImageTextInfoNCE, RegionTextInfoNCE
from ovdet.objectives.l1_distillation import L1Distillation
from ovdet.objectives.nearest_texts import NearestTexts
from ovdet.objectives.self_supervision import SimCLR, SimSiam
from ovdet.objectives.unicl import UniCL


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


def step(model, inputs, classes) -> dict[str, torch.Tensor]:
    model.train()
    with EventStorage(0):
        losses = model(inputs, classes=classes)
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
    return with_online(model) if model.roi_heads.get("objectives") else model


SLOW = pytest.mark.slow
BASE_LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}


@pytest.mark.parametrize("method", ["vild", "vild_image", "vild_ensemble"])
def test_distilling_methods_train(methods, build, make_inputs, make_unit_rows, method):
    model = build(lambda node: with_online(getattr(methods, method)(node)))
    classes = ClassEmbeddings.of(make_unit_rows(3), ("a", "b", "c"))
    losses = step(model, make_inputs(), classes)
    assert set(losses) == BASE_LOSSES | {"loss_distill"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_distill"] > 0
    assert (losses["loss_cls"] == 0) == (method == "vild_image")
    distilled = model.roi_heads.image_branch or model.roi_heads.box_predictor
    assert distilled.projection.linear.weight.grad.abs().sum() > 0


def filip() -> FILIP:
    return FILIP(128, 16, lambda words: torch.nn.functional.normalize(torch.ones(len(words), 16), dim=1))


def coca() -> CoCa:
    return CoCa(128, 16, hidden_width=16, heads=2, num_layers=1)


LABELED = [filip, coca, DeViSE, RegionTextInfoNCE, UniCL, NearestTexts, SimCLR, partial(SimSiam, 16)]


@pytest.mark.parametrize("build_objective", [*LABELED[:2], *(pytest.param(each, marks=SLOW) for each in LABELED[2:])])
def test_objectives_on_regions_of_known_classes_train(build, make_inputs, make_unit_rows, build_objective):
    model, plain = build(), build()
    model.roi_heads.objectives.append(build_objective())
    (objective,) = model.roi_heads.objectives
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    torch.manual_seed(0)
    losses = step(model, make_inputs(), classes)
    torch.manual_seed(0)
    expected = step(plain, make_inputs(), classes)
    assert set(losses) == BASE_LOSSES | {f"loss_{objective.name}"}
    assert all(torch.equal(losses[key], expected[key]) for key in BASE_LOSSES)  # the sampled regions are the same
    gradients = {key: each.grad for key, each in model.named_parameters()}
    learned = [(each.grad, gradients[key]) for key, each in plain.named_parameters() if each.grad is not None]
    assert not all(torch.equal(*pair) for pair in learned)


def test_no_object_on_any_photo(build, make_inputs, make_unit_rows):
    model = build()
    model.roi_heads.objectives.extend([each() for each in LABELED])
    losses = step(model, make_inputs(boxes=0), ClassEmbeddings.of(make_unit_rows(2), ("a", "b")))
    assert all(losses[f"loss_{each.name}"] == 0 for each in model.roi_heads.objectives)


def test_what_objectives_see(build, make_inputs, make_unit_rows):
    """The regions that lie on an object, with its class, and in a moved box."""
    seen = []

    class Look(Objective):
        name, needs = "look", frozenset((LABELS, VIEWS))

        def loss(self, batch):
            seen.append(batch)
            return batch.embeddings.sum() * 0

    model = build()
    model.roi_heads.objectives.append(Look())
    step(model, make_inputs(), ClassEmbeddings.of(make_unit_rows(2), ("a", "b")))
    (batch,) = seen
    assert 4 <= len(batch.embeddings) <= 2 * 16 and batch.teacher is None  # each photo's two boxes at least
    assert set(batch.labels.tolist()) == {0, 1} and len(batch.labels) == len(batch.embeddings)
    assert batch.views.shape == batch.embeddings.shape and not torch.equal(batch.views, batch.embeddings)


def test_captions_are_grounded_in_all_sampled_regions(build, make_inputs, make_unit_rows):
    model, classes = build(), ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    model.roi_heads.objectives.append(CaptionGrounding())
    inputs = [{**each, "caption_words": make_unit_rows(3 + i, seed=i)} for i, each in enumerate(make_inputs())]
    assert step(model, inputs, classes)["loss_captions"] > 0
    with pytest.raises(InputError, match="expected the mapper to give 'caption_words'"):
        step(model, make_inputs(), classes)


def test_whole_images_and_their_captions(build, make_inputs, make_unit_rows):
    """A photo without a caption takes no part; an image is embedded as the region of all of it."""
    seen = []

    class Look(Objective):
        name, needs = "look", frozenset((PAIRS,))

        def loss(self, batch):
            seen.append(batch.pairs)
            return batch.pairs.embeddings.sum()

    model, classes = build(), ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    model.roi_heads.objectives.append(Look())
    texts = make_unit_rows(2, seed=3)
    for captions in (("a dog", ""), ("", "a cat by a dog"), ("", "")):
        given = zip(make_inputs(), captions, texts, strict=True)
        step(model, [{**each, "caption": text, "caption_embedding": row} for each, text, row in given], classes)
        pairs = seen.pop()
        kept = [number for number, caption in enumerate(captions) if caption]
        assert pairs.sentences == tuple(caption for caption in captions if caption)
        assert torch.equal(pairs.captions, texts[kept]) or not kept
        assert pairs.embeddings.shape == (len(kept), 16) and pairs.cells.shape[:2] == (len(kept), 128)
    with pytest.raises(InputError, match="expected the mapper to give 'caption'"):
        step(model, make_inputs(), classes)


def test_pre_training_from_captions_needs_no_box(build, make_inputs, make_unit_rows):
    def pretraining(node, objective=CaptionGrounding):
        node.roi_heads._target_ = CaptionPretrainingROIHeads
        node.roi_heads.objectives = [L(objective)()]
        node.proposal_generator.loss_weight = 0.0
        return node

    classes, inputs = ClassEmbeddings.of(make_unit_rows(2), ("a", "b")), make_inputs(boxes=0)
    model = build(pretraining)
    words = [{**each, "caption_words": make_unit_rows(3 + i, seed=i)} for i, each in enumerate(inputs)]
    losses = step(model, words, classes)
    assert losses["loss_captions"] > 0 and all(losses[key] == 0 for key in set(losses) - {"loss_captions"})
    assert model.roi_heads.box_predictor.projection.linear.weight.grad.abs().sum() > 0
    model = build(partial(pretraining, objective=ImageTextInfoNCE))
    texts = zip(inputs, ("a cat", "two dogs"), make_unit_rows(2), strict=True)
    pairs = [{**each, "caption": text, "caption_embedding": row} for each, text, row in texts]
    assert step(model, pairs, classes)["loss_image_info_nce"] > 0
    with pytest.raises(InputError, match="captions alone in pre-training, got UniCL, which needs labels"):
        build(partial(pretraining, objective=UniCL))


def test_given_proposals_in_place_of_an_rpn(build, make_inputs, make_unit_rows):
    """The same proposals as an RPN made give the same detections; without any it is told."""

    def without(node):
        node.proposal_generator = None
        return node

    own, given = build(), build(without)
    given.load_state_dict(own.state_dict(), strict=False)
    classes, inputs = ClassEmbeddings.of(make_unit_rows(2), ("a", "b")), make_inputs()
    _, _, proposals, _ = own.eval()._propose(inputs)
    with_proposals = [{**each, "proposals": of_image} for each, of_image in zip(inputs, proposals, strict=True)]
    expected = own(inputs, classes=classes)
    for found, other in zip(given.eval()(with_proposals, classes=classes), expected, strict=True):
        assert torch.equal(found["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
        assert torch.equal(found["instances"].scores, other["instances"].scores)
    losses = step(given.train(), with_proposals, classes)
    assert set(losses) == {"loss_cls", "loss_box_reg"} and losses["loss_cls"] > 0
    for mode in (True, False):
        with pytest.raises(InputError, match="precomputed proposals of each photo, got none"):
            given.train(mode)(inputs, classes=classes)


def test_boxes_are_moved_by_a_share_of_their_size():
    boxes = torch.tensor([[10.0, 20, 110, 40]]).repeat(500, 1)
    moved = (move_boxes(boxes, 0.1) - boxes).abs().amax(0)
    assert moved.tolist() == pytest.approx([10, 2, 10, 2], rel=0.05) and (moved <= torch.tensor([10, 2, 10, 2])).all()
    assert move_boxes(boxes[:0]).shape == (0, 4)


@pytest.mark.parametrize("objective", [L1Distillation, ContrastiveDistillation])
def test_a_teacher_that_nobody_brings_is_said_when_the_model_is_built(build, objective):
    def change(node):
        node.roi_heads.objectives = [L(objective)()]
        return node

    with pytest.raises(InputError, match=f"region_source with an objective that needs .*{objective.__name__}"):
        build(change)


def test_text_alone_trains_without_a_teacher(build, make_inputs, make_unit_rows):
    model = build()
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    assert set(step(model, make_inputs(), classes)) == BASE_LOSSES


@pytest.mark.parametrize("method", ["vild_text_teacher", "vild"])
def test_no_proposals_and_boxes_that_are_no_numbers(methods, build, make_inputs, make_unit_rows, method):
    """Features beyond the range of float16, say: what has no number is left out, be it all."""

    def refuse(photo: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        assert torch.isfinite(boxes).all()
        return mean_color(photo, boxes)

    model = build(lambda node: with_crops(with_online_if_distilled(getattr(methods, method)(node)), refuse)).eval()
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    model.roi_heads.box_predictor.test_score_thresh = -1.0
    assert len(model(make_inputs(1), classes=classes)[0]["instances"]) > 0
    model.roi_heads.box_predictor.bbox_pred.bias.data[0] = torch.nan
    assert len(model(make_inputs(1), classes=classes)[0]["instances"]) == 0
    model.proposal_generator.min_box_size = 1e6
    assert len(model(make_inputs(1), classes=classes)[0]["instances"]) == 0


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
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    (inputs,) = make_inputs(1)
    step(model, [inputs], classes)
    expected = inputs["image"] if input_format == "RGB" else inputs["image"].flip(0)
    assert torch.equal(seen[0], expected) and not torch.equal(expected[0], expected[2])


def test_the_image_branch_has_a_temperature_of_its_own(methods, build, make_unit_rows):
    def change(node):
        node.roi_heads.image_temperature = 0.07
        return methods.vild_ensemble(with_online(node))

    embeddings = make_unit_rows(3)
    regions = Regions(torch.zeros(3, 4), embeddings, embeddings, torch.zeros(3))
    assert torch.equal(build_scorer(build(change).roi_heads, regions, (64, 96), None).image.queries, embeddings / 0.07)


def test_localization_quality_is_learned_and_counts_as_objectness(methods, build, make_inputs, make_unit_rows):
    def change(node):
        node = iou_head(methods.vild_ensemble(with_online(node)))
        node.roi_heads.score_fusion.objectness_exponent = 0.5
        return node

    model = build(change)
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    assert set(step(model, make_inputs(), classes)) == BASE_LOSSES | {"loss_distill", "loss_iou"}
    assert model.roi_heads.iou_head.linear.weight.grad.abs().sum() > 0
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = -1.0
    before = model(make_inputs(1), classes=classes)[0]["instances"].scores
    model.roi_heads.iou_head.linear.bias.data -= 5
    after = model(make_inputs(1), classes=classes)[0]["instances"].scores
    assert len(before) and after.max() < 0.8 * before.max()


def test_photos_without_boxes_train(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: with_online(methods.vild(node)))
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    losses = step(model, make_inputs(boxes=0), classes)
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
        classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
        values.append(step(model, batch, classes)["loss_distill"])
    assert torch.allclose(*values, atol=1e-5)


def test_an_empty_store_entry_trains(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: stored(methods.vild(node)))
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    inputs = make_inputs(1)
    inputs[0]["regions"] = Instances((64, 96))
    inputs[0]["regions"].proposal_boxes = Boxes(torch.zeros(0, 4))
    inputs[0]["regions"].teacher_embeddings = torch.zeros(0, 16)
    assert step(model, inputs, classes)["loss_distill"] == 0


def test_a_missing_store_is_named(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: stored(methods.vild(node)))
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    with pytest.raises(InputError, match="region_store"):
        step(model, make_inputs(1), classes)


@pytest.mark.parametrize("method", ["vild", "vild_image", "vild_ensemble", "vild_text_teacher", "rcnn_style"])
@pytest.mark.parametrize("number", [1, pytest.param(65, marks=SLOW)])
def test_detections_at_any_number_of_classes(methods, build, make_inputs, make_unit_rows, method, number):
    model = build(lambda node: with_online_if_distilled(with_crops(getattr(methods, method)(node))))
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    classes = ClassEmbeddings.of(
        make_unit_rows(number), [str(i) for i in range(number)], [i % 2 == 0 for i in range(number)]
    )
    outputs = model.eval()(make_inputs(), classes=classes)
    for output in outputs:
        instances = output["instances"]
        assert instances.image_size == (64, 96)
        assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)
        if len(instances):
            assert instances.pred_classes.max() < number


def test_text_detections_equal_detectron2s_own_inference(build, make_inputs, make_unit_rows):
    model = build().eval()
    classes = ClassEmbeddings.of(make_unit_rows(40), [str(i) for i in range(40)])
    heads, predictor = model.roi_heads, model.roi_heads.box_predictor
    predictor.test_score_thresh = 1e-3
    inputs = make_inputs()
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [p.proposal_boxes for p in proposals])
        expected, _ = predictor.inference(predictor(heads.box_head(pooled), classes.embeddings), proposals)
        found = model.inference(inputs, classes=classes, do_postprocess=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) == 20
        assert torch.equal(ours.pred_classes, theirs.pred_classes)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "method",
    [
        "vild_ensemble",
        "vild_text_teacher",
        *(pytest.param(m, marks=SLOW) for m in ("vild", "vild_image", "rcnn_style")),
    ],
)
def test_rows_in_chunks_give_the_same_detections(methods, build, make_inputs, make_unit_rows, method):
    model = build(lambda node: with_online_if_distilled(with_crops(getattr(methods, method)(node)))).eval()
    model.roi_heads.box_predictor.test_score_thresh = 1e-4
    classes = ClassEmbeddings.of(make_unit_rows(1000), [str(i) for i in range(1000)], [i % 9 == 0 for i in range(1000)])
    dense = model(make_inputs(), classes=classes)
    model.roi_heads.max_dense_rows = 999
    for ours, theirs in zip(model(make_inputs(), classes=classes), dense, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) == len(theirs) > 0
        assert torch.equal(ours.pred_classes, theirs.pred_classes)
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=0)


def test_one_name_to_an_object(build, make_inputs, make_unit_rows):
    def change(node):
        node.roi_heads.class_agnostic_nms = True
        return node

    model = build(change).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    classes = ClassEmbeddings.of(make_unit_rows(40), [str(i) for i in range(40)])
    for output in model(make_inputs(), classes=classes):
        boxes = output["instances"].pred_boxes.tensor
        assert len(boxes) > 1 and (box_iou(boxes, boxes) - torch.eye(len(boxes))).max() <= 0.5


def test_regions_that_are_not_finite_are_left_out(build, make_inputs, make_unit_rows):
    model = build().eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    broken = model.roi_heads.box_predictor.projection.register_forward_hook(
        lambda module, inputs, embeddings: embeddings.index_fill(0, torch.arange(5, len(embeddings)), float("nan"))
    )
    with broken:
        first, second = (output["instances"] for output in model(make_inputs(), classes=classes))
    assert 0 < len(first) <= 10 and len(second) == 0


def test_crops_come_from_the_original_photo(methods, build, make_inputs, make_unit_rows):
    seen = []

    def spy(photo, boxes):
        seen.append((tuple(photo.shape), boxes.max().item()))
        return mean_color(photo, boxes)

    model = build(lambda node: with_crops(methods.rcnn_style(node), spy))
    classes = ClassEmbeddings.of(make_unit_rows(2), ("a", "b"))
    inputs = make_inputs(1)
    inputs[0]["image_orig"] = torch.zeros(3, 640, 960, dtype=torch.uint8)
    model.eval()(inputs, classes=classes)
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
    classes = ClassEmbeddings.of(make_unit_rows(3), ("a", "b", "c"))
    inputs = make_inputs()
    for photo in inputs:
        photo["instances"].gt_masks = BitMasks(torch.ones(2, 64, 96, dtype=torch.bool))
    assert "loss_mask" in step(model, inputs, classes)
    empty = make_inputs(boxes=0)
    for photo in empty:
        photo["instances"].gt_masks = BitMasks(torch.zeros(0, 64, 96, dtype=torch.bool))
    assert step(model, empty, classes)["loss_mask"] == 0
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    classes = ClassEmbeddings.of(make_unit_rows(20), [str(i) for i in range(20)])
    everything = [output["instances"] for output in model.eval()(make_inputs(), classes=classes)]
    assert all(found.pred_masks.shape[1:] == (64, 96) for found in everything)
    # masks of some alone
    asked = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    thresholds = torch.full((20,), 2.0)
    thresholds[everything[0].pred_classes[:2]] = 0.0
    some = [output["instances"] for output in model(make_inputs(), classes=classes, mask_thresholds=thresholds)]
    for each, found in zip(everything, some, strict=True):
        is_above = each.scores >= thresholds[each.pred_classes]
        assert 0 < int(is_above.sum()) < len(each) and torch.equal(found.scores, each.scores)
        assert each.pred_masks[is_above].any() and torch.equal(found.pred_masks[is_above], each.pred_masks[is_above])
        assert not found.pred_masks[~is_above].any()
    assert sum(asked) == sum(int((each.scores >= thresholds[each.pred_classes]).sum()) for each in everything)
    none = model(make_inputs(), classes=classes, mask_thresholds=torch.full((20,), 2.0))
    assert not any(output["instances"].pred_masks.any() for output in none) and sum(asked[2:]) == 0


def test_synonyms_and_negatives(methods, build, make_inputs, make_unit_rows):
    """A class's best row counts; a negative is compared with regions and never found."""
    model = build(lambda node: with_online(methods.vild_ensemble(node))).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    rows, base = make_unit_rows(30), torch.arange(30) < 20
    ids = torch.tensor([0, 1, 2, *([0, 1, 2] * 5), *([NEGATIVE] * 12)])
    classes = ClassEmbeddings(rows, ids, ("a", "b", "c"), base)
    dense = model(make_inputs(), classes=classes)
    every = model(make_inputs(), classes=ClassEmbeddings.of(rows, [str(i) for i in range(30)], base))
    model.roi_heads.max_dense_rows = 29
    for found, chunked, alone in zip(dense, model(make_inputs(), classes=classes), every, strict=True):
        found, chunked, alone = found["instances"], chunked["instances"], alone["instances"]
        assert len(found) > 0 and set(found.pred_classes.tolist()) <= {0, 1, 2}
        assert torch.equal(found.pred_classes, chunked.pred_classes)
        assert torch.equal(found.pred_boxes.tensor, chunked.pred_boxes.tensor)
        torch.testing.assert_close(found.scores, chunked.scores, rtol=1e-4, atol=0)
        own = ids[alone.pred_classes] != NEGATIVE
        torch.testing.assert_close(found.scores[0], alone.scores[own][0])  # the best of all rows that are a class's
        assert found.pred_classes[0] == ids[alone.pred_classes[own][0]]


def test_negatives_suppress_boxes_where_an_object_has_one_class(build, make_inputs, make_unit_rows):
    def change(node):
        node.roi_heads.class_agnostic_nms = True
        return node

    model = build(change).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.box_predictor.test_topk_per_image = 1000
    rows = make_unit_rows(20)
    all_classes = ClassEmbeddings.of(rows, [str(i) for i in range(20)])
    ids = all_classes.class_ids.masked_fill(torch.arange(20) >= 10, NEGATIVE)
    classes = ClassEmbeddings(rows, ids, all_classes.names[:10])
    every = model(make_inputs(), classes=all_classes)
    model.roi_heads.box_predictor.test_topk_per_image = most = 7  # of which negatives take none
    found = model(make_inputs(), classes=classes)
    model.roi_heads.max_dense_rows = 19
    in_chunks = model(make_inputs(), classes=classes)
    for alone, ours, chunked in zip(every, found, in_chunks, strict=True):
        alone, ours, chunked = alone["instances"], ours["instances"], chunked["instances"]
        expected = alone[alone.pred_classes < 10]
        assert most < len(expected) < len(alone)
        expected = expected[:most]
        for other in (ours, chunked):
            assert torch.equal(other.pred_boxes.tensor, expected.pred_boxes.tensor)
            assert torch.equal(other.pred_classes, expected.pred_classes)
            torch.testing.assert_close(other.scores, expected.scores, rtol=1e-4, atol=0)


def test_checkpoint_of_48_classes_detects_1_65_and_1203(build, make_inputs, make_unit_rows):
    trained, other = build(), build()
    step(trained, make_inputs(1), ClassEmbeddings.of(make_unit_rows(48), [str(i) for i in range(48)]))
    other.load_state_dict(trained.state_dict())
    other.eval().roi_heads.box_predictor.test_score_thresh = 0.0
    for number in (1, 65, 1203):
        classes = ClassEmbeddings.of(make_unit_rows(number), [str(i) for i in range(number)])
        assert other(make_inputs(1), classes=classes)[0]["instances"].pred_classes.max() < number


@pytest.mark.parametrize("method", [pytest.param("vild", marks=SLOW), "vild_ensemble"])
def test_training_with_other_classes_in_every_step(methods, build, make_inputs, make_unit_rows, method):
    """One model, data sets with classes of their own: each loss is what a model that sees no others has."""
    model = build(lambda node: with_online(getattr(methods, method)(node)))
    losses = []
    for number in (2, 65, 3, 2):
        torch.manual_seed(7)  # the sampling of proposals
        model.zero_grad()
        losses.append(step(model, make_inputs(), ClassEmbeddings.of(make_unit_rows(number), map(str, range(number)))))
        assert model.roi_heads.box_predictor.projection.linear.weight.grad.abs().sum() > 0
    assert losses[1]["loss_cls"] > losses[2]["loss_cls"] > losses[0]["loss_cls"]  # more classes, more to confuse
    for key in losses[0]:
        torch.testing.assert_close(losses[3][key], losses[0][key])


def test_eight_threads_ask_one_model_for_eight_things(methods, build, make_inputs, make_unit_rows):
    model = build(lambda node: with_online(methods.vild_ensemble(node))).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.background_names = BackgroundNames(12, width=16)
    model.roi_heads.max_dense_rows = 50  # some go in chunks
    asked = [
        ClassEmbeddings.of(make_unit_rows(k, seed=k), [f"{k} {i}" for i in range(k)], [i % 2 == 0 for i in range(k)])
        for k in (1, 2, 5, 9, 20, 40, 60, 90)
    ]
    ready = threading.Barrier(len(asked))

    def ask(classes: ClassEmbeddings) -> list[Instances]:
        ready.wait()
        return [model(make_inputs(1), classes=classes)[0]["instances"] for _ in range(2)]

    with ThreadPoolExecutor(len(asked), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(ask, asked))
    for classes, several in zip(asked, found, strict=True):
        alone = model(make_inputs(1), classes=classes)[0]["instances"]
        assert len(alone) > 0 and alone.pred_classes.max() < len(classes.names)
        for together in several:
            assert torch.equal(together.pred_classes, alone.pred_classes)
            assert torch.equal(together.pred_boxes.tensor, alone.pred_boxes.tensor)
            assert torch.equal(together.scores, alone.scores)


def test_classes_that_do_not_fit_are_refused(build, make_inputs, make_unit_rows):
    model, rows, several = build(), make_unit_rows(3), [0, 1, 1]
    with pytest.raises(InputError, match="width 16, got width 8"):
        step(model, make_inputs(1), ClassEmbeddings.of(make_unit_rows(2, 8), "ab"))
    with pytest.raises(InputError, match="width 16, got width 8"):
        model.eval()(make_inputs(1), classes=ClassEmbeddings.of(make_unit_rows(2, 8), "ab"))
    for ids, names in ((several, "ab"), ([0, 1, NEGATIVE], "ab"), ([0, 2, 1], "abc")):
        with pytest.raises(InputError, match=f"one row per class.*3 rows for {len(names)}"):
            step(model, make_inputs(1), ClassEmbeddings(rows, torch.tensor(ids), tuple(names)))


def closed(methods, names):
    def change(node):
        node = methods.closed_set(node)
        node.training_classes = list(names)
        node.roi_heads.num_classes = node.roi_heads.box_predictor.num_classes = len(names)
        return node

    return change


def test_closed_set_reports_its_classes_in_another_vocabulary(methods, build, make_inputs, make_unit_rows):
    model = build(closed(methods, ("cat", "dog")))
    assert set(step(model, make_inputs(), ClassEmbeddings.of(make_unit_rows(2), ("cat", "dog")))) == BASE_LOSSES
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    others = ClassEmbeddings.of(make_unit_rows(3), ("zebra", "dog", "bus"))
    outputs = model.eval()(make_inputs(), classes=others)
    classes = torch.cat([output["instances"].pred_classes for output in outputs])
    assert set(classes.tolist()) == {1}
    with pytest.raises(ValueError, match="2 classes"):
        step(model, make_inputs(), others)


def test_closed_set_knows_its_classes_in_any_spelling_and_by_synonyms(methods, build, make_inputs, make_unit_rows):
    model = build(closed(methods, ("fire_truck", "dog"))).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    ids, texts = torch.tensor([0, 1, 2, 1, NEGATIVE]), ("zebra", "pet", "Fire truck", "dog", "cow")
    asked = ClassEmbeddings(make_unit_rows(5), ids, ("zebra", "pet", "Fire truck"), texts=texts)
    model.roi_heads.box_predictor.test_topk_per_image = -1
    found = torch.cat([output["instances"].pred_classes for output in model(make_inputs(), classes=asked)])
    assert set(found.tolist()) == {1, 2}


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
