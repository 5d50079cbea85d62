"""The least size that is traced; the layers are tested in tests/export/test_graph.py."""

import pytest
import torch
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ovdet.modeling.tracing import min_steps, opaque


@pytest.mark.parametrize(("top", "steps"), [(LastLevelMaxPool(), 3), (LastLevelP6P7(4, 4), 5), (nn.Identity(), 3)])
def test_least_sides_leave_no_map_a_single_cell(top, steps):
    """A stride of 32, then two more halvings by P6 and P7: 3 and 5 steps leave sides of 3 and of 2."""
    assert min_steps(nn.Sequential(nn.Conv2d(3, 4, 3), top)) == steps
    coarsest = torch.zeros(1, 4, steps, steps)
    last = top(coarsest)[-1] if isinstance(top, (LastLevelMaxPool, LastLevelP6P7)) else coarsest
    assert min(last.shape[-2:]) >= 2


def test_a_number_that_tracing_knows_nothing_of():
    assert opaque(7) == 7 and opaque(1) == 3 and opaque(4, least=5) == 5
