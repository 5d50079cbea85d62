"""The best entries of a large matrix of scores above a threshold, exactly, without sorting it.

Shape letters: R regions of one image, K classes, C candidates; N images, A entries of each, E numbers of an entry.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 64  # entries of which `topk_of_matrix` looks at the maximum first; strided: maxima are taken by whole vectors


class Candidates(NamedTuple):
    """(region, class) pairs, (C,) each: best first; of equal scores the lower region, then the lower class."""

    scores: Tensor
    regions: Tensor  # indices into R
    classes: Tensor  # indices into K; K itself for the negatives, where they are candidates too


def topk_of_matrix(scores: Tensor, threshold: float, number: int) -> Candidates:
    """The first `number` candidates of (R, K) scores above a threshold in the same unit; no NaN."""
    flat = scores.flatten()
    floor = just_above(flat, threshold)
    length = min(len(flat) // (8 * number), _BLOCK) if number > 0 else 0
    if length < 2:
        places = (flat >= floor).nonzero().squeeze(1)
        return in_order(flat[places], places, scores.shape[1], number)
    # blocks whose maximum is among the best
    blocks = flat[: len(flat) // length * length].view(length, -1)
    maxima = blocks.amax(0)
    floor = torch.maximum(floor, maxima.topk(number, sorted=False).values.amin())  # `number` entries are at least this
    columns = (maxima >= floor).nonzero().squeeze(1)
    entries = blocks.index_select(1, columns)
    rows, found = (entries >= floor).nonzero(as_tuple=True)
    # what is left over at the end, and all in order
    rest = flat[blocks.numel() :]
    ends = (rest >= floor).nonzero().squeeze(1)
    places = torch.cat([rows * blocks.shape[1] + columns[found], ends + blocks.numel()])
    return in_order(torch.cat([entries[rows, found], rest[ends]]), places, scores.shape[1], number)


def in_order(scores: Tensor, places: Tensor, num_classes: int, number: int) -> Candidates:
    """The first `number` of entries (C,) of an (R, K) matrix at places (C,), region * K + class, ascending."""
    scores, order = scores.sort(descending=True, stable=True)
    places = places[order[:number]]
    return Candidates(scores[:number], places.div(num_classes, rounding_mode="floor"), places % num_classes)


def exponential(candidates: Candidates, threshold: float) -> Candidates:
    """Candidates with log scores -> those with scores above the threshold."""
    scores, order = candidates.scores.exp().sort(descending=True, stable=True)  # exp may swap two of nearly one value
    order = order[scores > threshold]
    return Candidates(scores[: len(order)], candidates.regions[order], candidates.classes[order])


def log_threshold(threshold: float) -> float:
    """The logarithm, and a little below it for what rounds up to above the threshold."""
    return math.log(threshold) - 1e-4 if threshold > 0 else -math.inf


def just_above(like: Tensor, threshold: float) -> Tensor:
    """0-dim, the lowest number above the threshold."""
    return torch.nextafter(like.new_tensor(threshold), like.new_tensor(torch.inf))


def take(parts: Tensor, index: Tensor) -> Tensor:
    """(N, A, E), indices into A (N, C) -> (N, C, E)."""
    return parts.gather(1, index[:, :, None].expand(-1, -1, parts.shape[2]))
