"""Relational distillation (arXiv:1904.05068, 1907.09682): regions are as alike to each other as the teacher finds them.

Shape letters: M regions over all processes, D embedding width.
"""

from __future__ import annotations

from torch import Tensor

from ovdet.objectives.base import TEACHER, Objective, RegionBatch, gather_rows


def relational_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the pairs' cosines, over ordered pairs of two regions.

    Args:
        student: (M, D), unit norm.
        teacher: (M, D), unit norm.

    Returns:
        0-dim between 0 and 4; 0 with a gradient path where there is no pair.
    """
    student, teacher = student, teacher
    difference = student @ student.T - teacher @ teacher.T
    pairs = len(student) * (len(student) - 1)
    return difference.fill_diagonal_(0).square().sum() / max(pairs, 1)


class RelationalDistillation(Objective):
    """`relational_distillation_loss` over all processes' regions, times a weight."""

    name = "distill_relations"
    needs = frozenset((TEACHER,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return relational_distillation_loss(gather_rows(batch.embeddings), gather_rows(batch.teacher))
