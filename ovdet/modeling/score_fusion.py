"""How the scores of a region become one number per class: text branch, image branch or teacher, objectness.

Shape letters: R regions of one image, K classes of the present vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_fusion(text: Tensor, image: Tensor, text_exponents: Tensor) -> Tensor:
    """`text ** e * image ** (1 - e)`, e per class: 2/3 for base, 1/3 for novel classes (arXiv:2104.13921 eq. 5-6).

    Args:
        text: (R, K), probabilities of the text branch.
        image: (R, K), probabilities of the image branch or of the teacher.
        text_exponents: (K,), within [0, 1].

    Returns:
        (R, K).
    """
    return text.pow(text_exponents) * image.pow(1 - text_exponents)


def objectness_fusion(scores: Tensor, objectness_logits: Tensor, exponent: float) -> Tensor:
    """`scores ** (1 - e) * objectness ** e`; e = 1/2 is the geometric mean of the paper's crop baseline.

    Args:
        scores: (R, K), probabilities.
        objectness_logits: (R,), as the RPN gives them.
        exponent: e within [0, 1]; 0 leaves the scores as they are.

    Returns:
        (R, K).
    """
    if exponent == 0:
        return scores
    return scores.pow(1 - exponent) * objectness_logits.sigmoid().pow(exponent)[:, None]


class TextScores:
    """The text branch alone: ViLD-text and ViLD."""

    needs_image = False

    def __init__(self, *, objectness_exponent: float = 0.0) -> None:
        self.objectness_exponent = objectness_exponent

    def __call__(self, text: Tensor, image: Tensor | None, objectness_logits: Tensor, is_base: Tensor | None) -> Tensor:
        """(R, K), unused, (R,), unused -> (R, K)."""
        return objectness_fusion(text, objectness_logits, self.objectness_exponent)


class ImageScores:
    """The image side alone: ViLD-image, and the teacher on crops. It knows no background, so objectness joins in."""

    needs_image = True

    def __init__(self, *, objectness_exponent: float = 0.5) -> None:
        self.objectness_exponent = objectness_exponent

    def __call__(self, text: Tensor, image: Tensor, objectness_logits: Tensor, is_base: Tensor | None) -> Tensor:
        """unused, (R, K), (R,), unused -> (R, K)."""
        return objectness_fusion(image, objectness_logits, self.objectness_exponent)


class GeometricScores:
    """Text and image side, geometrically: ViLD-ensemble, and ViLD-text + teacher on crops."""

    needs_image = True

    def __init__(
        self,
        *,
        base_exponent: float = 2 / 3,
        novel_exponent: float = 1 / 3,
        open_exponent: float = 0.6,
        objectness_exponent: float = 0.0,
    ) -> None:
        """
        Args:
            base_exponent: of the text branch, for base classes; the image side has the rest to 1.
            novel_exponent: of the text branch, for novel classes.
            open_exponent: of the text branch, where base and novel are not told apart (0.6 in DetPro's transfer).
            objectness_exponent: see objectness_fusion; 0 in ViLD.
        """
        self.base_exponent = base_exponent
        self.novel_exponent = novel_exponent
        self.open_exponent = open_exponent
        self.objectness_exponent = objectness_exponent

    def __call__(self, text: Tensor, image: Tensor, objectness_logits: Tensor, is_base: Tensor | None) -> Tensor:
        """(R, K), (R, K), (R,), (K,) bool or None -> (R, K)."""
        if is_base is None:
            exponents = text.new_full((text.shape[1],), self.open_exponent)
        else:
            exponents = torch.where(is_base, self.base_exponent, self.novel_exponent).to(text)
        return objectness_fusion(geometric_fusion(text, image, exponents), objectness_logits, self.objectness_exponent)
