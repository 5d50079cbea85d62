"""Detection in fixed shapes, and as graphs, against detection as it is."""

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou, nms

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.modeling import fixed_shapes
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.calibration import ScoreCalibration
from ovdet.modeling.cuda_graphs import MAX_GRAPHS, GraphedDetector
from ovdet.modeling.embedding_heads import FrozenBackboneBranch
from ovdet.modeling.fixed_shapes import FixedShapeDetection, why_not_fixed
from ovdet.modeling.iou_head import IoUHead
from ovdet.modeling.nms import nms_in_rounds, pairwise_iou
from ovdet.modeling.region_embedding import pool
from ovdet.modeling.region_pooler import pool_every_level
from ovdet.modeling.score_fusion import GeometricScores
from tests.modeling.conftest import WIDTH, unit_rows
from tests.modeling.test_cascade_heads import like_detic


def make_boxes(*shape: int, seed: int = 0, side: float = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 100
    return torch.cat([corners, corners + torch.rand(*shape, 2, generator=generator) * side], dim=-1)


def make_photos(*sizes: tuple[int, int]) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    photos = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]
    return [{"image": photo, "height": 2 * photo.shape[1], "width": 2 * photo.shape[2]} for photo in photos]


def assert_same(found, expected, *, least: int = 5) -> None:
    """Two lists of {"instances"}."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours["instances"], theirs["instances"]
        assert len(ours) == len(theirs) >= least and ours.image_size == theirs.image_size
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=0, atol=1e-2)
        assert torch.equal(ours.pred_classes, theirs.pred_classes)


def record(run):
    """What a CUDA graph does: the same again on what its inputs then hold, into the same outputs."""
    outputs = run()
    outputs = type(outputs)(*(part.clone() for part in outputs))

    def replay():
        for place, part in zip(outputs, run(), strict=True):
            place.copy_(part)

    return replay, outputs


def never(run):
    raise AssertionError("recorded")


@pytest.fixture
def build_full(build):
    """The tiny detector with all that ovdet-lite has, but for experts."""

    def change(model):
        heads = model.roi_heads
        heads.update(box_passes=2, soft_nms_sigma=0.5)
        heads.box_predictor.test_score_thresh = 0.01
        return model

    return lambda more=lambda model: model: build(lambda model: more(change(model))).eval()


CLASSES = ClassEmbeddings.of(unit_rows(7), tuple("abcdefg"))


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("shape", [(90,), (3, 40), (2, 3, 30), (2, 0), (0, 4), (1,)])
def test_nms_in_rounds_is_nms(shape, threshold):
    boxes = make_boxes(*shape)
    is_there = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.8
    keep, is_exact = nms_in_rounds(pairwise_iou(boxes) > threshold, is_there)
    assert keep.shape == is_there.shape and is_exact.shape == shape[:-1] and is_exact.all()
    for place in itertools.product(*map(range, shape[:-1])):
        of_image, there, ours = boxes[place], is_there[place], keep[place]
        rows = there.nonzero().squeeze(1)
        expected = rows[nms(of_image[rows], torch.arange(len(rows), 0, -1).float(), threshold)]
        assert torch.equal(ours.nonzero().squeeze(1), expected.sort().values)


def test_a_chain_longer_than_the_rounds_is_told():
    """Each box overlaps with the next alone: every second one stays, and each round knows one more."""
    left = torch.arange(12.0)
    boxes = torch.stack([left, torch.zeros(12), left + 1.6, torch.ones(12)], dim=1)
    overlaps, there = pairwise_iou(boxes) > 0.2, torch.ones(12, dtype=torch.bool)
    assert not nms_in_rounds(overlaps, there, 11)[1] and not nms_in_rounds(overlaps, there, 1)[1]
    keep, is_exact = nms_in_rounds(overlaps, there, 12)
    assert is_exact and keep.tolist() == [True, False] * 6


def test_iou_is_torchvisions():
    boxes = make_boxes(2, 20)
    boxes[0, 3] = 0
    found = pairwise_iou(boxes)
    for ours, of_image in zip(found, boxes, strict=True):
        torch.testing.assert_close(ours, box_iou(of_image, of_image), equal_nan=True)
    assert pairwise_iou(boxes[:, :0]).shape == (2, 0, 0)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("scales", [(1 / 4, 1 / 8, 1 / 16, 1 / 32), (1 / 16,)])
@pytest.mark.parametrize("numbers", [(30, 12), (0, 9), (0, 0)])
def test_every_level_pools_as_detectron2(samples, scales, numbers):
    pooler = ROIPooler(7, scales, samples, "ROIAlignV2", canonical_box_size=56)
    maps = [torch.randn(2, 3, int(128 * scale), int(192 * scale)) for scale in scales]
    boxes = [make_boxes(number, seed=number, side=120) for number in numbers]
    expected = pooler(maps, [Boxes(each) for each in boxes])
    torch.testing.assert_close(pool_every_level(pooler, maps, boxes), expected)


def test_half_precision_does_not_round_boxes():
    """bfloat16 knows no pixel between 512 and 516."""
    pooler = ROIPooler(7, (1 / 8,), 2, "ROIAlignV2")
    level, boxes = torch.randn(1, 3, 80, 80).bfloat16(), [torch.tensor([[513.0, 300, 630, 610]])]
    expected = pooler([level.float()], [Boxes(boxes[0])])
    torch.testing.assert_close(pool_every_level(pooler, [level], boxes), expected)
    proposals = [Instances((640, 640), proposal_boxes=Boxes(boxes[0]))]
    heads = SimpleNamespace(box_pooler=pooler, box_in_features=["p3"])
    torch.testing.assert_close(pool(heads, {"p3": level}, proposals), expected)


SYNONYMS = ClassEmbeddings(unit_rows(9), torch.tensor([0, 1, 1, 2, 3, 3, 0, -1, -1]), tuple("abcd"))
BASE = ClassEmbeddings.of(unit_rows(7), tuple("abcdefg"), is_base=torch.arange(7) % 2 == 0)


def with_image_branch(model):
    """A branch on the backbone's last map, background names, an IoU head, and all terms of the fusion."""
    terms = dict(foreground_exponent=0.3, area_exponent=0.2, objectness_exponent=0.3)
    model.roi_heads.update(
        image_branch=L(FrozenBackboneBranch)(in_feature="stride32", stride=32, num_names=20, width=WIDTH),
        background_names=L(BackgroundNames)(num_names=30, width=WIDTH),
        iou_head=L(IoUHead)(in_features=32),
        score_fusion=L(GeometricScores)(**terms),
        calibration=L(ScoreCalibration)(
            trained_slope=1.1,
            trained_offset=0.1,
            other_slope=0.9,
            other_offset=-0.1,
            threshold=0.2,
            other_threshold=0.1,
            name_offsets={"c": 0.3},
        ),
    )
    model.roi_heads.box_predictor.test_score_thresh = 0.001
    return model


