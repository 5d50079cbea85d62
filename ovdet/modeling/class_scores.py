"""Scores of regions for a vocabulary of any size: as a whole matrix, or the best of it without the matrix.

The logarithm of a score is a weighed sum of the sides' log-probabilities (modeling/sides.py, modeling/score_fusion.py):
the same sum of logits, less the same sum of the softmaxes' log-divisors. These are known only after the last class, but
they do not change the order of a region's classes; where base and novel classes are weighed differently, not the order
among each. So one pass over the vocabulary in chunks is enough: it adds up the divisors and keeps the best classes of
each region.

Shape letters: R regions of one image, D embedding width, K classes of the present vocabulary, B classes of one chunk,
C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ovdet.modeling.candidates import BestOfRows, Candidates, best_candidates, first_of
from ovdet.modeling.score_fusion import ScoreFusion, fuse_sides, join_objectness
from ovdet.modeling.sides import Side

_CHUNK_ENTRIES = 2**21  # R * B, and half of D * B: 8 MiB, near the caches and yet enough work for a matrix product
_LEAST = 64  # classes of each region that are kept at least


@dataclass(frozen=True)
class ClassScores:
    """The scores of one image's regions for a vocabulary.

    Attributes:
        class_embeddings: (K, D), unit norm, of any floating type.
        text: what the text embeddings say; None where the fusion does not ask for it.
        image: what the image embeddings say, likewise.
        objectness_logits: (R,), finite.
        fusion: see modeling/score_fusion.py.
        is_base: (K,) booleans; None where base and novel classes are not told apart.
    """

    class_embeddings: Tensor
    text: Side | None
    image: Side | None
    objectness_logits: Tensor
    fusion: ScoreFusion
    is_base: Tensor | None = None

    @cached_property
    def matrix(self) -> Tensor:
        """(R, K), logarithms of all scores."""
        sides = (self.text, self.image)
        text, image = (None if side is None else side.log_probabilities(self.class_embeddings) for side in sides)
        return self.fusion(text, image, self.objectness_logits, self.is_base)

    def best_of_matrix(self, threshold: float, number: int) -> Candidates:
        """The first `number` candidates that score above the threshold."""
        return _scored(best_candidates(self.matrix, _logarithm(threshold), number), threshold)

    def best_of_chunks(self, threshold: float, number: int) -> Candidates:
        """The same, in memory that does not grow with K."""
        least = min(number, max(_LEAST, 8 * number // max(len(self.objectness_logits), 1)))
        best = self._best_of_chunks(threshold, number, least)
        if least < number and len(best.regions) and best.regions.bincount().max() >= least:
            return self._best_of_chunks(threshold, number, number)  # a region may have had more than were kept
        return best

    def _best_of_chunks(self, threshold: float, number: int, least: int) -> Candidates:
        """The first `number` candidates of the `least` best (or more) of each region."""
        sides = (self.text, self.image)
        divisors = [None if side is None else side.divisor() for side in sides]
        groups = [
            (BestOfRows(len(self.objectness_logits), least, like=self.objectness_logits), *group)
            for group in self._groups()
        ]
        for chunk in self._chunks():
            embeddings = self.class_embeddings[chunk]
            logits = [None if side is None else side.logits(embeddings) for side in sides]
            for best, text_exponent, others in groups:
                fused = fuse_sides(*logits, text_exponent)
                best.add(fused if others is None else fused.masked_fill(others[chunk], -torch.inf), chunk.start)
            for divisor, of_side in zip(divisors, logits, strict=True):
                if divisor is not None:
                    divisor.add_(of_side)
        log_divisors = [None if divisor is None else divisor.value() for divisor in divisors]  # (R,) each
        kept = [self._divide(best.kept(), fuse_sides(*log_divisors, exponent)) for best, exponent, _ in groups]
        kept = Candidates(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
        return _scored(first_of(kept, len(self.class_embeddings), _logarithm(threshold), number), threshold)

    def _groups(self) -> list[tuple[float, Tensor | None]]:
        """For classes that share an exponent: the exponent, and a mask (K,) of those that do not."""
        exponents = self.fusion.text_exponent(self.is_base)
        if isinstance(exponents, float):
            return [(exponents, None)]
        masks = [mask for mask in (self.is_base, ~self.is_base) if mask.any()]
        return [(float(exponents[mask.nonzero()[0]]), ~mask) for mask in masks]

    def _chunks(self) -> Iterator[slice]:
        """Of the K classes, in order."""
        num_regions, (num_classes, width) = len(self.objectness_logits), self.class_embeddings.shape
        size = max(min(_CHUNK_ENTRIES // max(num_regions, 1), 2 * _CHUNK_ENTRIES // width) // 256, 1) * 256
        for start in range(0, num_classes, size):
            yield slice(start, start + size)

    def _divide(self, kept: Candidates, log_divisors: Tensor) -> Candidates:
        """Fused logits to logarithms of scores; log_divisors (R,)."""
        log_scores = kept.scores - log_divisors[kept.regions]
        objectness = self.objectness_logits[kept.regions]
        return kept._replace(scores=join_objectness(log_scores, objectness, self.fusion.objectness_exponent))


def _logarithm(threshold: float) -> float:
    """A little below it, for what rounds up to above the threshold."""
    return math.log(threshold) - 1e-4 if threshold > 0 else -math.inf


def _scored(candidates: Candidates, threshold: float) -> Candidates:
    """Logarithms to scores above the threshold."""
    scores, order = candidates.scores.exp().sort(descending=True, stable=True)  # exp may swap two of nearly one value
    order = order[scores > threshold]
    return Candidates(scores[: len(order)], candidates.regions[order], candidates.classes[order])
