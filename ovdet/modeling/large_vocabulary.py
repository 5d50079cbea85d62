"""Scores of regions for a vocabulary of any size: as a whole matrix, or the best of it without the matrix.

The logarithm of a score is a weighted sum of the sides' log-probabilities (modeling/sides.py, modeling/score_fusion.py):
the same sum of logits, less the same sum of the softmaxes' log-divisors. These are known only after the last class, but
they do not change the order of a region's classes; where base and novel classes are weighted differently, not the order
among each. So one pass over the vocabulary in chunks is mostly enough: it adds up the divisors and keeps the best
classes of each region. Where these might not be all, a second one looks.

Shape letters: R regions of one image, D embedding width, K classes of the present vocabulary, B classes of one chunk,
C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.modeling.candidates import BestOfRows, Candidates, best_candidates, first_of
from ovdet.modeling.score_fusion import Exponents, RegionTerms, ScoreFusion, fuse_sides
from ovdet.modeling.sides import Side

MAX_DENSE_CLASSES = 16384  # K up to which a whole matrix of scores is the faster way
_CHUNK_ENTRIES = 2**21  # logits at once, and half of D * B: 8 MiB, near the caches and yet enough for a matrix product
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
        log_areas: (R,) of log_area_shares; None where the fusion does not need it.
        num_asked: of the K classes, how many of the first may become candidates; None for all. The others are there to
            be told apart from these.
    """

    class_embeddings: Tensor
    text: Side | None
    image: Side | None
    objectness_logits: Tensor
    fusion: ScoreFusion
    is_base: Tensor | None = None
    log_areas: Tensor | None = None
    num_asked: int | None = None

    @cached_property
    def matrix(self) -> Tensor:
        """(R, K), logarithms of all scores."""
        sides = (self.text, self.image)
        (text, log_divisor), (image, _) = (
            (None, None) if side is None else side.log_probabilities(self.class_embeddings) for side in sides
        )
        return self.fusion(text, image, self._region_terms(log_divisor), self.is_base)

    def best_of_matrix(self, threshold: float, number: int) -> Candidates:
        """The first `number` candidates that score above the threshold."""
        return _scored(best_candidates(self.matrix[:, : self.num_asked], _logarithm(threshold), number), threshold)

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
            classes = torch.arange(chunk.start, chunk.start + len(embeddings), device=embeddings.device)
            for best, exponents, members in groups:
                _add(best, logits, exponents.text, classes, None if members is None else members[chunk])
            for divisor, of_side in zip(divisors, logits, strict=True):
                if divisor is not None:
                    divisor.add_(of_side)
        log_divisors = [None if divisor is None else divisor.value() for divisor in divisors]  # (R,) each
        terms = self._region_terms(log_divisors[0])
        kept = [
            self._divide(best.kept(), fuse_sides(*log_divisors, exponents.text), terms, exponents)
            for best, exponents, _ in groups
        ]
        kept = Candidates(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
        return _scored(first_of(kept, len(self.class_embeddings), _logarithm(threshold), number), threshold)

    def _region_terms(self, text_log_divisor: Tensor | None) -> RegionTerms:
        """(R, 1) each, of the text side's log-divisor (R,)."""
        foreground = self.text.log_foreground(text_log_divisor) if self.fusion.needs_foreground else None
        terms = RegionTerms(F.logsigmoid(self.objectness_logits), foreground, self.log_areas)
        return terms.map(lambda term: term[:, None])

    def _groups(self) -> list[tuple[Exponents, Tensor | None]]:
        """Exponents as numbers, and which of the classes asked for, (K,), share them; None for all K."""
        exponents = self.fusion.exponents(self.is_base)
        asked = None
        if self.num_asked is not None:
            asked = torch.arange(len(self.class_embeddings), device=self.class_embeddings.device) < self.num_asked
        if not any(isinstance(exponent, Tensor) for exponent in exponents):
            return [(exponents, asked)]
        groups = [mask if asked is None else mask & asked for mask in (self.is_base, ~self.is_base)]
        groups = [mask for mask in groups if mask.any()]
        return [(Exponents(*(float(x[mask.nonzero()[0]]) for x in exponents)), mask) for mask in groups]

    def _chunks(self) -> Iterator[slice]:
        """Of the K classes, in order."""
        num_classes, width = self.class_embeddings.shape
        num_sides = (self.text is not None) + (self.image is not None)
        size = chunk_size(len(self.objectness_logits) * num_sides, width)
        for start in range(0, num_classes, size):
            yield slice(start, start + size)

    def _divide(self, kept: Candidates, log_divisors: Tensor, terms: RegionTerms, exponents: Exponents) -> Candidates:
        """Fused logits to logarithms of scores; log_divisors (R,), terms (R, 1)."""
        log_scores = kept.scores - log_divisors[kept.regions]
        of_kept = terms.map(lambda term: term[kept.regions, 0])
        return kept._replace(scores=self.fusion.join_terms(log_scores, of_kept, exponents))


def chunk_size(num_rows: int, width: int) -> int:
    """B for so many rows of logits, R of each side, and D."""
    return max(min(_CHUNK_ENTRIES // max(num_rows, 1), 2 * _CHUNK_ENTRIES // width) // 256, 1) * 256


def _add(
    best: BestOfRows, logits: list[Tensor | None], text_exponent: float, classes: Tensor, members: Tensor | None
) -> None:
    """Fuse the sides' logits (R, B) for those of the classes (B,) that are members, and add them to the best."""
    if members is None or members.all():
        best.add(fuse_sides(*logits, text_exponent), classes)
        return
    columns, others = members.nonzero().squeeze(1), (~members).nonzero().squeeze(1)
    if len(columns) > len(others):
        best.add(fuse_sides(*logits, text_exponent).index_fill(1, others, -torch.inf), classes)
    elif len(columns):
        of_members = (None if of_side is None else of_side[:, columns] for of_side in logits)
        best.add(fuse_sides(*of_members, text_exponent), classes[columns])


def _logarithm(threshold: float) -> float:
    """A little below it, for what rounds up to above the threshold."""
    return math.log(threshold) - 1e-4 if threshold > 0 else -math.inf


def _scored(candidates: Candidates, threshold: float) -> Candidates:
    """Logarithms to scores above the threshold."""
    scores, order = candidates.scores.exp().sort(descending=True, stable=True)  # exp may swap two of nearly one value
    order = order[scores > threshold]
    return Candidates(scores[: len(order)], candidates.regions[order], candidates.classes[order])
