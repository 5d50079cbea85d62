"""A teacher's accuracy on names by their nearest concept: what a cosine is worth, see ovdet/text/coverage.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_EDGES = (0.4, 0.5, 0.6, 0.7, 0.8)
_FAILING = 0.1


@dataclass(frozen=True)
class Band:
    """Zero-shot accuracy of the classes whose nearest concept of ImageNet's has a cosine in [low, high).

    Attributes:
        low: of the cosine.
        high: of the cosine.
        classes: that have objects.
        top1: mean over them, in [0, 1]; None without any.
        failing: the share of them with a top-1 below 0.1; None without any.
    """

    low: float
    high: float
    classes: int
    top1: float | None
    failing: float | None


def accuracy_by_similarity(
    similarities: Sequence[float], top1: Sequence[float | None], edges: Sequence[float] = _EDGES
) -> list[Band]:
    """A teacher's accuracy on names by their nearest concept: what a cosine is worth.

    Args:
        similarities: of each name to its nearest concept.
        top1: of each name; None without objects.
        edges: between the bands, rising.
    """
    seen = [pair for pair in zip(similarities, top1, strict=True) if pair[1] is not None]
    bands = []
    for low, high in itertools.pairwise((-1.0, *edges, 1.01)):
        found = [accuracy for similarity, accuracy in seen if low <= similarity < high]
        failing = sum(accuracy < _FAILING for accuracy in found)
        means = (sum(found) / len(found), failing / len(found)) if found else (None, None)
        bands.append(Band(low, high, len(found), *means))
    return bands
