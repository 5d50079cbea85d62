"""timm models as detectron2 backbones: against timm itself, frozen parts, other architectures, bad names; the pyramid
beside the backbone's maps: against detectron2's."""

import pytest
import timm
import torch
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from timm.layers import Conv2dSame
from torch import nn

from ovdet.errors import InputError
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling.backbones.fpn import FPNWithBackboneFeatures
from ovdet.modeling.backbones.same_padding import EvenConv2dSame, pad_evenly
from ovdet.modeling.backbones.timm_backbone import TimmBackbone


def test_maps_equal_timms():
    weights = load_efficientnet_lite_weights(0)
    backbone = TimmBackbone("tf_efficientnet_lite0", weights=weights).eval()
    reference = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    reference.load_state_dict(weights, strict=False)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = backbone(images), reference(images)
    assert list(maps) == ["stride4", "stride8", "stride16", "stride32"]
    for (name, ours), theirs in zip(maps.items(), expected, strict=True):
        shape = backbone.output_shape()[name]
        assert ours.shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_frozen_norm_keeps_statistics_in_training():
    backbone = TimmBackbone("tf_efficientnet_lite0", weights=load_efficientnet_lite_weights(0)).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_folded_norms_say_the_same_and_are_gone():
    weights = load_efficientnet_lite_weights(0)
    plain = TimmBackbone("tf_efficientnet_lite0", weights=weights).eval()
    folded = TimmBackbone("tf_efficientnet_lite0", weights=weights, folded_norm=True, freeze_stages=8).train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert not any("running" in key for key in folded.state_dict())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = folded(images), plain(images)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4 * float(theirs[name].abs().max()))


def test_depthwise_convolutions_stay_and_all_others_learn():
    backbone = TimmBackbone("tf_efficientnet_lite0", folded_norm=True, freeze_depthwise=True)
    weights = {name: parameter.requires_grad for name, parameter in backbone.named_parameters() if "weight" in name}
    assert all(learns == ("conv_dw" not in name) for name, learns in weights.items())
    assert 0 < sum(weights.values()) < len(weights)


def test_the_pyramid_is_detectron2s_and_the_maps_the_backbones():
    options = {"in_features": ["stride8", "stride16", "stride32"], "out_channels": 12}

    def bottom_up():
        return TimmBackbone("resnet18", out_indices=(2, 3, 4))

    ours = FPNWithBackboneFeatures(bottom_up(), top_block=LastLevelMaxPool(), **options).eval()
    theirs = FPN(bottom_up(), top_block=LastLevelMaxPool(), **options).eval()
    weights = {key.replace("pyramid.", "", 1): value for key, value in ours.state_dict().items()}
    assert set(weights) == set(theirs.state_dict())
    theirs.load_state_dict(weights)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, pyramid, below = ours(images), theirs(images), theirs.bottom_up(images)
    assert set(maps) == {"stride8", "stride16", "stride32", "p3", "p4", "p5", "p6"}
    for name, expected in {**below, **pyramid}.items():
        assert torch.equal(maps[name], expected)
        shape = ours.output_shape()[name]
        assert maps[name].shape == (2, shape.channels, -(-64 // shape.stride), -(-96 // shape.stride))
    assert ours.size_divisibility == theirs.size_divisibility == 32
    assert ours.padding_constraints == theirs.padding_constraints


@pytest.mark.parametrize(
    ("name", "frozen"), [("tf_efficientnet_lite0", ("conv_stem.", "blocks.0.")), ("resnet18", ("conv1.", "layer1."))]
)
def test_gradient_stops_at_the_frozen_stages(name, frozen):
    """Two of them: the stem and the first stage; all that follows learns."""
    backbone = TimmBackbone(name, freeze_stages=2)
    sum(fmap.sum() for fmap in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    parameters = dict(backbone.body.named_parameters())
    assert all(any(key.startswith(part) for key in parameters) for part in frozen)
    for key, parameter in parameters.items():
        assert (parameter.grad is None) == (not parameter.requires_grad) == key.startswith(frozen), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "regnetx_002"])
def test_other_timm_models_fit(name):
    backbone = TimmBackbone(name)
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 16, 32]
    assert all(fmap.shape[1] == backbone.output_shape()[key].channels for key, fmap in maps.items())


def test_refusals():
    with pytest.raises(InputError, match="efficientnet_lite9"):
        TimmBackbone("tf_efficientnet_lite9")
    with pytest.raises(InputError, match="conv1.weight"):
        TimmBackbone("resnet18", weights=load_efficientnet_lite_weights(0))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), ((5, 3), (2, 1), 1), (2, 4, 1), (3, 2, 2)]
)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(16, 24), (15, 24), (4, 4)])
def test_even_padding_is_the_same_padding_of_timm(kernel, stride, dilation, groups, size):
    torch.manual_seed(0)
    body = nn.Sequential(Conv2dSame(4, 8, kernel, stride, dilation=dilation, groups=groups))
    x = torch.randn(2, 4, *size, requires_grad=True)
    expected, keys = body(x), list(body.state_dict())
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    pad_evenly(body)
    assert type(body[0]) is EvenConv2dSame and list(body.state_dict()) == keys
    assert torch.equal(body(x), expected)  # weights that are trained go timm's way
    found = body.requires_grad_(False)(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], expected_gradient)
    assert body(x[:0]).shape == (0, *expected.shape[1:])


def test_efficientnets_of_tensorflow_pad_evenly():
    backbone = TimmBackbone("tf_efficientnet_lite0", out_indices=(2, 3, 4), folded_norm=True).eval()
    kinds = [type(module) for module in backbone.modules()]
    assert Conv2dSame not in kinds and kinds.count(EvenConv2dSame) == 5
