"""Learning rates of parts, in the optimizer that detectron2 builds."""

import pytest
import torch
from detectron2.solver import get_default_optimizer_params
from torch import nn

from ovdet.engine.learning_rate import part_lr_multiplier


def test_a_part_learns_slower_and_its_namesake_does_not():
    model = nn.ModuleDict({"trunk": nn.Sequential(nn.Linear(2, 3)), "trunks": nn.Linear(3, 2)})
    groups = get_default_optimizer_params(model, base_lr=0.4, lr_factor_func=part_lr_multiplier("trunk", 0.25))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert [rates[id(parameter)] for parameter in model["trunk"].parameters()] == pytest.approx([0.1, 0.1])
    assert [rates[id(parameter)] for parameter in model["trunks"].parameters()] == pytest.approx([0.4, 0.4])
    torch.optim.AdamW(groups)
