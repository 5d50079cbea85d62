"""The best-scored (region, class) pairs of one image: what classification hands to post-processing.

Candidates are ordered by score, best first; where scores are equal the lower region comes first, then the lower class.

Shape letters: R regions of one image, K classes of the present vocabulary, B classes of one chunk, C candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Entries come in blocks, of which only the maximum is looked at first. Blocks are strided (an entry, and those at equal
# distances after it), so that their maxima are taken whole vectors at a time.
_BLOCK, _BLOCK_OF_CHUNK = 64, 16


class Candidates(NamedTuple):
    """(C,) each, in order."""

    scores: Tensor
    regions: Tensor  # indices into R
    classes: Tensor  # indices into K


def best_candidates(scores: Tensor, threshold: float, number: int) -> Candidates:
    """The first `number` candidates of a whole matrix of scores.

    Args:
        scores: (R, K), no NaN, without a background column.
        threshold: candidates score above it.
        number: how many at most; there are fewer only where no more are above the threshold.
    """
    flat = scores.flatten()
    floor = _just_above(flat, threshold)
    length = min(len(flat) // (8 * number), _BLOCK) if number > 0 else 0
    if length < 2:
        places = (flat >= floor).nonzero().squeeze(1)
        return _in_order(flat[places], places, scores.shape[1], number)
    blocks = flat[: len(flat) // length * length].view(length, -1)
    maxima = blocks.amax(0)
    floor = torch.maximum(floor, maxima.topk(number, sorted=False).values.amin())  # `number` entries are at least this
    columns = (maxima >= floor).nonzero().squeeze(1)
    entries = blocks.index_select(1, columns)
    rows, found = (entries >= floor).nonzero(as_tuple=True)
    rest = flat[blocks.numel() :]  # too few for one more in each block
    ends = (rest >= floor).nonzero().squeeze(1)
    places = torch.cat([rows * blocks.shape[1] + columns[found], ends + blocks.numel()])
    return _in_order(torch.cat([entries[rows, found], rest[ends]]), places, scores.shape[1], number)


def first_of(candidates: Candidates, num_classes: int, threshold: float, number: int) -> Candidates:
    """The first `number` of candidates that come in no order.

    Args:
        candidates: any.
        num_classes: K.
        threshold: they score above it.
        number: how many at most.
    """
    floor = _just_above(candidates.scores, threshold)
    if 0 < number < len(candidates.scores):
        floor = torch.maximum(floor, candidates.scores.topk(number, sorted=False).values.amin())
    scores, regions, classes = (part[candidates.scores >= floor] for part in candidates)
    places, order = (regions * num_classes + classes).sort()
    return _in_order(scores[order], places, num_classes, number)


def _in_order(scores: Tensor, places: Tensor, num_classes: int, number: int) -> Candidates:
    """The first `number` of entries (C,) of an (R, K) matrix at places (C,), region * K + class, ascending."""
    scores, order = scores.sort(descending=True, stable=True)
    places = places[order[:number]]
    return Candidates(scores[:number], places.div(num_classes, rounding_mode="floor"), places % num_classes)


def _just_above(like: Tensor, threshold: float) -> Tensor:
    """0-dim, the lowest number above the threshold."""
    return torch.nextafter(like.new_tensor(threshold), like.new_tensor(torch.inf))


class BestOfRows:
    """The best entries of each row of a matrix that comes chunk by chunk: at least `number` of each, and some more.

    An entry is dropped only when `number` others of its row come before it in the order of candidates. What is kept
    does not grow with the number of chunks.
    """

    def __init__(self, num_rows: int, number: int, like: Tensor) -> None:
        """
        Args:
            num_rows: R.
            number: how many of each row.
            like: a tensor of the entries' type, on their device.
        """
        self.number = number
        self.floor = like.new_full((num_rows, 1), -torch.inf)  # `number` entries of the row are at least this
        self._maxima = like.new_empty((num_rows, 0))  # the highest block maxima that were seen
        self._kept: list[Candidates] = []
        self._length = 0  # of all that is kept
        self._room = 0  # until the next clearing

    def add(self, scores: Tensor, classes: Tensor) -> None:
        """(R, B) scores of (B,) classes, B >= 1, which are higher than all before; -infinity is no entry."""
        padding = -scores.shape[1] % _BLOCK_OF_CHUNK
        blocks = F.pad(scores, (0, padding), value=-torch.inf) if padding else scores
        blocks = blocks.unflatten(1, (_BLOCK_OF_CHUNK, -1))  # (R, entries, blocks)
        maxima = blocks.amax(1)
        before = self.floor
        self._raise_floor(maxima)
        rows, columns = ((maxima > before) & (maxima >= self.floor)).nonzero(as_tuple=True)
        entries = blocks[rows, :, columns]  # (blocks with news, entries)
        news, offsets = ((entries > before[rows]) & (entries >= self.floor[rows])).nonzero(as_tuple=True)
        places = offsets * blocks.shape[2] + columns[news]
        self._kept.append(Candidates(entries[news, offsets], rows[news], classes[places]))
        self._length += len(news)
        if self._length > self._room:
            self._clear()

    def _raise_floor(self, maxima: Tensor) -> None:
        """(R, n) maxima of blocks that come anew."""
        self._maxima = torch.cat([self._maxima, maxima], dim=1)
        if self._maxima.shape[1] > self.number:
            self._maxima = self._maxima.topk(self.number, dim=1, sorted=False).values
            self.floor = self._maxima.amin(dim=1, keepdim=True)

    def _clear(self) -> None:
        """Drop what the floor has risen above since."""
        kept = self.kept()
        stays = kept.scores >= self.floor[kept.regions, 0]
        self._kept = [Candidates(*(part[stays] for part in kept))]
        self._length = len(self._kept[0].scores)
        self._room = 2 * self._length + 65536

    def kept(self) -> Candidates:
        """What is kept, in no particular order."""
        return Candidates(*(torch.cat(parts) for parts in zip(*self._kept, strict=True)))
