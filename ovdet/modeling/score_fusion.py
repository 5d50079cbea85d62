"""How the scores of a region become one number per class: text branch, image branch or teacher, objectness.

Every score is `((text ** e * image ** (1 - e)) ** (1 - f) * foreground ** f) ** (1 - o) * objectness ** o`, with e and
f per class, computed in logarithms. There the sum over the sides is linear, so that logits, log-probabilities and
log-divisors can all be fused alike. `foreground` is what the text branch gives to all classes together, 1 less its
background: of a novel class it may not know the name, and still see that something is there.

Shape letters: R regions of one image, K classes of the present vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    if isinstance(exponent, float) and exponent == 0:
        return log_scores
    return torch.lerp(log_scores, region_log_scores, exponent)


class ScoreFusion:
    """A choice of sides and exponents."""

    needs_text, needs_image, needs_foreground = True, True, False

    def __init__(self, *, objectness_exponent: float) -> None:
        """
        Args:
            objectness_exponent: o.
        """
        self.objectness_exponent = objectness_exponent

    def text_exponent(self, is_base: Tensor | None) -> float | Tensor:
        """e, one or (K,)."""
        raise NotImplementedError

    def foreground_exponent(self, is_base: Tensor | None) -> float | Tensor:
        """f, one or (K,)."""
        return 0.0

    def __call__(
        self,
        text: Tensor | None,
        image: Tensor | None,
        objectness_logits: Tensor,
        is_base: Tensor | None = None,
        *,
        log_foreground: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities to logarithms of scores.

        Args:
            text: (R, K), None where not needed.
            image: (R, K), None where not needed.
            objectness_logits: (R,).
            is_base: (K,) booleans, or None where base and novel classes are not told apart.
            log_foreground: (R,), None where not needed.

        Returns:
            (R, K).
        """
        fused = fuse_sides(text, image, self.text_exponent(is_base))
        if self.needs_foreground:
            fused = join_region_scores(fused, log_foreground[:, None], self.foreground_exponent(is_base))
        return join_region_scores(fused, F.logsigmoid(objectness_logits)[:, None], self.objectness_exponent)


class TextScores(ScoreFusion):
    """The text branch alone: ViLD-text and ViLD."""

    needs_image = False

    def __init__(self, *, objectness_exponent: float = 0.0) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def text_exponent(self, is_base: Tensor | None) -> float:
        """1."""
        return 1.0


class ImageScores(ScoreFusion):
    """The image side alone: ViLD-image, and the teacher on crops. It knows no background, so objectness joins in."""

    needs_text = False

    def __init__(self, *, objectness_exponent: float = 0.5) -> None:
        super().__init__(objectness_exponent=objectness_exponent)

    def text_exponent(self, is_base: Tensor | None) -> float:
        """0."""
        return 0.0


class GeometricScores(ScoreFusion):
    """Text and image side, geometrically: ViLD-ensemble, and ViLD-text + teacher on crops."""

    def __init__(
        self,
        *,
        base_exponent: float = 2 / 3,
        novel_exponent: float = 1 / 3,
        open_exponent: float = 0.6,
        foreground_exponent: float = 0.0,
        objectness_exponent: float = 0.0,
    ) -> None:
        """
        Args:
            base_exponent: of the text branch, for base classes; the image side has the rest to 1.
            novel_exponent: of the text branch, for novel classes.
            open_exponent: of the text branch, where base and novel are not told apart (0.6 in DetPro's transfer).
            foreground_exponent: f of novel classes, and of all where base and novel are not told apart; 0 in ViLD.
            objectness_exponent: o; 0 in ViLD.
        """
        super().__init__(objectness_exponent=objectness_exponent)
        self.base_exponent = base_exponent
        self.novel_exponent = novel_exponent
        self.open_exponent = open_exponent
        self.novel_foreground_exponent = foreground_exponent
        self.needs_foreground = foreground_exponent > 0

    def text_exponent(self, is_base: Tensor | None) -> float | Tensor:
        """(K,) by `is_base`; one where that is None."""
        if is_base is None:
            return self.open_exponent
        return torch.where(is_base, self.base_exponent, self.novel_exponent)

    def foreground_exponent(self, is_base: Tensor | None) -> float | Tensor:
        """(K,) by `is_base`; one where that is None."""
        if is_base is None:
            return self.novel_foreground_exponent
        return torch.where(is_base, 0.0, self.novel_foreground_exponent)
