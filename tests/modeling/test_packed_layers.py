"""Packed layers against torch's own, and a detector with them against the same without."""

from copy import deepcopy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from timm.layers import Conv2dSame
from torch import nn

from ovdet.modeling import packed_layers
from ovdet.modeling.backbones.same_padding import pad_evenly
from ovdet.modeling.backbones.timm_backbone import TimmBackbone
from ovdet.modeling.packed_layers import PackedConv2d, PackedLinear, pack_layers, use_8_bits


def frozen_norm(channels: int) -> FrozenBatchNorm2d:
    norm = FrozenBatchNorm2d(channels)
    for name, value in norm.named_buffers():
        value.copy_(torch.rand(value.shape) + 0.5 if name != "num_batches_tracked" else value)
    return norm


NETWORKS = {
    "grouped": lambda: nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=4),
    "dilated": lambda: nn.Conv2d(8, 8, (3, 5), padding=(2, 4), dilation=2, bias=False),
    "then ReLU": lambda: nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU6()),
    "frozen norm": lambda: Conv2d(8, 16, 3, bias=False, norm=frozen_norm(16), activation=nn.functional.relu),
    "norm and bias": lambda: Conv2d(8, 16, 3, norm=frozen_norm(16), activation=nn.functional.gelu),
    "group norm": lambda: Conv2d(8, 16, 3, norm=nn.GroupNorm(4, 16), activation=nn.ReLU()),
    "same padding": lambda: nn.Sequential(Conv2dSame(8, 16, 3, stride=2), nn.ReLU6(), Conv2dSame(16, 8, 5, stride=2)),
    "reflected": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "padding by name": lambda: nn.Conv2d(8, 8, 3, padding="same"),
    "linear over channels": lambda: nn.Linear(24, 5),
    "flattened": lambda: nn.Sequential(nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 22, 7), nn.ReLU()),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(16, 24)])
def test_it_says_what_torch_says(name, size):
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    pad_evenly(nn.ModuleList([network]))
    expected, keys = deepcopy(network), list(network.state_dict())
    assert pack_layers(network) and list(network.state_dict()) == keys
    for number in (2, 0, 1):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(number, 8, *size).contiguous(memory_format=layout)
            with torch.no_grad():
                torch.testing.assert_close(network(x), expected(x), rtol=1e-4, atol=1e-5)
    # as trained
    x = torch.randn(2, 8, *size, requires_grad=True)
    network(x).square().sum().backward()
    found, x.grad = x.grad, None
    expected(x).square().sum().backward()
    torch.testing.assert_close(found, x.grad)
    # a copy, and other weights
    with torch.no_grad():
        for each in (network, copy := deepcopy(network), expected):
            for parameter in each.parameters():
                parameter.mul_(-0.5)
        for each in (network, copy):
            torch.testing.assert_close(each(x), expected(x), rtol=1e-4, atol=1e-5)


def test_sides_that_the_stride_does_not_divide():
    network = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), nn.ReLU())
    expected = deepcopy(network)
    pad_evenly(network)
    pack_layers(network)
    with torch.no_grad():
        for size in ((9, 13), (8, 12), (8, 13)):
            x = torch.randn(1, 3, *size)
            torch.testing.assert_close(network(x), expected(x), rtol=1e-4, atol=1e-5)


def test_a_backbone_with_its_activations_and_a_box_head_without_copies(monkeypatch):
    body = TimmBackbone("tf_efficientnet_lite0", out_indices=(2, 3), folded_norm=True).eval()
    head = FastRCNNConvFCHead(ShapeSpec(channels=6, height=3, width=3), conv_dims=[], fc_dims=[10, 8]).eval()
    images, maps = torch.randn(1, 3, 64, 96), torch.randn(5, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = body(images), head(maps)
        pack_layers(body), pack_layers(head)
        for name, value in expected[0].items():
            torch.testing.assert_close(body(images)[name], value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(head(maps), expected[1], rtol=1e-4, atol=1e-5)
        assert all(isinstance(m.forward, PackedConv2d) for m in body.modules() if isinstance(m, nn.Conv2d))
        assert isinstance(head.fc1.forward, PackedLinear) and head.flatten(maps) is maps
        assert head.fc_relu1(maps) is maps


def test_autocast_packs_in_its_type():
    network = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4 * 4, 5))
    expected, x = deepcopy(network), torch.randn(2, 8, 6, 6)
    pack_layers(network)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)
            torch.testing.assert_close(half, expected(x), rtol=0.05, atol=0.05)
        assert half.dtype == torch.bfloat16 and not torch.equal(half.float(), network(x))
        torch.testing.assert_close(network(x), expected(x), rtol=1e-4, atol=1e-5)


