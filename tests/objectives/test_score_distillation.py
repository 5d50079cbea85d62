"""Distillation of class scores against torch's own divergence, on an empty batch, with its gradient."""

import pytest
import torch

from ovdet.objectives.score_distillation import score_distillation_loss


def logits(number: int, seed: int, classes: int = 7) -> torch.Tensor:
    return 3 * torch.randn(number, classes, generator=torch.Generator().manual_seed(seed))


def test_equals_torchs_divergence():
    student, teacher = logits(5, 0), logits(5, 1)
    expected = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)(
        student.log_softmax(1), teacher.log_softmax(1)
    )
    assert torch.allclose(score_distillation_loss(student, teacher), expected)
    assert score_distillation_loss(student, student) == 0


def test_no_regions_give_zero_with_a_gradient_path():
    student = logits(0, 0).requires_grad_()
    loss = score_distillation_loss(student, logits(0, 1))
    assert loss.item() == 0 and loss.dim() == 0
    loss.backward()
    assert student.grad.shape == (0, 7)


def test_gradient():
    student, teacher = logits(3, 0).double().requires_grad_(), logits(3, 1).double()
    score_distillation_loss(student, teacher).backward()
    assert torch.allclose(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 3, atol=1e-6)


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"student \(3, 7\) and teacher \(2, 7\)"):
        score_distillation_loss(logits(3, 0), logits(2, 0))
