"""DeViSE's objective (Frome et al., NIPS 2013): the text of a region's class is nearer than any other by a margin.

Shape letters: M regions over all images, D embedding width, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ovdet.objectives.base import LABELS, Objective, RegionBatch, mean_of_rows


def hinge_rank_loss(embeddings: Tensor, texts: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over regions of the sum over other classes j of max(0, margin - t_label·e + t_j·e).

    Args:
        embeddings: (M, D), unit norm.
        texts: (K, D), unit norm.
        labels: (M,) in [0, K).
        margin: 0.1 in the paper.

    Returns:
        0-dim; 0 with a gradient path for M = 0.
    """
    scores = embeddings @ texts.T  # (M, K)
    ranks = (margin - scores.gather(1, labels[:, None]) + scores).clamp(min=0)
    others = 1 - F.one_hot(labels, len(texts))
    return mean_of_rows((ranks * others).sum(1))


class DeViSE(Objective):
    """`hinge_rank_loss` times a weight."""

    name = "devise"
    needs = frozenset((LABELS,))

    def __init__(self, weight: float = 1.0, margin: float = 0.1) -> None:
        super().__init__(weight)
        self.margin = margin

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return hinge_rank_loss(batch.embeddings, batch.classes.embeddings, batch.labels, self.margin)
