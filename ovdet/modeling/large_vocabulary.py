"""The best (region, class) pairs of a vocabulary of any size, in memory that does not grow with it.

The same candidates as modeling/scoring.py's, for 16,384 rows and more. The log score of a row is a weighted sum of the
branches' logits less the same sum of their log-partitions. These are known only after the last row, but they do not
change the order of a region's rows; where base and novel rows are weighted differently, not the order among each. So
one pass over the rows in chunks is mostly enough: it adds up the log-partitions (streaming logsumexp) and keeps the
best rows of each region. Of the regions for which these might not be all, a second pass keeps more.

Shape letters: R regions of one image, D embedding width, S rows, K classes, B rows of one chunk, C candidates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.modeling.score_fusion import Exponents, RegionTerms, fuse_branches
from ovdet.modeling.scoring import RegionScorer, SoftmaxBranch, join_experts
from ovdet.modeling.text_classifier import SigmoidBranch
from ovdet.modeling.topk import Candidates, exponential, in_order, just_above, log_threshold

_CHUNK_ENTRIES = 2**21  # logits at once, and half of D * B: 8 MiB, near the caches and yet enough for a matrix product
_MIN_KEPT = 64  # rows of each region that are kept at least
_BLOCK = 16  # entries of which the maximum is looked at first; strided, so that maxima are taken by whole vectors


def topk_chunked(
    scorer: RegionScorer, classes: ClassEmbeddings, threshold: float, number: int, *, with_negatives: bool = False
) -> Candidates:
    """The first `number` candidates that score above the threshold.

    Args:
        scorer: of the regions.
        classes: of S rows, any number.
        threshold: of scores.
        number: how many at most; fewer only where no more are above the threshold.
        with_negatives: True takes the negatives for one more class, K.
    """
    rows_of_a_class = max(classes.max_rows, int((classes.class_ids == NEGATIVE).sum()) if with_negatives else 0)
    num_rows = min(number * rows_of_a_class, sys.maxsize)  # enough for `number` pairs, whatever rows they have
    num_kept = min(num_rows, max(_MIN_KEPT, 8 * num_rows // max(len(scorer.objectness_logits), 1)))
    rows, log_partitions = _topk_rows(scorer, classes, threshold, num_rows, num_kept, with_negatives)
    if num_kept < num_rows and len(rows.regions):
        is_full = rows.regions.bincount(minlength=len(scorer.objectness_logits)) >= num_kept  # there may have been more
        full = is_full.nonzero().squeeze(1)
        if len(full):
            known = [None if of_branch is None else of_branch[full] for of_branch in log_partitions]
            more, _ = _topk_rows(
                _of_regions(scorer, full), classes, threshold, num_rows, num_rows, with_negatives, known
            )
            others = (part[~is_full[rows.regions]] for part in rows)
            joined = zip(others, more._replace(regions=full[more.regions]), strict=True)
            rows = first_of(Candidates(*map(torch.cat, joined)), len(classes.class_ids), -torch.inf, num_rows)
    return exponential(_best_row_of_class(rows, classes, number), threshold)


def _of_regions(scorer: RegionScorer, index: Tensor) -> RegionScorer:
    """The scorer of some of the regions, by indices."""
    experts = (replace(each, log_probabilities=each.log_probabilities[index]) for each in scorer.experts)
    return replace(
        scorer,
        text=scorer.text and scorer.text.take(index),
        image=scorer.image and scorer.image.take(index),
        objectness_logits=scorer.objectness_logits[index],
        log_areas=None if scorer.log_areas is None else scorer.log_areas[index],
        experts=tuple(experts),
    )


def _best_row_of_class(rows: Candidates, classes: ClassEmbeddings, number: int) -> Candidates:
    """Candidates of rows -> the first `number` of classes: of the rows of a region that are of one class, the best."""
    num_classes = len(classes.names)
    ids = classes.class_ids[rows.classes]
    ids = torch.where(ids == NEGATIVE, num_classes, ids)
    places, order = (rows.regions * (num_classes + 1) + ids).sort(stable=True)  # best first among equal places
    is_first = torch.ones_like(places, dtype=torch.bool)
    is_first[1:] = places[1:] != places[:-1]
    return in_order(rows.scores[order[is_first]], places[is_first], num_classes + 1, number)


def _topk_rows(
    scorer: RegionScorer,
    classes: ClassEmbeddings,
    threshold: float,
    number: int,
    num_kept: int,
    with_negatives: bool,
    log_partitions: list[Tensor | None] | None = None,
) -> tuple[Candidates, list[Tensor | None]]:
    """The first `number` rows, as logarithms, of the `num_kept` best (or more) of each region.

    And the branches' log-partitions (R,), which are those that are given, where they are known.
    """
    known = _known_rows(scorer, classes, with_negatives)
    branches = (scorer.text, scorer.image)
    are_known = log_partitions is not None
    partitions = [None if branch is None or are_known else _log_partition(branch) for branch in branches]
    groups = [
        (StreamingTopK(len(scorer.objectness_logits), num_kept, like=scorer.objectness_logits), *group)
        for group in _groups(scorer, classes, with_negatives, known)
    ]
    # one pass over all rows
    for chunk in _chunks(scorer, classes):
        embeddings = classes.embeddings[chunk]
        logits = [None if branch is None else branch.logits(embeddings) for branch in branches]
        rows = torch.arange(chunk.start, chunk.start + len(embeddings), device=embeddings.device)
        for topk, exponents, members in groups:
            _add(topk, logits, exponents.text, rows, None if members is None else members[chunk])
        for partition, of_branch in zip(partitions, logits, strict=True):
            if partition is not None:
                partition.add_(of_branch)
    # logits to log scores
    if not are_known:
        log_partitions = [None if partition is None else partition.value() for partition in partitions]
    terms = scorer.terms(log_partitions[0])
    kept = [
        _normalize(scorer, topk.kept(), fuse_branches(*log_partitions, exponents.text), terms, exponents)
        for topk, exponents, _ in groups
    ]
    if len(known):
        kept.append(_all_of_known(scorer, classes, known, log_partitions, terms))
    kept = Candidates(*(torch.cat(parts) for parts in zip(*kept, strict=True)))
    return first_of(kept, len(classes.class_ids), log_threshold(threshold), number), log_partitions


def _known_rows(scorer: RegionScorer, classes: ClassEmbeddings, with_negatives: bool) -> Tensor:
    """Indices (Q,) of the rows that experts have a say in and that may be found: few, which are scored apart."""
    if not scorer.experts:
        return classes.class_ids[:0]
    known = torch.cat([expert.known(classes.embeddings)[0] for expert in scorer.experts]).unique()
    return known if with_negatives else known[classes.class_ids[known] != NEGATIVE]


def _all_of_known(
    scorer: RegionScorer,
    classes: ClassEmbeddings,
    known: Tensor,
    log_partitions: list[Tensor | None],
    terms: RegionTerms,
) -> Candidates:
    """All pairs of regions and known rows (Q,), with log scores in which the experts had their say."""
    embeddings = classes.embeddings[known]
    of_branches = [
        None if branch is None else branch.logits(embeddings) - partition[:, None]
        for branch, partition in zip((scorer.text, scorer.image), log_partitions, strict=True)
    ]
    is_base = None if classes.is_base is None else classes.is_base[known]
    log_scores = join_experts(scorer.experts, scorer.fusion(*of_branches, terms, is_base), embeddings)  # (R, Q)
    regions = torch.arange(len(log_scores), device=known.device)
    return Candidates(log_scores.flatten(), regions.repeat_interleave(len(known)), known.repeat(len(log_scores)))


def _groups(
    scorer: RegionScorer, classes: ClassEmbeddings, with_negatives: bool, known: Tensor
) -> list[tuple[Exponents, Tensor | None]]:
    """Exponents as numbers, and which of the rows (S,) that may be found share them; None for all; `known` in none."""
    exponents = scorer.fusion.exponents(classes.is_base)
    may_be_found = None if with_negatives else classes.class_ids != NEGATIVE
    if len(known):
        may_be_found = torch.ones_like(classes.class_ids, dtype=torch.bool) if may_be_found is None else may_be_found
        may_be_found[known] = False
        if not may_be_found.any():
            return []
    if may_be_found is not None and may_be_found.all():
        may_be_found = None
    if not any(isinstance(exponent, Tensor) for exponent in exponents):
        return [(exponents, may_be_found)]
    masks = (classes.is_base, ~classes.is_base)
    masks = [mask if may_be_found is None else mask & may_be_found for mask in masks]
    masks = [mask for mask in masks if mask.any()]
    return [(Exponents(*(float(x[mask.nonzero()[0]]) for x in exponents)), mask) for mask in masks]


def _chunks(scorer: RegionScorer, classes: ClassEmbeddings) -> Iterator[slice]:
    """Of the S rows, in order."""
    num_branches = (scorer.text is not None) + (scorer.image is not None)
    size = chunk_size(len(scorer.objectness_logits) * num_branches, classes.width)
    for start in range(0, len(classes.class_ids), size):
        yield slice(start, start + size)


def chunk_size(num_logits: int, width: int) -> int:
    """B for so many logits of each row, R of each branch, and D."""
    return max(min(_CHUNK_ENTRIES // max(num_logits, 1), 2 * _CHUNK_ENTRIES // width) // 256, 1) * 256


def _normalize(
    scorer: RegionScorer, kept: Candidates, log_partitions: Tensor, terms: RegionTerms, exponents: Exponents
) -> Candidates:
    """Fused logits to log scores; log_partitions (R,), terms (R, 1)."""
    log_scores = kept.scores - log_partitions[kept.regions]
    of_kept = terms.map(lambda term: term[kept.regions, 0])
    return kept._replace(scores=scorer.fusion.join_terms(log_scores, of_kept, exponents))


def _add(
    topk: StreamingTopK, logits: list[Tensor | None], text_exponent: float, rows: Tensor, members: Tensor | None
) -> None:
    """Fuse the branches' logits (R, B) for those of the rows (B,) that are members, and add them."""
    if members is None or members.all():
        topk.add(fuse_branches(*logits, text_exponent), rows)
        return
    columns, others = members.nonzero().squeeze(1), (~members).nonzero().squeeze(1)
    if len(columns) > len(others):
        topk.add(fuse_branches(*logits, text_exponent).index_fill(1, others, -torch.inf), rows)
    elif len(columns):
        of_members = (None if of_branch is None else of_branch[:, columns] for of_branch in logits)
        topk.add(fuse_branches(*of_members, text_exponent), rows[columns])


