"""The distillation loss against torch's own L1, on an empty batch, with its gradient."""

import pytest
import torch
import torch.nn.functional as F

from ovdet.objectives.base import RegionBatch
from ovdet.objectives.l1_distillation import L1Distillation, l1_distillation_loss


def rows(number: int, seed: int, width: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def weighted(weight: float, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return L1Distillation(weight)(RegionBatch(student, None, teacher))["loss_distill"]


def test_equals_torch_mean_times_width():
    student, teacher = rows(5, 0), rows(5, 1)
    assert torch.allclose(l1_distillation_loss(student, teacher), 8 * F.l1_loss(student, teacher))


def test_weight_of_the_paper_equals_detpro_form():
    """0.5 times the sum over 512 dimensions is 256 times the mean, as DetPro writes it."""
    student, teacher = rows(3, 0, 512), rows(3, 1, 512)
    assert torch.allclose(weighted(0.5, student, teacher), 256 * F.l1_loss(student, teacher))


def test_no_regions_give_zero_with_a_gradient_path():
    student = rows(0, 0).requires_grad_()
    loss = weighted(0.5, student, rows(0, 1))
    assert loss.item() == 0 and loss.dim() == 0
    loss.backward()
    assert student.grad.shape == (0, 8)


def test_gradient():
    student = rows(3, 0).double().requires_grad_()
    teacher = rows(3, 1).double()
    loss = l1_distillation_loss(student, teacher)
    loss.backward()
    assert torch.allclose(student.grad, (torch.sign(student - teacher) / 3).detach())


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"student \(3, 8\) and teacher \(2, 8\)"):
        l1_distillation_loss(rows(3, 0), rows(2, 0))
