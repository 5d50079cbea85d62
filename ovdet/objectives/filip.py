"""FILIP's late interaction (arXiv:2111.07783): each cell of a region looks for its word, each word for its cell.

Shape letters: M regions over all processes, Q cells of a region, C channels, W words of a class, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.objectives.base import CELLS, LABELS, RegionBatch, gather_rows
from ovdet.objectives.info_nce import ContrastiveObjective, first_of_each_class, paired_cross_entropy


def late_interaction(cells: Tensor, words: Tensor) -> Tensor:
    """The mean over cells of their best word's cosine, and over words of their best cell's; the mean of both.

    Args:
        cells: (M, Q, D), unit norm.
        words: (W, D), unit norm, W > 0.

    Returns:
        (M,), between -1 and 1.
    """
    cosines = cells @ words.T  # (M, Q, W)
    return (cosines.amax(2).mean(1) + cosines.amax(1).mean(1)) / 2


class FILIP(ContrastiveObjective):
    """CLIP's loss, one region a class, on `late_interaction` in place of one cosine.

    The cells of the region's pooled features get a projection of their own, which is not used at test time.
    """

    name = "filip"
    needs = frozenset((LABELS, CELLS))

    def __init__(
        self, channels: int, width: int, embed_names: Callable[[list[str]], Tensor], weight: float = 1.0
    ) -> None:
        """
        Args:
            channels: C of the pooled features.
            width: D.
            embed_names: words -> (W, D), unit norm, such as a NameEmbedder.
            weight: see Objective.
        """
        super().__init__(weight)
        self.projection = nn.Linear(channels, width)
        self._embed_names = embed_names
        self._words: dict[str, Tensor] = {}  # (W, D) by class name

    def words_of(self, names: Sequence[str]) -> list[Tensor]:
        """The embeddings (W, D) of each name's words; each name is embedded once."""
        for name in names:
            if name not in self._words:
                self._words[name] = self._embed_names(list(dict.fromkeys(name.replace("_", " ").split())))
        return [self._words[name].to(self.projection.weight) for name in names]

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        cells = F.normalize(
            self.projection(batch.cells.flatten(2).transpose(1, 2).to(self.projection.weight)), dim=2
        )  # (M, Q, D)
        cells, labels = gather_rows(cells), gather_rows(batch.labels)
        rows = first_of_each_class(labels)
        words = self.words_of([batch.classes.names[label] for label in labels[rows].tolist()])
        scores = [late_interaction(cells[rows], of_class) for of_class in words]
        logits = torch.stack(scores, dim=1) if scores else cells.sum((1, 2))[:, None][:, :0]  # (P, P)
        return paired_cross_entropy(logits / self.temperature()) + cells.sum() * 0
