"""UniCL's objective (arXiv:2204.03610), Florence's too: contrastive both ways, with many right pairs of one class.

Shape letters: M regions over all processes, I whole images with a caption, D embedding width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovdet.objectives.base import LABELS, PAIRS, RegionBatch, gather_rows
from ovdet.objectives.info_nce import ContrastiveObjective


def unicl_loss(embeddings: Tensor, texts: Tensor, labels: Tensor, temperature: Tensor | float) -> Tensor:
    """Bidirectional supervised contrast: all pairs of a region and a text of its label are right.

    For each region i the mean over P(i), the texts of its label, of -log softmax_j(e_i·t_j / temperature); likewise for
    each text over regions; their mean (the paper has the sum of both).

    Args:
        embeddings: (M, D), unit norm.
        texts: (M, D), unit norm; of each region its class's.
        labels: (M,).
        temperature: divides the cosines.

    Returns:
        0-dim; 0 with a gradient path for M = 0.
    """
    logits = embeddings @ texts.T / temperature
    right = (labels[:, None] == labels).to(logits)
    right = right / right.sum(1, keepdim=True)  # as many texts of a label as regions: the same both ways
    by_region, by_text = (-(right * each.log_softmax(1)).sum(1) for each in (logits, logits.T))
    return torch.cat([by_region, by_text]).sum() / max(2 * len(labels), 1)


class UniCL(ContrastiveObjective):
    """`unicl_loss` over all processes' regions, times a weight; the temperature is learned."""

    name = "unicl"
    needs = frozenset((LABELS,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        embeddings, labels = gather_rows(batch.embeddings), gather_rows(batch.labels)
        return unicl_loss(embeddings, batch.classes.embeddings[labels], labels, self.temperature())


class CaptionedUniCL(UniCL):
    """UniCL over regions and whole images at once: a caption is the text of its image alone, as a class of its own."""

    needs = frozenset((LABELS, PAIRS))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        embeddings, labels = gather_rows(batch.embeddings), gather_rows(batch.labels)
        images, captions = gather_rows(batch.pairs.embeddings), gather_rows(batch.pairs.captions)
        texts = torch.cat([batch.classes.embeddings[labels], captions])
        of_images = len(batch.classes.names) + torch.arange(len(images), device=labels.device)
        rows = torch.cat([embeddings, images])
        return unicl_loss(rows, texts, torch.cat([labels, of_images]), self.temperature())
