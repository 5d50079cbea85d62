"""How the scores of a region become one number per class: text branch, image branch or teacher, objectness.

Every score is `((text ** e * image ** (1 - e)) ** (1 - f) * foreground ** f) ** (1 - o) * objectness ** o * area ** a`,
with e, f and a per class, computed in logarithms. There the sum over the sides is linear, so that logits,
log-probabilities and log-divisors can all be fused alike. `foreground` is what the text branch gives to all classes
together, 1 less its background: of a novel class it may not know the name, and still see that something is there.
`area` is the box's share of the image: most small boxes lie on parts of things and on clutter, which a detector learns
to tell from objects of the classes it was trained on, and not from others.

Shape letters: R regions of one image, K classes of the present vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ovdet.errors import InputError

_LEAST_AREA = 1e-4  # of an image: a box of 3 x 3 pixels on 300 x 300


class Exponents(NamedTuple):
    """e, f and a: each a number or (K,)."""

    text: float | Tensor
    foreground: float | Tensor = 0.0
    area: float | Tensor = 0.0


class RegionTerms(NamedTuple):
    """What is known of a region whatever the class, in logarithms; in shapes that broadcast to the scores'."""

    objectness: Tensor
    foreground: Tensor | None = None  # None where the fusion does not need it
    area: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> RegionTerms:
        """The same change of each term that is there."""
        return RegionTerms(*(None if term is None else change(term) for term in self))


def log_area_shares(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Logarithms of the boxes' shares of their image, from 1e-4 on.

    Args:
        boxes: (R, 4) XYXY in pixels; what lies outside of the image does not count.
        image_size: (height, width).

    Returns:
        (R,), 0 for the whole image.
    """
    height, width = image_size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    areas = (x[:, 1] - x[:, 0]) * (y[:, 1] - y[:, 0])
    return (areas / (height * width)).clamp(min=_LEAST_AREA).log()


def fuse_sides(text: Tensor | None, image: Tensor | None, text_exponent: float | Tensor) -> Tensor:
    """`e * text + (1 - e) * image`: arXiv:2104.13921 eq. 5-6 in logarithms.

    Args:
        text: (R, K) of the text branch, in logarithms; None where e is 1.
        image: (R, K) of the image branch or of the teacher, in logarithms; None where e is 0.
        text_exponent: e within [0, 1], one or (K,).

    Returns:
        (R, K).
    """
    if image is None:
        return text
    if text is None:
        return image
    return torch.lerp(image, text, text_exponent)


def join_region_scores(log_scores: Tensor, region_log_scores: Tensor, exponent: float | Tensor) -> Tensor:
    """`scores ** (1 - x) * region_scores ** x` in logarithms; x = 1/2 is the mean of the paper's crop baseline.

    Args:
        log_scores: (R, K) or any other shape.
        region_log_scores: objectness or foreground, which say nothing of the class, in a shape that broadcasts to it.
        exponent: x within [0, 1], one or in a shape that broadcasts; 0 leaves the scores as they are.

    Returns:
        In the shape of `log_scores`, in logarithms.
    """
    if not isinstance(exponent, Tensor) and exponent == 0:
        return log_scores
    return torch.lerp(log_scores, region_log_scores, exponent)


def _check_share(exponent: float) -> None:
    if not 0 <= exponent <= 1:
        raise InputError(f"expected exponents of sides, foreground and objectness within [0, 1], got {exponent}")


class ScoreFusion(ABC):
    """A choice of sides and exponents."""

    needs_text, needs_image, needs_foreground, needs_area = True, True, False, False

    def __init__(self, *, objectness_exponent: float) -> None:
        """
        Args:
            objectness_exponent: o.

        Raises:
            InputError: it is not within [0, 1].
        """
        _check_share(objectness_exponent)
        self.objectness_exponent = float(objectness_exponent)

    @abstractmethod
    def exponents(self, is_base: Tensor | None) -> Exponents:
        """By class where base and novel are told apart, (K,) booleans; None where they are not."""

    def __call__(
        self, text: Tensor | None, image: Tensor | None, regions: RegionTerms, is_base: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities to logarithms of scores.

        Args:
            text: (R, K), None where not needed.
            image: (R, K), None where not needed.
            regions: terms of (R, 1).
            is_base: (K,) booleans, or None where base and novel classes are not told apart.

        Returns:
            (R, K).
        """
        exponents = self.exponents(is_base)
        return self.join_terms(fuse_sides(text, image, exponents.text), regions, exponents)

    def join_terms(self, log_scores: Tensor, regions: RegionTerms, exponents: Exponents) -> Tensor:
        """Fused sides, and all that is not of a class: in the shape of `log_scores`, to which all must broadcast."""
        if self.needs_foreground:
            log_scores = join_region_scores(log_scores, regions.foreground, exponents.foreground)
        log_scores = join_region_scores(log_scores, regions.objectness, self.objectness_exponent)
        return log_scores + exponents.area * regions.area if self.needs_area else log_scores


class TextScores(ScoreFusion):
    """The text branch alone: ViLD-text and ViLD."""

    needs_image = False

    def __init__(self, *, objectness_exponent: float = 0.0) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def exponents(self, is_base: Tensor | None) -> Exponents:
        """e = 1."""
        return Exponents(1.0)


class ImageScores(ScoreFusion):
    """The image side alone: ViLD-image, and the teacher on crops. It knows no background, so objectness joins in."""

    needs_text = False

    def __init__(self, *, objectness_exponent: float = 0.5) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def exponents(self, is_base: Tensor | None) -> Exponents:
        """e = 0."""
        return Exponents(0.0)


class GeometricScores(ScoreFusion):
    """Text and image side, geometrically: ViLD-ensemble, and ViLD-text + teacher on crops."""

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
            base_exponent: of the text branch, for base classes; the image side has the rest to 1.
            novel_exponent: of the text branch, for novel classes.
            open_exponent: of the text branch, where base and novel are not told apart (0.6 in DetPro's transfer).
            foreground_exponent: f of novel classes, and of all where base and novel are not told apart; 0 in ViLD.
            area_exponent: a, of the same classes; 0 in ViLD.
            objectness_exponent: o; 0 in ViLD.

        Raises:
            InputError: e, f or o outside of [0, 1], or a below 0.
        """
        super().__init__(objectness_exponent=objectness_exponent)
        for exponent in (base_exponent, novel_exponent, open_exponent, foreground_exponent):
            _check_share(exponent)
        if not 0 <= area_exponent < float("inf"):
            raise InputError(f"expected an area_exponent of at least 0, got {area_exponent}")
        self._base = Exponents(float(base_exponent))
        self._novel = Exponents(float(novel_exponent), float(foreground_exponent), float(area_exponent))
        self._open = self._novel._replace(text=float(open_exponent))
        self.needs_foreground = foreground_exponent > 0
        self.needs_area = area_exponent > 0

    def exponents(self, is_base: Tensor | None) -> Exponents:
        """(K,) each by `is_base`; numbers where that is None."""
        if is_base is None:
            return self._open
        return Exponents(*(torch.where(is_base, *pair) for pair in zip(self._base, self._novel, strict=True)))
