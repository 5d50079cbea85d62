"""RegionCLIP's parts beside open_clip's network, and the proposals of a network of its own."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from detectron2.model_zoo import get_config
from detectron2.structures import ImageList
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet

from ovdet.modeling.backbones.clip_resnet import AttentionPool, ClipRegionHead, ClipResNetBackbone
from ovdet.modeling.box_regressors import ProposalsAsBoxes
from ovdet.modeling.embedding_heads import UnitNorm
from ovdet.modeling.offline_proposals import OfflineProposals

LAYERS, WIDTH = (1, 1, 1, 1), 8


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    torch.manual_seed(0)
    network = ModifiedResNet(list(LAYERS), output_dim=24, heads=4, image_size=96, width=WIDTH).eval()
    for parameter in network.attnpool.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return FrozenBatchNorm2d.convert_frozen_batchnorm(network)


def load(part: torch.nn.Module, state: dict) -> torch.nn.Module:
    part.load_state_dict({key: state[key] for key in part.state_dict()})
    return part.eval()


def test_both_halves_are_clips_network(whole):
    state = whole.state_dict()
    backbone = load(ClipResNetBackbone(layers=LAYERS, width=WIDTH), state)
    head = load(ClipRegionHead(layers=LAYERS, width=WIDTH, num_heads=4, pooled_side=3, out_features=24), state)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        res4 = backbone(images)["res4"]
        assert res4.shape == (2, backbone.output_shape()["res4"].channels, 6, 6)
        assert torch.allclose(head(res4), whole(images), atol=1e-5)


def test_one_query_is_enough():
    torch.manual_seed(0)
    theirs = AttentionPool2d(5, 32, 4, 12)
    ours = AttentionPool(32, 5, 4, 12)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # biases of keys too, which change nothing
    ours.load_state_dict(theirs.state_dict())
    maps = torch.randn(6, 32, 5, 5)
    assert torch.allclose(ours(maps), theirs(maps), atol=1e-3)
    found, expected = (torch.autograd.grad(pool(maps).square().sum(), pool.v_proj.weight)[0] for pool in (ours, theirs))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-2 * float(expected.abs().max()))
    assert ours(maps[:0]).shape == (0, 12)


def test_parts_of_a_head():
    features = torch.randn(3, 8)
    assert torch.allclose(UnitNorm()(features), features / features.norm(dim=1, keepdim=True))
    assert torch.equal(ProposalsAsBoxes()(features), torch.zeros(3, 4))
    assert ProposalsAsBoxes()(features[:0]).shape == (0, 4)


def test_no_regions_and_gradients():
    head = ClipRegionHead(layers=LAYERS, width=WIDTH, num_heads=4, pooled_side=3, out_features=24)
    pooled = torch.randn(2, 16 * WIDTH, 6, 6, requires_grad=True)
    head(pooled).sum().backward()
    learned = {key for key, value in head.named_parameters() if value.grad is not None}
    assert pooled.grad.abs().sum() > 0
    assert {key for key, _ in head.named_parameters()} - learned == {"attnpool.k_proj.bias"}  # which changes nothing
    assert head(torch.zeros(0, 16 * WIDTH, 6, 6)).shape == (0, 24)


@pytest.fixture(scope="module")
def offline() -> OfflineProposals:
    """An RPN on a C4 backbone; the detector takes RGB of other colors."""
    config = get_config("common/models/mask_rcnn_c4.py").model
    config.proposal_generator.update(pre_nms_topk=(100, 50), post_nms_topk=(30, 20))
    torch.manual_seed(0)
    colors = dict(pixel_mean=[103.0, 116, 123], pixel_std=[1.0, 2, 1])
    colors |= dict(detector_mean=[120.0, 117, 104], detector_std=[68.0, 67, 70])
    parts = instantiate(config.backbone), instantiate(config.proposal_generator)
    return OfflineProposals(*parts, **colors, swap_channels=True)


def test_own_images_are_in_own_colors(offline):
    rgb = torch.randint(0, 256, (3, 40, 60)).float()
    normalized = (rgb - offline.detector_mean) / offline.detector_std
    images = ImageList.from_tensors([normalized, normalized[:, :30, :50]])
    own = offline.own_images(images)
    expected = (rgb.flip(0) - offline.pixel_mean) / offline.pixel_std
    assert own.image_sizes == [(40, 60), (30, 50)]
    assert torch.allclose(own.tensor[0], expected, atol=1e-4)
    assert torch.allclose(own.tensor[1, :, :30, :50], expected[:, :30, :50], atol=1e-4)
    assert not own.tensor[1, :, 30:].any()  # padding is of its own colors too


def test_they_are_not_trained(offline):
    images = ImageList.from_tensors([torch.randn(3, 64, 64)])
    proposals, losses = offline.train()(images, {}, None)
    assert losses == {} and 0 < len(proposals[0]) <= 20  # as many as at test time
    assert not offline.training and not any(value.requires_grad for value in offline.parameters())
    assert torch.equal(proposals[0].proposal_boxes.tensor, offline.eval()(images, {})[0][0].proposal_boxes.tensor)
