"""The graph's steps beside detectron2's, and the whole of it beside the detector that it was made of."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes
from timm.layers import Conv2dSame

from configs.common.components import cascade, centernet_proposals
from configs.common.methods import vild_ensemble, vild_image
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.export.graph import DetectionGraph, keep_best, pool
from ovdet.export.write import pack_onnx, trace
from ovdet.modeling.backbones.nanodet import NanoDetBackbone
from ovdet.modeling.backbones.swin import SwinBackbone
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.box_predictor import FederatedBoxPredictor
from ovdet.modeling.embedding_heads import FrozenBackboneBranch
from ovdet.modeling.expert import ClosedSetExpert
from ovdet.modeling.linear_expert import LinearExpert
from ovdet.modeling.postprocess import postprocess_images
from ovdet.modeling.score_fusion import GeometricScores
from ovdet.modeling.soft_nms import SoftNMS
from ovdet.modeling.tracing import EverySecond, with_even_padding, with_fixed_shapes


def random_boxes(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * 100
    return torch.cat([corner, corner + torch.rand(number, 2, generator=generator) * 300 + 1], dim=1)


@pytest.mark.parametrize("number", [0, 1, 50])
def test_pool_is_the_poolers(number):
    maps = [torch.randn(1, 4, 400 // stride, 400 // stride) for stride in (4, 8, 16)]
    for sampling in (0, 2):
        pooler = ROIPooler(7, scales=(1 / 4, 1 / 8, 1 / 16), sampling_ratio=sampling, pooler_type="ROIAlignV2")
        boxes = random_boxes(number)
        assert torch.equal(pool(pooler, maps, boxes), pooler(maps, [Boxes(boxes)]))


@pytest.mark.parametrize(("regions", "classes"), [(0, 3), (1, 1), (40, 1), (60, 30)])
def test_keep_best_is_fast_rcnn_inference(regions, classes):
    boxes = random_boxes(regions, seed=regions)
    generator = torch.Generator().manual_seed(classes)
    scores = (torch.randn(regions, classes + 1, generator=generator) * 3).softmax(dim=1)
    (expected,), _ = fast_rcnn_inference([boxes], [scores], [(500, 500)], 0.01, 0.5, 100)
    found, labels, best = keep_best(
        boxes, scores[:, :-1].log(), score_threshold=0.01, nms_threshold=0.5, max_detections=100
    )
    assert torch.equal(found, expected.pred_boxes.tensor)
    assert torch.equal(labels, expected.pred_classes)
    assert torch.allclose(best, expected.scores, atol=1e-6)


@pytest.mark.slow
def test_keep_best_of_very_many_classes():
    boxes, scores = random_boxes(30), torch.zeros(30, 500_000)
    scores[:, -3:] = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
    options = dict(score_threshold=0.2, nms_threshold=0.5, max_detections=100)
    few, many = (keep_best(boxes, some.log(), **options) for some in (scores[:, -3:], scores))
    assert torch.equal(few[0], many[0]) and torch.equal(few[1] + scores.shape[1] - 3, many[1]) and 0 < len(few[0]) < 60


def test_keep_best_softens_like_the_detector():
    boxes, scores = random_boxes(60), torch.rand(60, 5, generator=torch.Generator().manual_seed(0))
    options = dict(score_threshold=0.4, nms_threshold=0.5, max_detections=200, soft_nms_sigma=0.5)
    (expected,) = postprocess_images([boxes], [scores], [(500, 500)], **options)
    found, labels, best = keep_best(boxes, scores.log(), **options)
    assert torch.equal(found, expected.pred_boxes.tensor) and torch.equal(labels, expected.pred_classes)
    assert torch.allclose(best, expected.scores, atol=1e-6) and 0 < len(best)


def test_keep_best_loses_nothing_that_scores_a_tenth():
    """All regions at one place: NMS leaves one per class, far fewer than there are candidates to look at."""
    boxes = random_boxes(1).expand(50, 4)
    scores = (torch.randn(50, 400, generator=torch.Generator().manual_seed(0)) * 2).softmax(dim=1)
    (expected,), _ = fast_rcnn_inference([boxes], [F.pad(scores, (0, 1))], [(500, 500)], 0.0, 0.5, 300)
    _, labels, best = keep_best(boxes, scores.log(), score_threshold=0.0, nms_threshold=0.5, max_detections=300)
    count = int((expected.scores >= 0.1).sum())
    assert count > 3 and len(best) < len(expected)
    assert torch.equal(labels[:count], expected.pred_classes[:count])


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (1, 2, 1), (3, 1, 2)])
def test_fixed_padding_is_timms(kernel, stride, dilation):
    same = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, bias=kernel == 3)
    x = torch.randn(2, 4, 32, 64)
    even = with_even_padding(same)
    assert (even is same) == (dilation > 1)
    assert torch.equal(even(x), same(x))


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_every_second_is_the_max_pooling(size):
    x = torch.randn(1, 3, *size)
    assert torch.equal(EverySecond()(x)[0], F.max_pool2d(x, kernel_size=1, stride=2))


def test_fixed_shapes_leave_the_backbone_as_it_is():
    backbone = instantiate(load_config("configs/lite/vild_text.py").model.backbone).eval()
    kinds = [type(module) for module in backbone.modules()]
    fixed = with_fixed_shapes(backbone)
    assert [type(module) for module in backbone.modules()] == kinds
    assert not any(isinstance(module, Conv2dSame) for module in fixed.modules())
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        for name, expected in backbone(x).items():
            assert torch.equal(fixed(x)[name], expected)


def dense(model):
    """The backbone's last map, classified region by region."""
    model.roi_heads.image_branch = L(FrozenBackboneBranch)(
        in_feature="stride32", stride=32, channels=(64, 32), num_names=10, width=384
    )
    model.roi_heads.score_fusion = L(GeometricScores)(foreground_exponent=0.3, area_exponent=0.2)
    return model


