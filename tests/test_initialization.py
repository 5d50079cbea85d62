"""Networks built without random weights: parameters are left as they lie in memory, all else is as ever."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ovdet.initialization import WithoutRandomWeights


class Part(nn.Module):
    """A parameter and a buffer, both drawn, and a constant."""

    def __init__(self):
        super().__init__()
        self.drawn = nn.Parameter(torch.zeros(4))
        nn.init.normal_(self.drawn, std=3)
        nn.init.trunc_normal_(self.drawn)
        self.constant = nn.Parameter(torch.zeros(4))
        nn.init.constant_(self.constant, 7)
        self.register_buffer("noise", torch.zeros(4).normal_())


def test_parameters_are_not_drawn_and_the_rest_is():
    with WithoutRandomWeights():
        part = Part()
    assert (part.drawn == 0).all() and (part.constant == 7).all() and (part.noise != 0).all()
    assert (Part().drawn != 0).all()


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(3, 2, 3), nn.LayerNorm(3), nn.BatchNorm2d(3)])
def test_nothing_is_drawn_for_torchs_layers(layer):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        with WithoutRandomWeights():
            layer.reset_parameters()
        first = torch.rand(1)
        torch.manual_seed(5)
        assert first == torch.rand(1)
