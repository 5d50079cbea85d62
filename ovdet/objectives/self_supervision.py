"""Self-supervision of regions, without names: two views of one region agree (SLIP, DeCLIP).

SLIP (arXiv:2112.12750) adds SimCLR's loss (arXiv:2002.05709) to CLIP's, DeCLIP (arXiv:2110.05208) SimSiam's
(arXiv:2011.10566). The views of a region are its box and one that was moved a little.

Shape letters: M regions over all processes, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.objectives.base import VIEWS, Objective, RegionBatch, gather_rows, mean_of_rows


def simclr_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's NT-Xent: each of the 2 M views picks out its other one among the 2 M - 1 that are not itself.

    Args:
        first: (M, D), unit norm.
        second: (M, D), unit norm; the other views.
        temperature: divides the cosines.

    Returns:
        0-dim; 0 with a gradient path for M = 0.
    """
    views = torch.cat([first, second])
    if not len(views):
        return views.sum()
    logits = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(logits, other)


def simsiam_loss(predicted: tuple[Tensor, Tensor], views: tuple[Tensor, Tensor]) -> Tensor:
    """SimSiam's: minus the cosine of what one view predicts and the other one, which has no gradient.

    Args:
        predicted: of each view, (M, D).
        views: (M, D) each.

    Returns:
        0-dim between -1 and 1.
    """
    pairs = zip(predicted, reversed(views), strict=True)
    cosines = [F.cosine_similarity(ours, theirs.detach(), dim=1) for ours, theirs in pairs]
    return -mean_of_rows(torch.stack(cosines).mean(0))


class SimCLR(Objective):
    """`simclr_loss` over all processes' regions, times a weight."""

    name = "simclr"
    needs = frozenset((VIEWS,))

    def __init__(self, weight: float = 1.0, temperature: float = 0.1) -> None:
        super().__init__(weight)
        self.temperature = temperature

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return simclr_loss(gather_rows(batch.embeddings), gather_rows(batch.views), self.temperature)


class SimSiam(Objective):
    """`simsiam_loss` with a small network that predicts, times a weight."""

    name = "simsiam"
    needs = frozenset((VIEWS,))

    def __init__(self, width: int, weight: float = 1.0) -> None:
        """
        Args:
            width: D.
            weight: see Objective.
        """
        super().__init__(weight)
        self.predictor = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, width))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        views = batch.embeddings, batch.views
        return simsiam_loss(tuple(map(self.predictor, views)), views)
