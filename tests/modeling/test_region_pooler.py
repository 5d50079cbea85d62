"""ROIAlign as weighted sums against torchvision's, forward and backward."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ovdet.errors import InputError
from ovdet.modeling.region_pooler import RegionPooler

SCALES = (1 / 8, 1 / 16, 1 / 32)


def build_both(samples: int = 2, scales=SCALES):
    options = dict(scales=scales, sampling_ratio=samples, canonical_box_size=112)
    return RegionPooler(7, **options), ROIPooler(7, pooler_type="ROIAlignV2", **options)


def make_maps(images: int = 2, scales=SCALES, height: int = 192, width: int = 256) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(int(height * scale), int(width * scale)) for scale in scales]
    maps = [torch.randn(images, 5, *size).to(memory_format=torch.channels_last) for size in sizes]
    return [level.requires_grad_() for level in maps]


def make_boxes(number: int) -> Boxes:
    """Of all sizes, some over the edges, some empty."""
    corners = torch.rand(number, 2) * torch.tensor([300.0, 230.0]) - 20
    sides = torch.rand(number, 2) * torch.tensor([1.0, 16.0, 250.0])[torch.randint(3, (number, 1))]
    return Boxes(torch.cat([corners, corners + sides], dim=1))


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("scales", [SCALES, SCALES[:1]])
@pytest.mark.parametrize("numbers", [(40, 25), (0, 30), (0, 0)])
def test_equals_torchvisions(samples, scales, numbers):
    ours, theirs = build_both(samples, scales)
    maps, boxes = make_maps(scales=scales), [make_boxes(number) for number in numbers]
    found, expected = ours(maps, boxes), theirs(maps, boxes)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    seed = torch.randn(found.shape)
    for mine, other in zip(
        torch.autograd.grad(found, maps, seed),
        torch.autograd.grad(expected, maps, seed, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=1e-4, atol=2e-4)


def test_mixed_precision_and_inference_mode():
    ours, theirs = build_both()
    maps, boxes = make_maps(), [make_boxes(20), make_boxes(10)]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = ours([level.bfloat16() for level in maps], boxes)
    expected = theirs([level.bfloat16().float() for level in maps], boxes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_boxes_that_are_none_get_nothing():
    nan = float("nan")
    found = build_both()[0](make_maps(1), [Boxes(torch.tensor([[nan, nan, nan, nan], [5.0, 5.0, nan, 60.0]]))])
    assert torch.equal(found, torch.zeros_like(found))


def test_a_number_of_samples_for_each_box_is_refused():
    with pytest.raises(InputError, match="sampling_ratio"):
        RegionPooler(7, scales=SCALES, sampling_ratio=0)
