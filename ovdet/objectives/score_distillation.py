"""Distillation of class scores from a detector before its fine-tuning: learning without forgetting.

Shape letters: R regions over all images, S rows of class embeddings (background is index S).
"""

from __future__ import annotations

from torch import Tensor


def score_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's class probabilities from the teacher's, averaged over the regions.

    Source: LwF's distillation of old outputs, arXiv:1606.09282 section 3, whose cross-entropy differs by the teacher's
    entropy alone.

    Args:
        student_logits: (R, S + 1).
        teacher_logits: (R, S + 1).

    Returns:
        0-dim, at least 0. With R = 0 it is exactly 0 and still has a gradient path.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"student {tuple(student_logits.shape)} and teacher {tuple(teacher_logits.shape)}"
        raise ValueError(f"expected logits of one shape, got {shapes}")
    student, teacher = (logits.float().log_softmax(1) for logits in (student_logits, teacher_logits))
    return (teacher.exp() * (teacher - student)).sum() / max(len(student), 1)
