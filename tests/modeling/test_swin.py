"""Swin backbone beside detectron2's, which is the authors' own code."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.backbone import SwinTransformer

from ovdet.modeling.backbones.swin import SwinBackbone, shifted_window_mask

SMALL = dict(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), out_indices=(1, 2, 3))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    theirs = SwinTransformer(**SMALL, window_size=7).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = SwinBackbone(**SMALL).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("relative_position_index")}
    ours.load_state_dict(state)
    return ours, theirs


# maps smaller than a window, odd ones, ones that windows divide, sides that patches do not
@pytest.mark.parametrize("size", [(64, 96), (224, 224), (71, 250), (33, 32)], ids=str)
def test_the_same_as_the_authors(pair, size):
    ours, theirs = pair
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert [*found] == ["stride8", "stride16", "stride32"]
    for map_, other in zip(found.values(), expected.values(), strict=True):
        assert torch.allclose(map_, other, atol=2e-4 * float(other.std()), rtol=1e-4)
    shapes = ours.output_shape()
    assert {name: map_.shape[1] for name, map_ in found.items()} == {k: v.channels for k, v in shapes.items()}


def test_all_of_it_learns():
    model = SwinBackbone(**SMALL, drop_path_rate=0.1)
    maps = model(torch.randn(1, 3, 64, 64))
    sum(map_.square().sum() for map_ in maps.values()).backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not without
    assert all(value.shape[0] == 0 for value in model(torch.zeros(0, 3, 64, 64)).values())


def test_windows_of_one_area_are_not_masked():
    mask = shifted_window_mask(14, 21, 7, 3, torch.device("cpu"))
    assert mask.shape == (6, 49, 49) and not mask[0].any()  # far from the borders that were joined
    assert set(mask.unique().tolist()) == {0.0, -100.0} and torch.equal(mask, mask.transpose(1, 2))
