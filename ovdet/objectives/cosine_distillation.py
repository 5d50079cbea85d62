"""Distillation by angle: one minus the cosine of a region's embedding and the teacher's.

Shape letters: M regions over all images, D embedding width.
"""

from __future__ import annotations

from torch import Tensor

from ovdet.objectives.base import TEACHER, Objective, RegionBatch, mean_of_rows


def cosine_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(M, D), (M, D), unit norm -> 0-dim between 0 and 2: mean of 1 - s·t, half the squared distance."""
    return mean_of_rows(1 - (student * teacher).sum(1))


class CosineDistillation(Objective):
    """`cosine_distillation_loss` times a weight."""

    name = "distill_cosine"
    needs = frozenset((TEACHER,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return cosine_distillation_loss(batch.embeddings, batch.teacher)
