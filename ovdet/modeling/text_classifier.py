"""The classifier whose weights are class embeddings: cosines over a temperature, softmax or sigmoid.

Shape letters: R regions over all images, D embedding width, S rows of ClassEmbeddings (background is index S).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.modeling.scoring import SoftmaxBranch, dot_logits


class TextClassifier(nn.Module):
    """Cosine classifier over class embeddings and one learned background embedding (ViLD, arXiv:2104.13921).

    Class embeddings are an argument: no checkpoint contains any, and one classifier serves any number of vocabularies.
    """

    def __init__(self, width: int, *, temperature: float = 0.01) -> None:
        """
        Args:
            width: D of the teacher's space.
            temperature: divides the cosines, of the classes and of the background alike.
        """
        super().__init__()
        self.width = width
        self.temperature = temperature
        self.background = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.background, std=0.01)

    def forward(self, region_embeddings: Tensor, class_embeddings: Tensor) -> Tensor:
        """(R, D) and (S, D), unit norm -> (R, S + 1) logits; background last."""
        background = F.normalize(self.background, dim=0)[None]
        rows = torch.cat([class_embeddings.to(background), background])  # (S + 1, D)
        return dot_logits(region_embeddings / self.temperature, rows)

    def branch(self, region_embeddings: Tensor) -> SoftmaxBranch:
        """(R, D), unit norm -> the text branch of their scores."""
        queries = region_embeddings / self.temperature
        background = F.normalize(self.background, dim=0)[None]
        return SoftmaxBranch(queries, background_logits=dot_logits(queries, background)[:, 0])


class SigmoidBranch(SoftmaxBranch):
    """Class log-probabilities of regions by a sigmoid, each row for itself: no background, a log-partition of 0."""

    def __init__(self, queries: Tensor, *, bias: Tensor) -> None:
        """(R, D), region embeddings over the temperature; 0-dim, added to all logits."""
        super().__init__(queries)
        self.bias = bias

    def take(self, index: Tensor) -> SigmoidBranch:
        """Of some of the regions, by indices."""
        return SigmoidBranch(self.queries[index], bias=self.bias)

    def logits(self, embeddings: Tensor) -> Tensor:
        """(S, D) -> (R, S), which are log-probabilities already."""
        return F.logsigmoid(dot_logits(self.queries, embeddings) + self.bias)

    def log_probabilities(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(S, D) -> log-probabilities (R, S), log-partition (R,)."""
        return self.logits(embeddings), self.queries.new_zeros(self.queries.shape[0])


class MeanSigmoidBranch(SigmoidBranch):
    """Class log-probabilities of regions as the mean of several sigmoids."""

    def __init__(self, branches: Sequence[SigmoidBranch]) -> None:
        """One of each stage, of the same regions."""
        self.branches = tuple(branches)
        self.queries = self.branches[0].queries

    def take(self, index: Tensor) -> MeanSigmoidBranch:
        """Of some of the regions, by indices."""
        return MeanSigmoidBranch([branch.take(index) for branch in self.branches])

    def logits(self, embeddings: Tensor) -> Tensor:
        """(S, D) -> (R, S), which are log-probabilities already."""
        stages = torch.stack([branch.logits(embeddings) for branch in self.branches])
        return stages.logsumexp(0) - math.log(len(stages))


class SigmoidTextClassifier(TextClassifier):
    """Cosine classifier for sigmoid scores: no background, but one learned bias for all classes.

    The bias begins where a region has the probability `prior` for any class, so that the many negatives do not drown
    the first steps (arXiv:1708.02002, section 3.3; one number for all classes as in Detic, where S may change).
    """

    def __init__(self, width: int, *, temperature: float = 0.02, prior: float = 0.01) -> None:
        """
        Args:
            width: D of the teacher's space.
            temperature: divides the cosines; 0.02 in Detic.
            prior: score of a class on a region of cosine 0 at the first step, within (0, 1).
        """
        super().__init__(width, temperature=temperature)
        del self.background
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, region_embeddings: Tensor, class_embeddings: Tensor) -> Tensor:
        """(R, D) and (S, D), unit norm -> (R, S + 1) logits; the last column is 0, sigmoid scores do not read it."""
        logits = dot_logits(region_embeddings / self.temperature, class_embeddings) + self.bias  # (R, S)
        return F.pad(logits, (0, 1))

    def branch(self, region_embeddings: Tensor) -> SigmoidBranch:
        """(R, D), unit norm -> the text branch of their scores."""
        return SigmoidBranch(region_embeddings / self.temperature, bias=self.bias)
