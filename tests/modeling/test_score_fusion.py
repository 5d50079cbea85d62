"""Fusion against ViLD's released arithmetic, and its edges."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes
from torchvision.ops import clip_boxes_to_image

from ovdet.errors import InputError
from ovdet.modeling.score_fusion import (
    GeometricScores,
    ImageScores,
    RegionTerms,
    TextScores,
    TextTimesLogit,
    fuse_branches,
    join_term,
    log_area_shares,
)


def terms(objectness, **others):
    """(R,) logits of objectness and probabilities of others -> RegionTerms of (R, 1)."""
    return RegionTerms(F.logsigmoid(objectness)[:, None], **{name: x.log()[:, None] for name, x in others.items()})


@pytest.fixture
def probabilities():
    generator = torch.Generator().manual_seed(0)
    text, image = torch.rand(2, 7, 4, generator=generator).softmax(-1)
    return text, image, torch.randn(7, generator=generator), torch.tensor([True, False, True, False])


def test_geometric_equals_the_released_cube_root(probabilities):
    """ViLD's code: cube root of image * text * (text for base, image for novel)."""
    text, image, objectness, is_base = probabilities
    expected = (image * text * torch.where(is_base, text, image)).pow(1 / 3)
    scores = GeometricScores()(text.log(), image.log(), terms(objectness), is_base).exp()
    assert torch.allclose(scores, expected, atol=1e-6)


def test_one_exponent_where_base_and_novel_are_not_told_apart(probabilities):
    text, image, objectness, _ = probabilities
    expected = text.pow(0.6) * image.pow(0.4)
    scores = GeometricScores(open_exponent=0.6)(text.log(), image.log(), terms(objectness)).exp()
    assert torch.allclose(scores, expected)


def test_the_foreground_joins_for_novel_classes_alone(probabilities):
    text, image, objectness, is_base = probabilities
    foreground = text.sum(1).clamp(max=0.9)  # any number of each region
    plain = text.pow(1 / 3) * image.pow(2 / 3)
    expected = torch.where(is_base, text.pow(2 / 3) * image.pow(1 / 3), plain.pow(0.6) * foreground[:, None].pow(0.4))
    fusion = GeometricScores(foreground_exponent=0.4)
    scores = fusion(text.log(), image.log(), terms(objectness, foreground=foreground), is_base).exp()
    assert fusion.needs_foreground and torch.allclose(scores, expected)
    assert not GeometricScores().needs_foreground


def test_the_area_joins_for_novel_classes_alone(probabilities):
    text, image, objectness, is_base = probabilities
    area = text.sum(1) / text.sum(1).max()  # any share of each region
    fusion = GeometricScores(area_exponent=0.2)
    plain = GeometricScores()(text.log(), image.log(), terms(objectness), is_base).exp()
    scores = fusion(text.log(), image.log(), terms(objectness, area=area), is_base).exp()
    assert torch.allclose(scores, torch.where(is_base, plain, plain * area[:, None].pow(0.2)))
    of_all = fusion(text.log(), image.log(), terms(objectness, area=area)).exp()
    plain = GeometricScores()(text.log(), image.log(), terms(objectness)).exp()
    assert torch.allclose(of_all, plain * area[:, None].pow(0.2))
    assert fusion.needs_area and not GeometricScores().needs_area


def test_area_shares_equal_those_of_torchvision_and_detectron2():
    boxes = [[0, 0, 80, 60], [-20, 10, 40, 50], [70, 50, 200, 100], [10, 10, 10.1, 10.1], [90, 0, 99, 9]]
    boxes = torch.tensor(boxes)
    expected = Boxes(clip_boxes_to_image(boxes, (60, 80))).area() / (60 * 80)
    shares = log_area_shares(boxes, (60, 80)).exp()
    torch.testing.assert_close(shares, expected.clamp(min=1e-4))
    assert shares[0] == 1 and shares[3] == shares[4] == shares.min()
    assert log_area_shares(torch.zeros(0, 4), (60, 80)).shape == (0,)
    inner = torch.tensor([[10.0, 10, 40, 30]], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: log_area_shares(b, (60, 80)), inner)


def test_single_branches(probabilities):
    text, image, objectness, is_base = probabilities
    assert torch.allclose(TextScores()(text.log(), None, terms(objectness), is_base), text.log())
    expected = (image * objectness.sigmoid()[:, None]).sqrt()
    assert torch.allclose(ImageScores()(None, image.log(), terms(objectness), is_base).exp(), expected)
    asks = [(fusion.needs_text, fusion.needs_image) for fusion in (TextScores, ImageScores, GeometricScores)]
    assert asks == [(True, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_exponent": 1.5}, r"within \[0, 1\], got 1.5"),
        ({"foreground_exponent": -0.1}, r"within \[0, 1\], got -0.1"),
        ({"objectness_exponent": float("nan")}, r"within \[0, 1\], got nan"),
        ({"area_exponent": -0.5}, "area_exponent of at least 0, got -0.5"),
    ],
)
def test_exponents_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GeometricScores(**options)


def test_whole_numbers_are_exponents_too(probabilities):
    text, image, objectness, is_base = probabilities
    whole = GeometricScores(base_exponent=1, novel_exponent=0, objectness_exponent=0)
    expected = torch.where(is_base, text, image)
    assert torch.allclose(whole(text.log(), image.log(), terms(objectness), is_base).exp(), expected)


def test_no_regions_and_nothing_impossible():
    empty = torch.zeros(0, 3)
    assert fuse_branches(empty, empty, torch.full((3,), 0.5)).shape == (0, 3)
    assert GeometricScores()(empty, empty, terms(torch.zeros(0))).shape == (0, 3)
    scores = join_term(torch.full((2, 3), -1e4), torch.full((2, 1), -1e4), 0.5)
    assert torch.isfinite(scores).all() and (scores < -1000).all()


def test_gradient(probabilities):
    text, image, objectness, _ = (x.double() for x in probabilities)
    exponents = torch.tensor([2 / 3, 1 / 3, 2 / 3, 1 / 3], dtype=torch.double)
    inputs = tuple(x.requires_grad_() for x in (text.log(), image.log(), objectness[:, None]))
    assert torch.autograd.gradcheck(lambda t, i, o: join_term(fuse_branches(t, i, exponents), o, 0.3), inputs)


def test_text_times_logit():
    """RegionCLIP's zero-shot score; a negative logit has no root, and no detection."""
    text = torch.tensor([[0.2, 0.8], [0.2, 0.8]]).log()
    fusion = TextTimesLogit()
    objectness = RegionTerms(fusion.log_objectness(torch.tensor([6.0, -1.0]))[:, None])
    scores = fusion(text, None, objectness).exp()
    assert torch.allclose(scores[0], torch.tensor([1.2, 4.8]).sqrt())
    assert (scores[1] < 1e-9).all() and scores.isfinite().all()
