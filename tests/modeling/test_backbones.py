"""timm models as detectron2 backbones: against timm itself, frozen parts, other architectures, bad names."""

import pytest
import timm
import torch

from ovdet.errors import InputError
from ovdet.imagenet_lite import load_efficientnet_lite_weights
from ovdet.modeling.backbones import TimmBackbone


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


@pytest.mark.parametrize(
    ("name", "stem", "deep"),
    [("tf_efficientnet_lite0", "conv_stem.weight", "blocks.4.0.conv_pw.weight"),
     ("resnet18", "conv1.weight", "layer4.0.conv1.weight")],
)  # fmt: skip
def test_gradient_stops_at_the_frozen_stages(name, stem, deep):
    backbone = TimmBackbone(name, freeze_stages=2)
    sum(fmap.sum() for fmap in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    parameters = dict(backbone.body.named_parameters())
    assert parameters[stem].grad is None and not parameters[stem].requires_grad
    assert parameters[deep].grad is not None


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