def test_a_torch_without_onednn_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert not pack_layers(network) and "forward" not in vars(network[0])


def in_8_bits(*parts: nn.Module) -> nn.ModuleDict:
    """A detector of a backbone with a wide convolution, and these; packed, and what can be in 8 bits."""
    backbone = nn.ModuleDict({"bottom_up": nn.Conv2d(8, 600, 1), "pyramid": nn.Conv2d(8, 64, 3)})
    detector = nn.ModuleDict({"backbone": backbone, "heads": nn.ModuleList(parts)})
    detector.backbone = backbone
    pack_layers(detector)
    return detector


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize(
    "name",
    ["then ReLU", "frozen norm", "norm and bias", "dilated", "same padding", "flattened", "linear over channels"],
)
def test_8_bits_say_nearly_the_same(name, is_half, monkeypatch):
    """Of inputs of both signs and of positive ones, and of weights that were altered; trained as they are."""
    monkeypatch.setattr(packed_layers, "_LEAST_PRODUCTS", 1)
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    pad_evenly(nn.ModuleList([network]))
    expected = deepcopy(network)
    keys = list(network.state_dict())
    assert use_8_bits(in_8_bits(network)) == 1 + sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in network.modules())
    assert list(network.state_dict()) == keys
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_half, cache_enabled=False):
        for x in (torch.randn(2, 8, 16, 24), 30 * torch.rand(1, 8, 16, 24), torch.zeros(1, 8, 16, 24)):
            for layout in (torch.contiguous_format, torch.channels_last):
                found, right = network(x.contiguous(memory_format=layout)), expected(x)
                assert found.dtype == (torch.bfloat16 if is_half else torch.float32) and found.shape == right.shape
                error = (found.float() - right.float()).norm() / right.float().norm().clamp(min=1e-3)
                assert error < 0.03 and (is_half or error > 1e-5 or not x.any())
        for parameter in (*network.parameters(), *expected.parameters()):
            parameter.mul_(-0.5)
        x = torch.randn(1, 8, 16, 24)
        assert (network(x).float() - expected(x).float()).norm() < 0.03 * expected(x).float().norm()
    x.requires_grad_()
    torch.testing.assert_close(network(x), expected(x))  # as trained


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 64, 3), nn.Linear(24, 512)])
def test_no_8_bits_where_an_input_is_not_finite(layer, value):
    """It has no range; all else of it is as it was."""
    expected, x = deepcopy(layer), torch.randn(1, 8, 16, 24)
    assert use_8_bits(in_8_bits(layer)) == 2
    x[0, 3, 5, 5] = value
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected(x), equal_nan=True, rtol=1e-4, atol=1e-5)


def test_8_bits_where_they_pay():
    """Not in the backbone, in narrow layers, in groups of channels, nor in detectors of another kind."""
    wide, narrow, grouped = nn.Conv2d(8, 64, 3), nn.Linear(9, 500), nn.Conv2d(64, 640, 3, groups=64)
    strided, linear = nn.Conv2d(8, 200, 3, stride=2), nn.Linear(9, 512)
    detector = in_8_bits(wide, narrow, grouped, strided, linear)
    assert use_8_bits(detector) == 3
    chosen = [layer for layer in detector.modules() if getattr(vars(layer).get("forward"), "in_8_bits", False)]
    assert chosen == [detector.backbone["pyramid"], wide, linear]
    assert use_8_bits(nn.ModuleList([linear])) == 0
