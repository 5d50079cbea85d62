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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovdet.modeling.candidates import BestOfRows, Candidates, first_in_order
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

    def matrix(self) -> Tensor:
        """-> (R, K)."""
        sides = (self.text, self.image)
        text, image = (None if side is None else side.log_probabilities(self.class_embeddings) for side in sides)
        return self.fusion(text, image, self.objectness_logits, self.is_base)

    def best_candidates(self, threshold: float, number: int) -> Candidates:
        """The first `number` candidates above the threshold, from chunks, in memory that does not grow with K."""
        least = min(number, max(_LEAST, 8 * number // max(len(self.objectness_logits), 1)))
        best = self._stream(threshold, number, least)
        if least < number and len(best.regions) and best.regions.bincount().max() >= least:
            return self._stream(threshold, number, number)  # one region may have had a larger part in it than was kept
        return best

    def _stream(self, threshold: float, number: int, least: int) -> Candidates:
        """The first `number` candidates, of the `least` best (or more) of each region."""
        sides = (self.text, self.image)
        divisors = [None if side is None else side.divisor() for side in sides]
        groups = []
        for members, text_exponent in self._groups():
            best = BestOfRows(len(self.objectness_logits), least, like=self.objectness_logits)
            for classes, embeddings in self._chunks(members):
                logits = [None if side is None else side.logits(embeddings) for side in sides]
                best.add(fuse_sides(*logits, text_exponent), classes)
                for divisor, of_side in zip(divisors, logits, strict=True):
                    if divisor is not None:
                        divisor.add_(of_side)
            groups.append((best.kept(), text_exponent))
        log_divisors = [None if divisor is None else divisor.value() for divisor in divisors]  # (R,) each
        kept = [self._divide(kept, fuse_sides(*log_divisors, exponent)) for kept, exponent in groups]
        return self._first(Candidates(*(torch.cat(parts) for parts in zip(*kept, strict=True))), threshold, number)

    def _groups(self) -> Iterator[tuple[Tensor | None, float]]:
        """Classes that share an exponent: their indices, None for all, and the exponent."""
        exponents = self.fusion.text_exponent(self.is_base)
        if isinstance(exponents, float):
            yield None, exponents
            return
        for members in (self.is_base.nonzero().squeeze(1), (~self.is_base).nonzero().squeeze(1)):
            if len(members):
                yield members, float(exponents[members[0]])

    def _chunks(self, members: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (B,) and embeddings (B, D) of the members, in order."""
        num_regions, (num_classes, width) = len(self.objectness_logits), self.class_embeddings.shape
        size = max(min(_CHUNK_ENTRIES // max(num_regions, 1), 2 * _CHUNK_ENTRIES // width) // 256, 1) * 256
        if members is None:
            for start in range(0, num_classes, size):
                embeddings = self.class_embeddings[start : start + size]
                yield torch.arange(start, start + len(embeddings), device=embeddings.device), embeddings
        else:
            for classes in members.split(size):
                yield classes, self.class_embeddings[classes]

    def _divide(self, kept: Candidates, log_divisors: Tensor) -> Candidates:
        """Fused logits to scores; log_divisors (R,)."""
        log_scores = kept.scores - log_divisors[kept.regions]
        objectness = self.objectness_logits[kept.regions]
        return kept._replace(scores=join_objectness(log_scores, objectness, self.fusion.objectness_exponent))

    def _first(self, found: Candidates, threshold: float, number: int) -> Candidates:
        """The first of (C,) candidates that come in no order."""
        floor = torch.nextafter(found.scores.new_tensor(threshold), found.scores.new_tensor(torch.inf))
        if 0 < number < len(found.scores):
            floor = torch.maximum(floor, found.scores.topk(number, sorted=False).values.amin())
        num_classes = len(self.class_embeddings)
        high = found.scores >= floor
        places, order = (found.regions[high] * num_classes + found.classes[high]).sort()
        return first_in_order(found.scores[high][order], places, num_classes, number)