def first_of(candidates: Candidates, num_classes: int, threshold: float, number: int) -> Candidates:
    """The first `number` of candidates that come in no order.

    Args:
        candidates: any, with logarithms.
        num_classes: that their classes are below.
        threshold: they score above it, in the same unit.
        number: how many at most.
    """
    floor = just_above(candidates.scores, threshold)
    if 0 < number < len(candidates.scores):
        floor = torch.maximum(floor, candidates.scores.topk(number, sorted=False).values.amin())
    scores, regions, classes = (part[candidates.scores >= floor] for part in candidates)
    places, order = (regions * num_classes + classes).sort()
    return in_order(scores[order], places, num_classes, number)


class StreamingTopK:
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

    def add(self, scores: Tensor, columns: Tensor) -> None:
        """(R, B) scores of (B,) columns, B >= 1, which are higher than all before; -infinity is no entry."""
        padding = -scores.shape[1] % _BLOCK
        blocks = F.pad(scores, (0, padding), value=-torch.inf) if padding else scores
        blocks = blocks.unflatten(1, (_BLOCK, -1))  # (R, entries, blocks)
        maxima = blocks.amax(1)
        before = self.floor
        self._raise_floor(maxima)
        rows, block_columns = ((maxima > before) & (maxima >= self.floor)).nonzero(as_tuple=True)
        entries = blocks[rows, :, block_columns]  # (blocks with news, entries)
        news, offsets = ((entries > before[rows]) & (entries >= self.floor[rows])).nonzero(as_tuple=True)
        places = offsets * blocks.shape[2] + block_columns[news]
        self._kept.append(Candidates(entries[news, offsets], rows[news], columns[places]))
        self._length += len(news)
        if self._length > self._room:
            self._clear()

    def _raise_floor(self, maxima: Tensor) -> None:
        """(R, n) maxima of new blocks."""
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
        """The kept entries, in no particular order."""
        return Candidates(*(torch.cat(parts) for parts in zip(*self._kept, strict=True)))