def twice_with_other_names(model):
    """Boxes refined twice, and a background of names on the image side."""
    model = vild_ensemble(model)
    model.roi_heads.box_passes = 2
    model.roi_heads.background_names = L(BackgroundNames)(num_names=40, width=384, near=0.15)
    return model


def one_name_each(model):
    """NMS over all classes at once."""
    model.roi_heads.class_agnostic_nms = True
    model.roi_heads.box_predictor.test_nms_thresh = 0.9  # a hundred are left
    return model


def like_detic(model):
    """CenterNet's proposals, a cascade, scores by sigmoids."""
    model.roi_heads.box_predictor._target_ = FederatedBoxPredictor
    model.roi_heads.box_predictor.class_weights = None
    model = centernet_proposals(cascade(model), in_features=["p4", "p5"], strides=[16, 32])
    model.proposal_generator.head.num_groups = 4
    return model


def with_expert(model):
    """A closed-set expert with a say in the second name; boxes refined twice."""
    model = vild_ensemble(model)
    model.roi_heads.box_passes = 2
    model.backbone.beside = L(NanoDetBackbone)()
    rows = F.normalize(torch.randn(20, 384, generator=torch.Generator().manual_seed(1)), dim=1)[1:2]
    model.roi_heads.expert = L(known)(rows=rows.tolist())
    return model


def known(rows: list[list[float]]) -> ClosedSetExpert:
    expert = ClosedSetExpert(["second"], width=384, score_threshold=0.3)
    expert.rows.copy_(torch.tensor(rows))
    return expert


def with_linear_expert(model):
    """A linear expert with a say in two names, beside the closed-set one, which knows the second of them too."""
    model = dense(with_expert(model))
    rows = F.normalize(torch.randn(20, 384, generator=torch.Generator().manual_seed(1)), dim=1)[:2]
    model.roi_heads.linear_expert = L(linear)(rows=rows.tolist())
    return model


def linear(rows: list[list[float]]) -> LinearExpert:
    in_features = 64 + 32
    weight = torch.randn(2, in_features, generator=torch.Generator().manual_seed(2)) / 4
    weights = {"rows": torch.tensor(rows), "weight": weight, "bias": torch.tensor([-1.0, 0.5])}
    return LinearExpert(["first", "second"], width=384, in_features=in_features, weights=weights)


