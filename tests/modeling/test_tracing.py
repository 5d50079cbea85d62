"""The least size that is traced; the layers are tested in tests/export/test_graph.py."""

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ovdet.modeling.tracing import min_steps, opaque, with_folded_norms


@pytest.mark.parametrize(("top", "steps"), [(LastLevelMaxPool(), 3), (LastLevelP6P7(4, 4), 5), (nn.Identity(), 3)])
def test_least_sides_leave_no_map_a_single_cell(top, steps):
    """A stride of 32, then two more halvings by P6 and P7: 3 and 5 steps leave sides of 3 and of 2."""
    assert min_steps(nn.Sequential(nn.Conv2d(3, 4, 3), top)) == steps
    coarsest = torch.zeros(1, 4, steps, steps)
    last = top(coarsest)[-1] if isinstance(top, (LastLevelMaxPool, LastLevelP6P7)) else coarsest
    assert min(last.shape[-2:]) >= 2


def test_a_number_that_tracing_knows_nothing_of():
    assert opaque(7) == 7 and opaque(1) == 3 and opaque(4, least=5) == 5


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_does_its_batch_norm_s_part(bias):
    layer = Conv2d(3, 4, 3, bias=bias, norm=nn.BatchNorm2d(4), activation=nn.functional.relu)
    for values in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(layer.norm.running_var, 0.5, 2)
    part, x = nn.Sequential(layer, Conv2d(4, 4, 1)).eval(), torch.randn(2, 3, 6, 5)
    folded = with_folded_norms(part)
    assert folded[0].norm is None and part[0].norm is layer.norm
    torch.testing.assert_close(folded(x), part(x), atol=1e-5, rtol=1e-5)
    assert with_folded_norms(folded) is folded