class StreamingLogSumExp:
    """log(sum(exp(.))) over the rows of a matrix that comes in parts: the log-partition of a softmax."""

    def __init__(self, start: Tensor) -> None:
        """(R,), the value before the first part: -infinity for nothing."""
        self._peak = start
        self._total = (start > -torch.inf).to(start)  # in units of exp(peak)

    def add_(self, logits: Tensor) -> None:
        """(R, B), B >= 1; they are overwritten."""
        peak = torch.maximum(self._peak, logits.amax(1))
        self._total = self._total * (self._peak - peak).exp() + logits.sub_(peak[:, None]).exp_().sum(1)
        self._peak = peak

    def value(self) -> Tensor:
        """(R,)."""
        return self._peak + self._total.log()


class _ZeroLogPartition:
    """The log-partition of probabilities that need none."""

    def __init__(self, zeros: Tensor) -> None:
        """(R,)."""
        self._zeros = zeros

    def add_(self, logits: Tensor) -> None:
        """(R, B), unused."""

    def value(self) -> Tensor:
        """(R,)."""
        return self._zeros


def _log_partition(branch: SoftmaxBranch) -> StreamingLogSumExp | _ZeroLogPartition:
    """A new one, with the branch's background in it."""
    if isinstance(branch, SigmoidBranch):
        return _ZeroLogPartition(branch.queries.new_zeros(len(branch.queries)))
    if branch.background_logits is None:
        return StreamingLogSumExp(branch.queries.new_full((len(branch.queries),), -torch.inf))
    return StreamingLogSumExp(branch.background_logits)
