"""The box head on a ResNet's last stage, beside detectron2's own heads."""

from __future__ import annotations

import torch
from detectron2.config import instantiate
from detectron2.model_zoo import get_config

from ovdet.modeling.box_regressors import TwoLayerBoxRegressor
from ovdet.modeling.res5_head import Res5BoxHead


def test_the_same_as_detectron2():
    config = get_config("common/models/mask_rcnn_c4.py").model.roi_heads
    config.mask_head = config.pooler.copy()  # none is needed here
    config.res5.update(in_channels=16, bottleneck_channels=8, out_channels=32)
    theirs = torch.nn.Sequential(*instantiate(config.res5))
    torch.manual_seed(0)
    ours = Res5BoxHead(in_channels=16, out_channels=32)
    theirs.load_state_dict(ours.res5.state_dict())
    pooled = torch.randn(3, 16, 14, 14)
    expected = theirs(pooled)
    assert expected.shape == (3, 32, 7, 7)
    assert torch.allclose(ours(pooled), expected.mean(dim=[2, 3]), atol=1e-6)


def test_no_regions_and_gradients():
    head = Res5BoxHead(in_channels=16, out_channels=32)
    assert head(torch.zeros(0, 16, 14, 14)).shape == (0, 32)
    pooled = torch.randn(2, 16, 14, 14, requires_grad=True)
    regressor = TwoLayerBoxRegressor(32)
    regressor(head(pooled)).sum().backward()
    assert pooled.grad.abs().sum() > 0 and head.res5[0].conv1.weight.grad.abs().sum() > 0
    assert regressor(torch.zeros(0, 32)).shape == (0, 4) and regressor[0].weight.grad.abs().sum() > 0


def test_two_layers_begin_near_the_proposals():
    regressor = TwoLayerBoxRegressor(32)
    features = torch.randn(5, 32)
    first, last = regressor[0], regressor[2]
    hidden = (features @ first.weight.T + first.bias).clamp(min=0)
    assert torch.allclose(regressor(features), hidden @ last.weight.T + last.bias, atol=1e-6)
    assert regressor(features).abs().max() < 0.1
