"""OVR-CNN's grounding (arXiv:2011.10678): a photo's regions fit the words of its own caption better than of any other.

Shape letters: N images over all processes, R regions of one image, W words of one caption, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovdet.objectives.base import CAPTIONS, RegionBatch, gather_rows
from ovdet.objectives.info_nce import ContrastiveObjective, paired_cross_entropy


def grounding_score(regions: Tensor, words: Tensor, temperature: float) -> Tensor:
    """Similarity of an image and a caption: the mean over words of the cosine with the regions that each attends to.

    Args:
        regions: (R, D), unit norm, R > 0.
        words: (W, D), unit norm, W > 0.
        temperature: of the softmax over regions, by which a word attends to those that are like it.

    Returns:
        0-dim.
    """
    cosines = regions @ words.T  # (R, W)
    return ((cosines / temperature).softmax(0) * cosines).sum(0).mean()


class CaptionGrounding(ContrastiveObjective):
    """Images pick out their captions among all of the step, and captions their images, by `grounding_score`."""

    name = "captions"
    needs = frozenset((CAPTIONS,))

    def __init__(self, weight: float = 1.0, attention_temperature: float = 0.1) -> None:
        """
        Args:
            weight: see Objective.
            attention_temperature: see grounding_score.
        """
        super().__init__(weight)
        self.attention_temperature = attention_temperature

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim; images without a caption or a region take no part."""
        regions, words = batch.of_each_image(), batch.words
        taken = [i for i in range(len(words)) if len(regions[i]) and len(words[i])]
        captions = _gather_captions([words[i] for i in taken], batch.embeddings)
        scores = [
            torch.stack([grounding_score(regions[i], caption, self.attention_temperature) for caption in captions])
            for i in taken
        ]
        own = torch.stack(scores) if scores else batch.embeddings.new_zeros(0, len(captions))
        anchor = batch.embeddings.sum() * 0  # a gradient path, whoever takes part
        return paired_cross_entropy(gather_rows(own + anchor) / self.temperature()) + anchor


def _gather_captions(captions: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Words (W, D) of this process' captions -> of all processes'."""
    counts = torch.tensor([len(caption) for caption in captions], dtype=torch.int64, device=like.device)
    words = torch.cat([like.new_zeros(0, like.shape[1]), *captions])
    return list(gather_rows(words).split(gather_rows(counts).tolist()))