def without_names_apart(model):
    model.roi_heads.class_agnostic_nms = True
    model.roi_heads.soft_nms_sigma = None
    return model


def as_cascade(model):
    """Three stages with sigmoid scores, behind the RPN."""
    rpn = model.proposal_generator
    model = like_detic(model)
    model.proposal_generator = rpn
    model.roi_heads.box_passes = 1
    return model


@pytest.mark.parametrize("classes", [CLASSES, SYNONYMS, BASE])
@pytest.mark.parametrize("more", [lambda model: model, with_image_branch, without_names_apart, as_cascade])
def test_detections_are_the_same(build_full, more, classes):
    model, photos = build_full(more), make_photos((64, 96), (61, 90))
    for _, predictor in model.roi_heads.stages[1:]:  # boxes move from stage to stage, some out of the photo
        torch.nn.init.normal_(predictor.bbox_pred[2].weight, std=0.1)
    assert why_not_fixed(model) == ""
    expected = [model([photo], classes=classes)[0] for photo in photos]
    graphed = GraphedDetector(model, record=record)
    assert_same(graphed(photos, classes=classes), expected)  # as it was
    assert_same(graphed(photos, classes=classes), expected)  # recorded
    assert_same(graphed(photos[::-1], classes=classes), expected[::-1])  # again, with other photos


