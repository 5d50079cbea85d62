"""What one embedding of a region says of each class: its side of the region's scores, in logarithms.

A side gives logits for any part of the vocabulary, and what adds up their divisor over all parts: the log-probability
of a class is its logit less the logarithm of the divisor.

Shape letters: R regions of one image, D embedding width, B some of the classes of the vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST_FOREGROUND = 1e-6  # near it float32 cannot tell 1 less the background from 0


def dot_logits(queries: Tensor, class_embeddings: Tensor) -> Tensor:
    """Products of regions and classes.

    Args:
        queries: (R, D), region embeddings over the temperature.
        class_embeddings: (B, D), unit norm, of any floating type.

    Returns:
        (R, B) logits, in the type of the queries, under autocast too: over a temperature of 0.01, bfloat16 is off by
        0.2.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ class_embeddings.to(queries).t()


def cosine_logits(region_embeddings: Tensor, class_embeddings: Tensor, temperature: float) -> Tensor:
    """Cosines over temperature.

    Args:
        region_embeddings: (R, D), unit norm.
        class_embeddings: (B, D), unit norm, of any floating type.
        temperature: divides; 0.01 in ViLD.

    Returns:
        (R, B), see dot_logits.
    """
    return dot_logits(region_embeddings / temperature, class_embeddings)


class SoftmaxSide:
    """Probabilities by a softmax over all classes, and the background where there is one."""

    def __init__(self, queries: Tensor, *, background_logits: Tensor | None = None) -> None:
        """
        Args:
            queries: (R, D), region embeddings over the temperature.
            background_logits: (R,), of one more class in the softmax.
        """
        self.queries = queries
        self.background_logits = background_logits

    def logits(self, class_embeddings: Tensor) -> Tensor:
        """(B, D) -> (R, B)."""
        return dot_logits(self.queries, class_embeddings)

    def log_probabilities(self, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(K, D), all of the vocabulary -> (R, K) and the logarithm of their divisor (R,)."""
        logits = self.logits(class_embeddings)
        if self.background_logits is None:
            log_probabilities = logits.log_softmax(1)
            return log_probabilities, logits[:, 0] - log_probabilities[:, 0]
        log_probabilities = torch.cat([logits, self.background_logits[:, None]], dim=1).log_softmax(1)
        return log_probabilities[:, :-1], self.background_logits - log_probabilities[:, -1]

    def log_foreground(self, log_divisor: Tensor) -> Tensor:
        """The logarithm of the divisor (R,) -> that of the probability of all classes together (R,)."""
        if self.background_logits is None:
            return torch.zeros_like(log_divisor)
        background = (self.background_logits - log_divisor).exp()
        return torch.log1p(-background.clamp(max=1 - _LEAST_FOREGROUND))

    def divisor(self) -> LogSumExp:
        """A new sum, with the background in it."""
        if self.background_logits is None:
            return LogSumExp(self.queries.new_full((len(self.queries),), -torch.inf))
        return LogSumExp(self.background_logits)


class SigmoidSide:
    """Probabilities by a sigmoid, each class for itself."""

    def __init__(self, queries: Tensor, *, bias: Tensor) -> None:
        """
        Args:
            queries: (R, D), region embeddings over the temperature.
            bias: 0-dim, added to all logits.
        """
        self.queries = queries
        self.bias = bias

    def logits(self, class_embeddings: Tensor) -> Tensor:
        """(B, D) -> (R, B), which are log-probabilities already."""
        return F.logsigmoid(dot_logits(self.queries, class_embeddings) + self.bias)

    def log_probabilities(self, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(K, D), all of the vocabulary -> (R, K) and the logarithm of their divisor (R,), 0."""
        return self.logits(class_embeddings), self.divisor().value()

    def log_foreground(self, log_divisor: Tensor) -> Tensor:
        """(R,) -> (R,), 0: there is no background."""
        return torch.zeros_like(log_divisor)

    def divisor(self) -> Unity:
        """1."""
        return Unity(self.queries.new_zeros(len(self.queries)))


class LogSumExp:
    """log(sum(exp(.))) over the rows of a matrix that comes in parts."""

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


class Unity:
    """The divisor of what needs none."""

    def __init__(self, zeros: Tensor) -> None:
        """(R,)."""
        self._zeros = zeros

    def add_(self, logits: Tensor) -> None:
        """(R, B), unused."""

    def value(self) -> Tensor:
        """(R,), log(1)."""
        return self._zeros


Side = SoftmaxSide | SigmoidSide
