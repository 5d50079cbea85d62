"""Region distillation from an image-level teacher.

Shape letters: R regions over all images, D embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn


def l1_distillation_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """ViLD's image loss: the L1 distance of unit vectors, summed over D and averaged over the regions.

    Source: arXiv:2104.13921 eq. 4; the released code takes the mean over all entries times D, which is the same.

    Args:
        student_embeddings: (R, D), unit norm; the regions' embeddings by the detector.
        teacher_embeddings: (R, D), unit norm; the same regions' crops, embedded by the teacher.

    Returns:
        0-dim, between 0 and 2 * sqrt(D). With R = 0 it is exactly 0 and still has a gradient path.
    """
    if student_embeddings.shape != teacher_embeddings.shape:
        raise ValueError(
            f"expected embeddings of one shape, got student {tuple(student_embeddings.shape)} "
            f"and teacher {tuple(teacher_embeddings.shape)}"
        )
    distance = (student_embeddings.float() - teacher_embeddings.float()).abs().sum()
    return distance / max(len(student_embeddings), 1)


class L1Distillation(nn.Module):
    """`l1_distillation_loss` times a weight: 0.5 for CLIP ViT-B/32 in the paper."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """(R, D), (R, D) -> 0-dim."""
        return self.weight * l1_distillation_loss(student_embeddings, teacher_embeddings)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