@pytest.fixture(scope="module")
def shipped():
    return OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")


def test_ovdet_lite_finds_the_same(shipped):
    """With both experts, on photos of two sizes, alone and together."""
    classes = shipped.embed(["dog", "dogs; hound", "helmet", "red kite", "wine glass"])
    photos = make_photos((160, 224), (150, 200))
    expected = [shipped.model([photo], classes=classes)[0] for photo in photos]
    graphed = GraphedDetector(shipped.model, record=record)
    for batch in ([0], [0], [1], [0, 1], [1, 0]):
        found = graphed([photos[index] for index in batch], classes=classes)
        assert_same(found, [expected[index] for index in batch], least=20)


def test_half_precision_finds_nearly_the_same(build_full):
    model, photos = build_full(with_image_branch), make_photos((64, 96))
    graphed = GraphedDetector(model, record=record, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        (expected,) = graphed(photos, classes=CLASSES)
    (found,) = graphed(photos, classes=CLASSES)
    ours, theirs = (each["instances"].scores for each in (found, expected))
    torch.testing.assert_close(ours[:10], theirs[:10], rtol=0.15, atol=0)


def test_weights_in_half_precision_change_nothing_under_autocast(build_full):
    """To the bit: autocast rounds them alike."""
    model, (images, sizes) = build_full(with_image_branch), batch_of(make_photos((64, 96)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for ours, plain in zip(
            FixedShapeDetection(model, torch.bfloat16)(images, sizes, CLASSES),
            FixedShapeDetection(model)(images, sizes, CLASSES),
            strict=True,
        ):
            assert torch.equal(ours, plain)
    assert {part.dtype for part in model.parameters()} == {torch.float32}


def test_a_graph_for_each_size_and_choice_of_classes(build_full):
    model, recorded = build_full(), []
    graphed = GraphedDetector(model, record=lambda run: recorded.append(run) or record(run))
    small, wide = make_photos((64, 64), (64, 96))
    for photos, count in [([small], 0), ([small], 1), ([wide], 1), ([wide], 2), ([small] * 3, 2), ([small] * 4, 3)]:
        graphed(photos, classes=CLASSES)
        assert len(recorded) == count
    for count in (3, 4):
        graphed([small], classes=SYNONYMS)
        assert len(recorded) == count
    for sides in range(3, MAX_GRAPHS + 3):  # too many: the first goes
        graphed(make_photos((64, 32 * sides)), classes=CLASSES)
    graphed([small], classes=CLASSES)
    assert len(recorded) == 4


def test_what_a_graph_cannot_decide_is_decided_as_before(build_full, monkeypatch):
    model, photos = build_full(), make_photos((64, 96), (60, 90))
    expected = model(photos, classes=CLASSES)
    monkeypatch.setattr(fixed_shapes, "nms_in_rounds", lambda overlaps, there: nms_in_rounds(overlaps, there, 1))
    assert not FixedShapeDetection(model)(*batch_of(photos), CLASSES).is_exact.any()
    graphed = GraphedDetector(model, record=record)
    for _ in range(2):
        assert_same(graphed(photos, classes=CLASSES), expected)


def batch_of(photos: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    images, sizes = torch.zeros(len(photos), 3, 64, 96, dtype=torch.uint8), torch.zeros(len(photos), 2)
    for k, photo in enumerate(photos):
        height, width = photo["image"].shape[1:]
        images[k, :, :height, :width] = photo["image"]
        sizes[k] = torch.tensor([height, width])
    return images, sizes


def test_too_few_candidates_are_told(build_full, monkeypatch):
    model, photos = build_full(), make_photos((64, 96))
    assert FixedShapeDetection(model)(*batch_of(photos), CLASSES).is_exact.all()
    monkeypatch.setattr(fixed_shapes, "_CANDIDATES", 19)  # one fewer than there are detections
    assert not FixedShapeDetection(model)(*batch_of(photos), CLASSES).is_exact.any()


def test_a_photo_with_nothing_on_it(build_full):
    """No proposal has an area, and no score is above the threshold."""
    model = build_full()
    model.proposal_generator.min_box_size = 1000
    graphed, photos = GraphedDetector(model, record=record), make_photos((64, 96))
    for _ in range(2):
        assert_same(graphed(photos, classes=CLASSES), model(photos, classes=CLASSES), least=0)
    model.proposal_generator.min_box_size, model.roi_heads.box_predictor.test_score_thresh = 0, 1.0
    found = FixedShapeDetection(model)(*batch_of(photos), CLASSES)
    assert (found.scores == -1).all() and found.is_exact.all()


def test_what_no_graph_is_for_runs_as_before(build_full):
    model = build_full()
    graphed, (photo,) = GraphedDetector(model, record=never), make_photos((64, 96))
    features = 32 + WIDTH
    learned = LearnedRows(torch.zeros(1, features), torch.zeros(1), torch.tensor([0]))
    many = ClassEmbeddings.of(unit_rows(40), [str(k) for k in range(40)])
    model.roi_heads.max_dense_rows = 30
    as_floats = {**photo, "image": photo["image"].float()}
    by_rows = ClassEmbeddings(unit_rows(0), torch.zeros(0, dtype=torch.long), ("x",), learned=learned)
    for inputs, classes in [([as_floats], CLASSES), ([photo], many), ([photo], by_rows)]:
        for _ in range(2):
            assert_same(graphed(inputs, classes=classes), model(inputs, classes=classes), least=0)


def test_a_graph_that_cannot_be_recorded(build_full, caplog):
    def fail(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    model, photos = build_full(), make_photos((64, 96))
    expected, graphed = model(photos, classes=CLASSES), GraphedDetector(model, record=fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_same(graphed(photos, classes=CLASSES), expected)
    assert [record.message for record in caplog.records].count(
        "CUDA graphs failed, going on without them: RuntimeError: operation not permitted when stream is capturing"
    ) == 1


def test_threads_share_graphs(build_full):
    model = build_full()
    photos = [make_photos((64, 96))[0] | {"image": make_photos((64, 96), (64, 96))[k % 2]["image"]} for k in range(8)]
    expected = [model([photo], classes=CLASSES)[0] for photo in photos]
    graphed = GraphedDetector(model, record=record)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda photo: graphed([photo], classes=CLASSES)[0], photos))
    assert_same(found, expected)


def test_detectors_without_fixed_shapes_say_why(build_full):
    model = build_full()
    model.roi_heads.mask_on = True
    assert why_not_fixed(model) == "masks"
    model.proposal_generator, model.roi_heads.box_predictor.test_topk_per_image = None, -1
    assert why_not_fixed(model).count(",") == 2
    assert "kind (Linear)" in why_not_fixed(torch.nn.Linear(1, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("half", [False, True])
def test_cuda_graphs(half):
    """Real graphs, and no warning that there are none."""
    plain, graphed = (
        OpenVocabPredictor.from_pretrained("ovdet-lite", device="cuda", compile=compile, half=half)
        for compile in (False, True)
    )
    photos, classes = make_photos((448, 608), (440, 597)), plain.embed(["dog", "helmet", "wine glass"])
    expected = plain.model(photos, classes=classes)
    for _ in range(3):
        found = graphed.model(photos, classes=classes)
        if half:
            for ours, theirs in zip(found, expected, strict=True):
                ours, theirs = ours["instances"].scores, theirs["instances"].scores
                torch.testing.assert_close(ours[:20].cpu(), theirs[:20].cpu(), rtol=0.1, atol=0.01)
        else:
            on_cpu = [{"instances": each["instances"].to("cpu")} for each in expected]
            assert_same(found, on_cpu, least=20)
    (graph,) = graphed.model.forward._graphs[classes].values()
    assert graph is not None
