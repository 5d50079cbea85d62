"""Detections against detectron2's own routine, bit for bit; the choice of regions against torchvision's NMS."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from shapely import box as shape_of
from torchvision.ops import box_iou, nms

from ovdet.modeling.nms import _nms_at_once, _nms_in_turn, nms_per_class, select_regions
from ovdet.modeling.postprocess import (
    is_not_contained,
    is_not_outdone,
    postprocess_image,
    postprocess_images,
    soft_nms_scores,
)
from ovdet.modeling.topk import topk_of_matrix

SIZE = (100, 90)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def random_boxes(number: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * 80
    return torch.cat([corners, corners + 5 + torch.rand(number, 2, generator=generator) * 40], dim=1)


def close_boxes(number: int, seed: int = 0) -> torch.Tensor:
    """Around three places, so that most overlap with many."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(3, seed)[torch.randint(3, (number,), generator=generator)]
    return boxes + torch.randn(number, 4, generator=generator)


def boxes_on_a_grid(number: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers: IoUs of exactly 1/2 are common."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 4, (number, 2), generator=generator)
    return torch.cat([corners, corners + torch.randint(1, 4, (number, 2), generator=generator)], dim=1).float()


def boxes_on_an_odd_grid(number: int, seed: int = 0) -> torch.Tensor:
    """IoUs that would be 1/2, were it not for rounding: they tell NMS of the boxes from NMS of boxes moved apart."""
    return boxes_on_a_grid(number, seed) * 12.345


def random_scores(regions: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(regions, classes, generator=torch.Generator().manual_seed(seed + 1))


def peaked_scores(regions: int, classes: int, seed: int = 0) -> torch.Tensor:
    """A softmax as a classifier gives it."""
    generator = torch.Generator().manual_seed(seed + 1)
    return (4 * torch.randn(regions, classes, generator=generator)).softmax(dim=1)


def coarse_scores(regions: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Many that are equal."""
    return (random_scores(regions, classes, seed) * 8).round() / 8


def detectron2s(boxes, scores, threshold, nms_threshold, number, size=SIZE):
    with_background = torch.cat([scores, torch.full_like(scores[:, :1], 0.5)], dim=1)
    return fast_rcnn_inference([boxes.clone()], [with_background], [size], threshold, nms_threshold, number)[0][0]


def ours(boxes, scores, threshold, nms_threshold, number, size=SIZE, **options):
    thresholds = dict(score_threshold=threshold, nms_threshold=nms_threshold, max_detections=number)
    return postprocess_images([boxes], [scores], [size], **thresholds, **options)[0]


def assert_same(found, expected):
    assert found.image_size == expected.image_size and set(found.get_fields()) == set(expected.get_fields())
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.fixture
def stable_sort(monkeypatch):
    """torchvision's NMS of many candidates ends in a sort that leaves open what becomes of equal scores."""
    sort = torch.Tensor.sort
    monkeypatch.setattr(
        torch.Tensor, "sort", lambda self, *args, **named: sort(self, *args, **named | {"stable": True})
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make_boxes", [random_boxes, close_boxes, boxes_on_a_grid, boxes_on_an_odd_grid])
@pytest.mark.parametrize("make_scores", [random_scores, peaked_scores, coarse_scores])
def test_equals_detectron2_on_random_cases(stable_sort, make_boxes, make_scores, device):
    """25 of each kind, of which some have fewer candidates than torchvision's NMS changes its way at, and some more."""
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        regions, classes, number = (int(torch.randint(1, most, (1,), generator=generator)) for most in (150, 40, 60))
        boxes, scores = make_boxes(regions, seed).to(device), make_scores(regions, classes, seed).to(device)
        for threshold, nms_threshold in ((0.0, 0.5), (0.3, 0.3), (1e-4, 0.7)):
            arguments = (boxes, scores, threshold, nms_threshold, number)
            assert_same(ours(*arguments), detectron2s(*arguments))


def test_equals_detectron2_as_it_is_where_no_scores_are_equal():
    for seed in range(20):
        boxes, scores = close_boxes(120, seed), random_scores(120, 30, seed)
        while len(scores.unique()) < scores.numel():
            scores += torch.rand_like(scores) * 1e-3
        for number in (1, 50, 100_000):
            assert_same(ours(boxes, scores, 0.01, 0.5, number), detectron2s(boxes, scores, 0.01, 0.5, number))


def test_equal_scores_change_nothing_but_the_order_among_them():
    """Against detectron2 as it is; of those equal to the last one, which of them are left out is open, too."""
    boxes, scores = close_boxes(200), coarse_scores(200, 30)
    found, expected = ours(boxes, scores, 0.0, 0.5, 60), detectron2s(boxes, scores, 0.0, 0.5, 60)
    assert torch.equal(found.scores, expected.scores)

    def above_the_last(detections):
        detections = detections[detections.scores > detections.scores[-1]]
        rows = torch.cat([detections.pred_boxes.tensor, detections.pred_classes[:, None]], dim=1).tolist()
        return sorted(rows)

    assert above_the_last(found) == above_the_last(expected)


NO_NUMBER = [float("nan"), float("inf"), -float("inf")]


def with_value(tensor: torch.Tensor, row: int, value: float) -> torch.Tensor:
    tensor[row, -1] = value
    return tensor


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [
        pytest.param(random_boxes(200), torch.full((200, 40), 0.5), id="equal scores"),
        pytest.param(random_boxes(1).repeat(200, 1), random_scores(200, 40), id="equal boxes"),
        pytest.param(random_boxes(1).repeat(200, 1), torch.full((200, 40), 0.5), id="equal boxes and scores"),
        pytest.param(random_boxes(1).repeat(200, 1), random_scores(1, 40).repeat(200, 1), id="one class after another"),
        pytest.param(random_boxes(200), torch.full((200, 40), 1e-5), id="none above the threshold"),
        pytest.param(random_boxes(200), torch.full((200, 40), 0.01), id="all at the threshold"),
        pytest.param(random_boxes(2000), random_scores(2000, 1), id="one class"),
        pytest.param(close_boxes(2000), random_scores(2000, 1), id="one class, many rounds"),
        pytest.param(random_boxes(1), random_scores(1, 2000), id="one region"),
        pytest.param(random_boxes(0), random_scores(0, 7), id="no region"),
        pytest.param(torch.zeros(200, 4), random_scores(200, 40), id="boxes without area"),
        pytest.param(random_boxes(200) * 10, random_scores(200, 40), id="boxes beyond the image"),
        pytest.param(
            torch.cat([random_boxes(1), boxes_on_an_odd_grid(199) * 1e-9]), random_scores(200, 40), id="tiny boxes"
        ),
        pytest.param(random_boxes(200).flip(1), random_scores(200, 40), id="boxes inside out"),
        pytest.param(random_boxes(200), random_scores(200, 40) * 3e38, id="scores whose sum overflows"),
        *(pytest.param(with_value(random_boxes(200), 3, value), random_scores(200, 40), id=f"box {value}")
          for value in NO_NUMBER),
        *(pytest.param(random_boxes(200), with_value(random_scores(200, 40), 3, value), id=f"score {value}")
          for value in NO_NUMBER),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [0, 30, 400, -1])
def test_equals_detectron2_on_awkward_cases(stable_sort, boxes, scores, number):
    arguments = (boxes, scores, 0.01, 0.5, number)
    assert_same(ours(*arguments), detectron2s(*arguments))


@pytest.mark.parametrize("scale", [20, 1, 1e-9])
def test_one_call_for_all_classes_decides_like_one_for_each_or_not_at_all(scale):
    """The classes are moved apart, by up to 300 000 pixels; it must be noticed where rounding then decides."""
    sure = 0
    for seed in range(60):
        boxes = torch.cat([random_boxes(1, seed) * 10, boxes_on_an_odd_grid(60, seed) * scale])
        best = topk_of_matrix(random_scores(61, 300, seed), 0.5, 60 + 10 * seed)
        arguments = (boxes[best.regions], best.scores, best.classes, 0.5)
        keep = _nms_at_once(*arguments)
        sure += keep is not None
        assert keep is None or torch.equal(keep, _nms_in_turn(*arguments))
    assert (sure == 0) == (scale < 1)


@pytest.mark.parametrize("nms_threshold", [0.0, 1.0])
def test_ends_of_the_overlap(nms_threshold):
    arguments = (close_boxes(100), random_scores(100, 20), 0.01, nms_threshold, 80)
    assert_same(ours(*arguments), detectron2s(*arguments))


def test_boxes_of_each_class(stable_sort):
    boxes = torch.cat([close_boxes(120, seed) for seed in range(15)], dim=1)  # (120, 4 * 15)
    for scores in (random_scores(120, 15), peaked_scores(120, 15)):
        assert_same(ours(boxes, scores, 0.01, 0.5, 30), detectron2s(boxes, scores, 0.01, 0.5, 30))


def test_photos_of_a_batch_are_apart():
    boxes, scores = [random_boxes(20), random_boxes(0), close_boxes(90)], [random_scores(n, 30) for n in (20, 0, 90)]
    sizes = [SIZE, SIZE, (40, 200)]
    found = postprocess_images(boxes, scores, sizes, score_threshold=0.1, nms_threshold=0.5, max_detections=40)
    for detections, *arguments, size in zip(found, boxes, scores, sizes, strict=True):
        assert_same(detections, detectron2s(*arguments, 0.1, 0.5, 40, size))


@pytest.mark.parametrize("number", [10, 300])
def test_over_classes_equals_nms_of_all_candidates(number):
    boxes, scores = close_boxes(150), random_scores(150, 30)
    found = ours(boxes, scores, 0.01, 0.5, number, (200, 200), class_agnostic_nms=True)
    flat, places = scores.flatten().sort(descending=True)
    clipped = boxes.clamp(0, 200)[places // 30]
    keep = nms(clipped[flat > 0.01], flat[flat > 0.01], 0.5)[:number]
    assert torch.equal(found.pred_boxes.tensor, clipped[keep]) and torch.equal(found.scores, flat[keep])
    assert torch.equal(found.pred_classes, places[keep] % 30)


def test_no_more_candidates_than_it_takes():
    """Of 400 000, a few hundred are enough; where almost all overlap it takes more, as many as that needs."""
    asked = []

    def spy(scores, threshold, number):
        asked.append(number)
        return topk_of_matrix(scores, threshold, number)

    options = dict(score_threshold=0.0, nms_threshold=0.5, max_detections=100)
    postprocess_image(partial(spy, random_scores(1000, 400)), random_boxes(1000), SIZE, **options)
    assert max(asked) < 1500
    asked.clear()
    one_place, class_by_class = random_boxes(1).repeat(1000, 1), random_scores(1, 400).repeat(1000, 1)
    assert len(postprocess_image(partial(spy, class_by_class), one_place, SIZE, **options)) == 100
    assert 100_000 <= max(asked) < 300_000 and len(asked) < 10
    assert len(set(asked)) == len(asked), "the same candidates twice"


def test_regions_are_the_most_object_like_that_do_not_overlap():
    boxes, logits = random_boxes(40), torch.randn(40, generator=torch.Generator().manual_seed(2))
    overlaps, left, expected = box_iou(boxes, boxes), set(range(40)), []
    while left:  # greedily: the best, and away with all that overlap with it
        best = max(left, key=lambda index: logits[index])
        expected.append(best)
        left = {index for index in left - {best} if overlaps[best, index] <= 0.5}
    assert 10 < len(expected) < 40
    assert select_regions(boxes, logits, 0.5, 10).tolist() == expected[:10]
    assert select_regions(boxes, logits, 0.5, 40).tolist() == expected
    assert len(select_regions(torch.zeros(0, 4), torch.zeros(0), 0.5, 10)) == 0


@pytest.mark.parametrize("first", [0, 1_000_000])
def test_boxes_of_far_classes_are_not_rounded_away(first):
    """What stays does not depend on how many names there are; at a million, float32 would move boxes by 64 pixels."""
    boxes, classes = close_boxes(200).clamp(min=0) * 8, torch.arange(200) % 7
    scores = torch.linspace(1, 0.1, 200)
    expected = [index for kind in range(7) for index in (7 * nms(boxes[kind::7], scores[kind::7], 0.5) + kind).tolist()]
    kept = nms_per_class(boxes, scores, first + classes, 0.5, 200)
    assert kept.sort().values.tolist() == sorted(expected) and len(expected) < 200


def soft_nms_by_hand(boxes, scores, classes, sigma):
    """One detection after the other, with plain numbers."""
    result = []
    for i, (box, score) in enumerate(zip(boxes.tolist(), scores.tolist(), strict=True)):
        largest = 0.0
        for j in range(i):
            other = boxes[j].tolist()
            if classes[i] == classes[j]:
                width = min(box[2], other[2]) - max(box[0], other[0])
                height = min(box[3], other[3]) - max(box[1], other[1])
                common = max(width, 0) * max(height, 0)
                areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
                largest = max(largest, common / (areas - common) if common else 0.0)
        result.append(score * math.exp(-(largest**2) / sigma))
    return result


@pytest.mark.parametrize("number", [0, 1, 60])
def test_overlapping_detections_score_lower(number):
    boxes, classes = close_boxes(number), torch.arange(number) % 3
    scores = torch.linspace(1, 0.1, number)
    expected = soft_nms_by_hand(boxes, scores, classes, 0.5)
    torch.testing.assert_close(soft_nms_scores(boxes, scores, classes, 0.5), torch.tensor(expected))


def test_detections_after_soft_nms_are_the_same_in_another_order():
    boxes, scores = random_boxes(300), random_scores(300, 5)
    plain, soft = (ours(boxes, scores, 0.5, 0.5, 1000, soft_nms_sigma=sigma) for sigma in (None, 0.5))
    expected = soft_nms_scores(plain.pred_boxes.tensor, plain.scores, plain.pred_classes, 0.5)
    above = expected[expected > 0.5]
    assert torch.equal(soft.scores, above.sort(descending=True).values) and len(soft) < len(plain)
    for box, kind, score in zip(soft.pred_boxes.tensor, soft.pred_classes, soft.scores, strict=True):
        (index,) = ((plain.pred_boxes.tensor == box).all(1) & (plain.pred_classes == kind)).nonzero()
        assert score == expected[index]


def test_boxes_without_area_keep_their_scores():
    boxes, scores = torch.zeros(4, 4), torch.linspace(0.9, 0.6, 4)
    assert torch.equal(soft_nms_scores(boxes, scores, torch.zeros(4), 0.5), scores)


@pytest.mark.parametrize("number", [0, 1, 60])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_boxes_within_better_ones_of_their_class(number, share):
    shapes, classes = [shape_of(*corners) for corners in close_boxes(number).tolist()], torch.arange(number) % 2
    expected = [
        not any(classes[i] == classes[j] and shape.intersection(shapes[j]).area > share * shape.area for j in range(i))
        for i, shape in enumerate(shapes)
    ]
    kept = is_not_contained(close_boxes(number), classes, share)
    assert kept.tolist() == expected and (number < 2 or 2 < sum(expected) < number)
    assert is_not_contained(close_boxes(number), classes, 1).all()


def test_boxes_without_area_are_shown():
    assert is_not_contained(torch.zeros(4, 4), torch.zeros(4), 0.9).all()


@pytest.mark.parametrize("max_iou", [0.3, 0.6])
def test_a_box_is_outdone_by_one_twice_as_sure(max_iou):
    """Beside a loop."""
    boxes, scores = close_boxes(30), torch.rand(30, generator=torch.Generator().manual_seed(1)).sort(descending=True)[0]
    kept = is_not_outdone(boxes, scores, max_iou)
    expected = [
        not any(
            box_iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] > max_iou and scores[i] <= scores[j] / 2
            for j in range(30)
        )
        for i in range(30)
    ]
    assert kept.tolist() == expected and 0 < kept.sum() < 30
    assert is_not_outdone(boxes, scores, 1).all()
    assert is_not_outdone(torch.zeros(0, 4), torch.zeros(0), max_iou).shape == (0,)
