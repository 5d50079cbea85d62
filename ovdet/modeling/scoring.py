"""From region embeddings to the best (region, class) pairs: the common path, to be read from top to bottom.

    branch     class logits and log-probabilities from text or image embeddings
    scorer     both branches, objectness, foreground and box area, fused to one log score for each region and row
    experts    have their say in the rows that they know, where there are some (modeling/expert.py)
    max        the best of a class's rows (its name, its synonyms) is the score of the class
    topk       the best (region, class) pairs above a threshold: what post-processing begins with

More than MAX_DENSE_ROWS rows go through modeling/large_vocabulary.py, which finds the same in chunks.

Shape letters: R regions of one image, D embedding width, S rows of ClassEmbeddings, K classes, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.modeling.score_fusion import RegionTerms, ScoreFusion, log_area_shares
from ovdet.modeling.topk import Candidates, exponential, log_threshold, topk_of_matrix

if TYPE_CHECKING:
    from ovdet.modeling.expert import ExpertScores
    from ovdet.modeling.roi_heads import OpenVocabROIHeads

MAX_DENSE_ROWS = 16384  # S up to which the whole matrix of scores is the faster way
_MIN_FOREGROUND = 1e-6  # near it float32 cannot tell 1 less the background from 0


def dot_logits(queries: Tensor, embeddings: Tensor) -> Tensor:
    """(R, D), divided by the temperature, (S, D) -> (R, S). No autocast: at temperature 0.01 bfloat16 errs by 0.2."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ embeddings.to(queries).t()


class SoftmaxBranch:
    """Class log-probabilities of regions: a softmax over all rows, and a background where there is one."""

    def __init__(self, queries: Tensor, *, background_logits: Tensor | None = None) -> None:
        """(R, D), region embeddings over the temperature; (R,), logits of one more class in the softmax."""
        self.queries = queries
        self.background_logits = background_logits

    def take(self, index: Tensor) -> SoftmaxBranch:
        """Of some of the regions, by indices."""
        background = None if self.background_logits is None else self.background_logits[index]
        return SoftmaxBranch(self.queries[index], background_logits=background)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(S, D) -> (R, S)."""
        return dot_logits(self.queries, embeddings)

    def log_probabilities(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(S, D), all rows -> log-probabilities (R, S), log-partition (R,); log-probability = logit - log-partition."""
        logits = self.logits(embeddings)
        if self.background_logits is None:
            log_probabilities = logits.log_softmax(1)
            return log_probabilities, logits[:, 0] - log_probabilities[:, 0]
        log_probabilities = torch.cat([logits, self.background_logits[:, None]], dim=1).log_softmax(1)
        return log_probabilities[:, :-1], self.background_logits - log_probabilities[:, -1]

    def log_foreground(self, log_partition: Tensor) -> Tensor:
        """(R,) -> (R,), the log-probability of not being background."""
        if self.background_logits is None:
            return torch.zeros_like(log_partition)
        background = (self.background_logits - log_partition).exp()
        return torch.log1p(-background.clamp(max=1 - _MIN_FOREGROUND))


class Regions(NamedTuple):
    """The regions of one image.

    Attributes:
        boxes: (R, 4) XYXY, pixels of the resized image.
        text: (R, D), unit norm, for the text branch.
        image: (R, D), unit norm, for the image branch, where there is one.
        objectness_logits: (R,).
        expert: (R, C), the log-probabilities of the closed-set expert's classes; None without one.
        linear: (R, C), likewise, of the linear expert's.
    """

    boxes: Tensor
    text: Tensor
    image: Tensor
    objectness_logits: Tensor
    expert: Tensor | None = None
    linear: Tensor | None = None

    def take(self, index: Tensor) -> Regions:
        """Some of them, by indices or a mask."""
        return Regions(*(None if part is None else part[index] for part in self))

    def finite(self) -> Regions:
        """Without regions that have a non-finite box, embedding, objectness or say of an expert."""
        mask = self.is_finite()
        return self if mask.all() else self.take(mask)

    def is_finite(self) -> Tensor:
        """(R,) bool, which of them `finite` keeps."""
        parts = [part[:, None].flatten(1) for part in self if part is not None]
        return torch.stack([torch.isfinite(part).all(1) for part in parts]).all(0)