METHODS = {
    "expert": with_expert,
    "linear expert": with_linear_expert,
    "like Detic": like_detic,
    "ViLD": lambda model: model,
    "ensemble": vild_ensemble,
    "image": vild_image,
    "dense": dense,
    "twice": twice_with_other_names,
    "one name each": one_name_each,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tells_base", [True, False])
@pytest.mark.parametrize("input_format", ["RGB", pytest.param("BGR", marks=pytest.mark.slow)])
def test_graph_is_the_detector(build_tiny, photo, method, tells_base, input_format):
    def change(model):
        model = METHODS[method](model)
        model.roi_heads.pop("objectives", None)  # nothing is trained here
        model.input_format = input_format
        return model

    model = build_tiny(change)
    if method in ("dense", "linear expert"):  # else each region has nearly the same names
        torch.nn.init.normal_(model.roi_heads.image_branch.names.weight, std=20.0)
    vocabulary = F.normalize(torch.randn(20, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    is_base = torch.arange(20) < 12 if tells_base else None
    classes = ClassEmbeddings.of(vocabulary, [str(k) for k in range(20)], is_base)
    order = [2, 1, 0] if input_format == "BGR" else [0, 1, 2]
    with torch.no_grad():
        (expected,) = model.inference([{"image": photo[order]}], classes=classes, do_postprocess=False)
        boxes, scores, classes = DetectionGraph(model)(photo, vocabulary, is_base)
    assert len(expected) == 100
    assert torch.allclose(scores, expected.scores, atol=1e-5)
    assert torch.allclose(boxes, expected.pred_boxes.tensor, atol=1e-3)
    assert torch.equal(classes, expected.pred_classes)


def test_a_photo_without_detections(build_tiny, photo):
    def change(model):
        model.roi_heads.box_predictor.test_score_thresh = 1.0
        return model

    with torch.no_grad():
        boxes, scores, classes = DetectionGraph(build_tiny(change))(photo, torch.eye(3, 384))
    assert boxes.shape == (0, 4) and len(scores) == len(classes) == 0


def test_masks_are_the_detectors(build_tiny, photo):
    def change(model):
        model.roi_heads.update(
            mask_in_features=["p4", "p5"],
            mask_pooler=L(ROIPooler)(
                output_size=14, scales=(1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
            ),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=ShapeSpec(channels=16, width=14, height=14), num_classes=1, conv_dims=[8, 8]
            ),
        )
        return model

    model = build_tiny(change)
    vocabulary = F.normalize(torch.randn(5, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    classes = ClassEmbeddings.of(vocabulary, "abcde")
    with torch.no_grad():
        (expected,) = model.inference([{"image": photo}], classes=classes, do_postprocess=False)
        boxes, scores, classes, masks = DetectionGraph(model)(photo, vocabulary)
    assert len(expected) > 0 and masks.shape[1:] == (28, 28)
    assert torch.allclose(boxes, expected.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(masks, expected.pred_masks[:, 0], atol=1e-4)


@pytest.mark.slow  # tracing takes minutes
def test_like_detic_as_onnx(build_tiny, photo):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = build_tiny(lambda model: without_objectives(like_detic(model)))
    session = onnxruntime.InferenceSession(pack_onnx(trace(model, tells_base=False), "{}"))
    vocabulary = F.normalize(torch.randn(20, 384, generator=torch.Generator().manual_seed(1)), dim=1)
    classes = ClassEmbeddings.of(vocabulary, [str(k) for k in range(20)])
    order = [2, 1, 0] if model.input_format == "BGR" else [0, 1, 2]
    for image in (photo, photo[:, :70].flip(1)):  # of two sizes
        with torch.no_grad():
            (expected,) = model.inference([{"image": image[order]}], classes=classes, do_postprocess=False)
        given = {"image": image.contiguous().numpy(), "vocabulary": vocabulary.numpy()}
        boxes, scores, found = map(torch.from_numpy, session.run(None, given))
        assert len(expected) == len(boxes) > 10
        assert torch.allclose(scores, expected.scores, atol=1e-3)
        assert torch.allclose(boxes, expected.pred_boxes.tensor, atol=0.5) and torch.equal(found, expected.pred_classes)


def without_objectives(model):
    """Nothing is trained here."""
    model.roi_heads.pop("objectives", None)
    return model


@pytest.mark.parametrize("part", ["Soft-NMS", "OtherProposals", "Swin"])
def test_what_does_not_export_is_refused_before_the_work(build_tiny, part):
    class OtherProposals(torch.nn.Module):
        pass

    model = build_tiny(without_objectives)
    if part == "Soft-NMS":
        model.roi_heads.soft_nms = SoftNMS()
    elif part == "OtherProposals":
        model.proposal_generator = OtherProposals()
    else:
        model.backbone.bottom_up = SwinBackbone(embed_dim=8, depths=(1,), num_heads=(1,), out_indices=(0,))
    with pytest.raises(InputError, match=part):
        trace(model, tells_base=False)


def test_a_detector_of_fixed_classes_or_on_another_device(build_tiny, monkeypatch):
    with pytest.raises(InputError, match="an open-vocabulary detector, got Linear, whose classes are fixed"):
        trace(torch.nn.Linear(2, 2), tells_base=False)
    model = build_tiny(without_objectives).to("meta")
    with pytest.raises(InputError, match="a detector on the CPU, got one on meta: set train.device=cpu"):
        trace(model, tells_base=False)


def test_what_torch_cannot_trace_is_one_line(build_tiny, monkeypatch):
    def fail(*given, **options):
        raise RuntimeError("a graph break\nin many lines")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(InputError, match="a detector that torch.export traces, got: .*a graph break") as caught:
        trace(build_tiny(without_objectives), tells_base=False)
    assert "\n" not in str(caught.value)
