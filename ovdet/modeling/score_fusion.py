"""Score fusion: one score for each region and class, from text branch, image branch or teacher, and objectness.

    score = ((text ** e * image ** (1 - e)) ** (1 - f) * foreground ** f) ** (1 - o) * objectness ** o * area ** a

with e, f and a by class, computed in logarithms. There fusion is linear in the branches, so that logits,
log-probabilities and log-partitions can all be fused alike. `foreground` is 1 less the text branch's background: it
sees that a novel object is there even where it does not know its name. `area` is the box's share of the image: small
boxes often lie on parts and clutter, which training teaches to reject for base classes only.

Shape letters: R regions of one image, S rows of ClassEmbeddings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.errors import InputError
from ovdet.packable import packable

_MIN_LOGIT = 1e-30  # whose root is below any threshold
_MIN_AREA = 1e-4  # of an image: a box of 3 x 3 pixels on 300 x 300


class Exponents(NamedTuple):
    """e, f and a: each a number or (S,)."""

    text: float | Tensor
    foreground: float | Tensor = 0.0
    area: float | Tensor = 0.0


class RegionTerms(NamedTuple):
    """Class-independent log terms of the regions: objectness, foreground, area; in shapes that broadcast to scores."""

    objectness: Tensor
    foreground: Tensor | None = None  # None where the fusion does not need it
    area: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> RegionTerms:
        """The same change of each term that is there."""
        return RegionTerms(*(None if term is None else change(term) for term in self))


def log_area_shares(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(R, 4) XYXY in pixels, (height, width) -> (R,) logarithms of the boxes' shares of their image, from 1e-4 on."""
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    areas = (x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])
    return (areas / (height * width)).clamp(min=_MIN_AREA).log()


def fuse_branches(text: Tensor | None, image: Tensor | None, text_exponent: float | Tensor) -> Tensor:
    """`e * text + (1 - e) * image`, (R, S) each or None where not needed; arXiv:2104.13921 eq. 5-6 in logarithms."""
    if image is None:
        return text
    return image if text is None else torch.lerp(image, text, text_exponent)


def join_term(log_scores: Tensor, term: Tensor, exponent: float | Tensor) -> Tensor:
    """`scores ** (1 - x) * term ** x` in logarithms, x within [0, 1]; 1/2 is the mean of the paper's crop baseline."""
    if not isinstance(exponent, Tensor) and exponent == 0:
        return log_scores
    return torch.lerp(log_scores, term, exponent)


class ScoreFusion(ABC):
    """The branches whose scores count and their exponents; a subclass for each method."""

    needs_text, needs_image, needs_foreground, needs_area, tells_base = True, True, False, False, False
    area_exponent = 0.0  # a of classes that were not trained

    def __init__(self, *, objectness_exponent: float) -> None:
        """Take o, within [0, 1]; InputError elsewhere."""
        _check_shares(objectness_exponent)
        self.objectness_exponent = float(objectness_exponent)

    @abstractmethod
    def exponents(self, is_base: Tensor | None) -> Exponents:
        """By row where base and novel are told apart, (S,) bool; None where they are not."""

    def log_objectness(self, logits: Tensor) -> Tensor:
        """The proposals' logits -> logarithms of their objectness, same shape."""
        return F.logsigmoid(logits)

    def __call__(
        self, text: Tensor | None, image: Tensor | None, terms: RegionTerms, is_base: Tensor | None = None
    ) -> Tensor:
        """(R, S) log-probabilities of the branches that are needed, terms (R, 1), is_base (S,) -> (R, S) log scores."""
        exponents = self.exponents(is_base)
        return self.join_terms(fuse_branches(text, image, exponents.text), terms, exponents)

    def join_terms(self, log_scores: Tensor, terms: RegionTerms, exponents: Exponents) -> Tensor:
        """Add the class-independent terms to fused branch scores of any shape; terms broadcast to them."""
        if self.needs_foreground:
            log_scores = join_term(log_scores, terms.foreground, exponents.foreground)
        log_scores = join_term(log_scores, terms.objectness, self.objectness_exponent)
        return log_scores + exponents.area * terms.area if self.needs_area else log_scores


@packable
class TextScores(ScoreFusion):
    """The text branch alone, e = 1: ViLD-text and ViLD."""

    needs_image = False

    def __init__(self, *, objectness_exponent: float = 0.0) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def exponents(self, is_base: Tensor | None) -> Exponents:
        return Exponents(1.0)


@packable
class TextTimesLogit(TextScores):
    """The geometric mean of text branch and the proposal's *logit*, as RegionCLIP's zero-shot inference has it.

    Scores may exceed 1. Proposals of a negative logit score 0.
    """

    def __init__(self, *, objectness_exponent: float = 0.5) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def log_objectness(self, logits: Tensor) -> Tensor:
        return logits.clamp(min=_MIN_LOGIT).log()


@packable
class ImageScores(ScoreFusion):
    """The image branch alone, e = 0: ViLD-image, and the teacher on crops; for want of a background with objectness."""

    needs_text = False

    def __init__(self, *, objectness_exponent: float = 0.5) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def exponents(self, is_base: Tensor | None) -> Exponents:
        return Exponents(0.0)


@packable
class GeometricScores(ScoreFusion):
    """Geometric mean of text and image branch: ViLD-ensemble, and ViLD-text + teacher on crops."""

    tells_base = True

    def __init__(
        self,
        *,
        base_exponent: float = 2 / 3,
        novel_exponent: float = 1 / 3,
        open_exponent: float = 0.6,
        foreground_exponent: float = 0.0,
        area_exponent: float = 0.0,
        objectness_exponent: float = 0.0,
    ) -> None:
        """
        Args:
            base_exponent: e of base classes.
            novel_exponent: e of novel classes.
            open_exponent: e where base and novel are not told apart (0.6 in DetPro's transfer).
            foreground_exponent: f of novel classes, and of all where base and novel are not told apart; 0 in ViLD.
            area_exponent: a, of the same classes; 0 in ViLD.
            objectness_exponent: o; 0 in ViLD. InputError for e, f or o outside of [0, 1], or a below 0.
        """
        super().__init__(objectness_exponent=objectness_exponent)
        _check_shares(base_exponent, novel_exponent, open_exponent, foreground_exponent)
        if not 0 <= area_exponent < math.inf:
            raise InputError(f"expected an area_exponent of at least 0, got {area_exponent}")
        self._base = Exponents(float(base_exponent))
        self._novel = Exponents(float(novel_exponent), float(foreground_exponent), float(area_exponent))
        self._open = self._novel._replace(text=float(open_exponent))
        self.area_exponent = float(area_exponent)
        self.needs_foreground = foreground_exponent > 0
        self.needs_area = area_exponent > 0

    def exponents(self, is_base: Tensor | None) -> Exponents:
        """(S,) each by `is_base`; numbers where that is None."""
        if is_base is None:
            return self._open
        return Exponents(*(torch.where(is_base, *pair) for pair in zip(self._base, self._novel, strict=True)))


def _check_shares(*exponents: float) -> None:
    for exponent in exponents:
        if not 0 <= exponent <= 1:
            raise InputError(f"expected exponents of branches, foreground and objectness within [0, 1], got {exponent}")