@dataclass(frozen=True)
class RegionScorer:
    """Scores of one image's regions for any rows.

    Attributes:
        text: the text branch; None where the fusion does not ask for it.
        image: the image branch or the teacher, likewise.
        objectness_logits: (R,), finite.
        fusion: see modeling/score_fusion.py.
        log_areas: (R,) of `log_area_shares`; None where the fusion does not ask for it.
        experts: what each expert says of the regions.
    """

    text: SoftmaxBranch | None
    image: SoftmaxBranch | None
    objectness_logits: Tensor
    fusion: ScoreFusion
    log_areas: Tensor | None = None
    experts: tuple[ExpertScores, ...] = ()

    def log_scores(self, embeddings: Tensor, is_base: Tensor | None) -> Tensor:
        """(S, D) unit rows, (S,) bool or None -> (R, S), logarithms of the fused scores."""
        text, log_partition = (None, None) if self.text is None else self.text.log_probabilities(embeddings)
        image = None if self.image is None else self.image.log_probabilities(embeddings)[0]
        fused = self.fusion(text, image, self.terms(log_partition), is_base)
        return join_experts(self.experts, fused, embeddings)

    def terms(self, text_log_partition: Tensor | None) -> RegionTerms:
        """(R,) of the text branch -> class-independent log terms of the regions, (R, 1) each."""
        foreground = self.text.log_foreground(text_log_partition) if self.fusion.needs_foreground else None
        terms = RegionTerms(self.fusion.log_objectness(self.objectness_logits), foreground, self.log_areas)
        return terms.map(lambda term: term[:, None])


def build_scorer(
    heads: OpenVocabROIHeads, regions: Regions, image_size: tuple[int, int], active: Tensor | None
) -> RegionScorer:
    """Build the scorer of one image's regions; `active`: which background names count, None without them."""
    fusion, image = heads.score_fusion, None
    if fusion.needs_image:
        queries = regions.image / heads.image_temperature
        background = None if active is None else heads.background_names(queries, active)
        image = SoftmaxBranch(queries, background_logits=background)
    pairs = ((heads.expert, regions.expert), (heads.linear_expert, regions.linear))
    return RegionScorer(
        text=heads.text_branch(regions.text) if fusion.needs_text else None,
        image=image,
        objectness_logits=regions.objectness_logits,
        fusion=fusion,
        log_areas=log_area_shares(regions.boxes, image_size) if fusion.needs_area else None,
        experts=tuple(expert.scores(said) for expert, said in pairs if said is not None),
    )


def join_experts(experts: Sequence[ExpertScores], log_scores: Tensor, embeddings: Tensor) -> Tensor:
    """Fused log scores (R, S) of rows (S, D) -> the same with the say of all experts, one after the other."""
    for expert in experts:
        log_scores = expert.join(log_scores, embeddings)
    return log_scores


def max_over_rows(log_scores: Tensor, classes: ClassEmbeddings, *, with_negatives: bool = False) -> Tensor:
    """(R, S) -> (R, K), the best row of each class; with_negatives adds a column K, the best of the negatives."""
    num_classes = len(classes.names)
    if classes.has_one_row_each and (not with_negatives or len(classes.class_ids) == num_classes):
        return log_scores[:, :num_classes]
    columns = torch.where(classes.class_ids == NEGATIVE, num_classes, classes.class_ids)  # (S,)
    best = log_scores.new_full((len(log_scores), num_classes + 1), -torch.inf)
    best.scatter_reduce_(1, columns.expand_as(log_scores), log_scores, "amax")
    return best if with_negatives else best[:, :num_classes]


def topk_dense(log_scores: Tensor, threshold: float, number: int) -> Candidates:
    """The first `number` candidates of (R, K) log scores with scores above the threshold, or all that there are."""
    return exponential(topk_of_matrix(log_scores, log_threshold(threshold), number), threshold)
