"""ViLD's distillation (arXiv:2104.13921): a region's embedding comes near the teacher's by L1.

Shape letters: M regions over all images, D embedding width.
"""

from __future__ import annotations

from torch import Tensor

from ovdet.objectives.base import TEACHER, Objective, RegionBatch, mean_of_rows


def l1_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """ViLD's image loss: the L1 distance of unit vectors, summed over D and averaged over the regions.

    Source: arXiv:2104.13921 eq. 4; the released code takes the mean over all entries times D, which is the same.

    Args:
        student: (M, D), unit norm; the regions' embeddings by the detector.
        teacher: (M, D), unit norm; the same regions' crops, embedded by the teacher.

    Returns:
        0-dim, between 0 and 2 * sqrt(D). With M = 0 it is exactly 0 and still has a gradient path.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"expected embeddings of one shape, got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )
    return mean_of_rows((student - teacher).abs().sum(1))


class L1Distillation(Objective):
    """`l1_distillation_loss` times a weight: 0.5 for CLIP ViT-B/32 in the paper."""

    name = "distill"
    needs = frozenset((TEACHER,))

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__(weight)

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return l1_distillation_loss(batch.embeddings, batch.teacher)
