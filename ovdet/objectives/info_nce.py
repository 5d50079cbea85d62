"""CLIP's objective (arXiv:2103.00020), ALIGN's too (arXiv:2102.05918): each region picks out its pair among all others.

Shape letters: M pairs over all processes, D embedding width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.objectives.base import LABELS, PAIRS, TEACHER, Objective, RegionBatch, gather_rows

_MIN_TEMPERATURE = 0.01  # CLIP's, for steady steps


def info_nce_loss(first: Tensor, second: Tensor, temperature: Tensor | float) -> Tensor:
    """Symmetric InfoNCE: half the cross-entropy of picking row m of `second` by row m of `first`, and half the reverse.

    Args:
        first: (M, D), unit norm.
        second: (M, D), unit norm; row m belongs to row m.
        temperature: divides the cosines.

    Returns:
        0-dim; 0 with a gradient path for M = 0.
    """
    return paired_cross_entropy(first @ second.T / temperature)


def paired_cross_entropy(logits: Tensor) -> Tensor:
    """(M, M) logits, of right pairs on the diagonal -> mean cross-entropy of rows and of columns; 0 for M = 0."""
    if not len(logits):
        return logits.sum()
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class LearnedTemperature(nn.Module):
    """A temperature that is learned by its logarithm; 0.07 to begin with, never below 0.01 (CLIP)."""

    def __init__(self, initial: float = 0.07) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """0-dim. The bound is the parameter's, which can rise from it: beyond one of the result is no gradient."""
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(_MIN_TEMPERATURE))
        return self.log_temperature.exp()


def first_of_each_class(labels: Tensor) -> Tensor:
    """(M,) labels -> (P,) indices of the first region of each of the P classes that are there."""
    present, number = labels.unique(return_inverse=True)  # (P,), (M,)
    rows = torch.arange(len(labels), device=labels.device)
    return rows.new_full((len(present),), len(labels)).scatter_reduce(0, number, rows, "amin")


class ContrastiveObjective(Objective):
    """An objective with a learned temperature."""

    needs = frozenset()  # its subclasses say

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.temperature = LearnedTemperature()


class RegionTextInfoNCE(ContrastiveObjective):
    """CLIP's loss between regions and their classes' texts; one region a class, as others would be false negatives."""

    name = "info_nce"
    needs = frozenset((LABELS,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        embeddings, labels = gather_rows(batch.embeddings), gather_rows(batch.labels)
        rows = first_of_each_class(labels)
        texts = self.texts_of(labels[rows], batch.classes.embeddings)
        return info_nce_loss(embeddings[rows], texts, self.temperature())

    def texts_of(self, labels: Tensor, class_embeddings: Tensor) -> Tensor:
        """(M,) in [0, K), (K, D) -> (M, D): the text that is right for a region of each label."""
        return class_embeddings[labels]


class ImageTextInfoNCE(ContrastiveObjective):
    """CLIP's loss itself, between whole images and their captions: each picks out the other among all of the step."""

    name = "image_info_nce"
    needs = frozenset((PAIRS,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim; images without a caption take no part."""
        images, captions = gather_rows(batch.pairs.embeddings), gather_rows(batch.pairs.captions)
        return info_nce_loss(images, captions, self.temperature())


class ContrastiveDistillation(ContrastiveObjective):
    """CLIP's loss between regions and what the teacher says of them: only the teacher's own region counts as right."""

    name = "distill_contrast"
    needs = frozenset((TEACHER,))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        return info_nce_loss(gather_rows(batch.embeddings), gather_rows(batch.teacher), self.temperature())
