"""Regions in the text-embedding space: the projection, and the classifier whose weights are class-name embeddings.

Shape letters: R regions over all images, F region features, D embedding width, K classes of the present vocabulary
(background is index K).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovdet.modeling.sides import SigmoidSide, SoftmaxSide, cosine_logits, dot_logits

_OWN_ENTRIES = 2**24  # of a matrix of which the classifier makes itself a float32 copy: 64 MiB
_ROWS_AT_ONCE = 8192
_NEAR_UNIT = 1e-4  # how far from 1 a norm may be, or as far as the matrix's own floating type rounds


class RegionProjection(nn.Module):
    """One linear layer to the embedding width, then unit norm ("project-to-clip", arXiv:2104.13921)."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, width)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, D), unit norm, float32 (under autocast too)."""
        return F.normalize(self.linear(features.flatten(1)).float(), dim=1)


class TextClassifier(nn.Module):
    """Cosine classifier over class-name embeddings and one learned background embedding.

    The vocabulary is a non-persistent buffer with one writer, `set_vocabulary`: checkpoints carry none and load under
    any K.
    """

    class_embeddings: Tensor

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
        self.register_buffer("class_embeddings", torch.zeros(0, width), persistent=False)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_embeddings)

    def set_vocabulary(self, class_embeddings: Tensor) -> None:
        """Take (K, D) class embeddings, K >= 1; they are brought to unit norm and to this module's device.

        A large matrix whose rows have unit norm already (a file's, mapped into memory) is used as it is: not copied,
        and in its own floating type.

        Raises:
            ValueError: not a matrix of this width, or not finite.
        """
        if class_embeddings.dim() != 2 or len(class_embeddings) == 0 or class_embeddings.shape[1] != self.width:
            raise ValueError(
                f"expected class embeddings of shape (K >= 1, {self.width}), got {tuple(class_embeddings.shape)}"
            )
        class_embeddings = class_embeddings.detach().to(self.class_embeddings.device)
        norms = torch.cat([rows.float().norm(dim=1) for rows in class_embeddings.split(_ROWS_AT_ONCE)])  # (K,)
        if not torch.isfinite(norms).all():
            raise ValueError("expected finite class embeddings, got NaN or infinity")
        rounding = max(_NEAR_UNIT, torch.finfo(class_embeddings.dtype).eps)
        if class_embeddings.numel() <= _OWN_ENTRIES or (norms - 1).abs().max() > rounding:
            class_embeddings = F.normalize(class_embeddings.float(), dim=1)
        self.class_embeddings = class_embeddings

    def forward(self, region_embeddings: Tensor) -> Tensor:
        """(R, D), unit norm -> (R, K + 1) logits; background last."""
        background = F.normalize(self.background, dim=0)[None]
        embeddings = torch.cat([self.class_embeddings, background])  # (K + 1, D)
        return cosine_logits(region_embeddings, embeddings, self.temperature)

    def side(self, region_embeddings: Tensor) -> SoftmaxSide:
        """(R, D), unit norm -> what they say of each class, for any part of the vocabulary."""
        queries = region_embeddings / self.temperature
        background = F.normalize(self.background, dim=0)[None]
        return SoftmaxSide(queries, background_logits=dot_logits(queries, background)[:, 0])


class SigmoidTextClassifier(TextClassifier):
    """Cosine classifier for sigmoid scores: no background, but one learned bias for all names.

    The bias begins where a region has the probability `prior` for any name, so that the many negatives do not drown
    the first steps (arXiv:1708.02002, section 3.3; one number for all classes as in Detic, where K may change).
    """

    def __init__(self, width: int, *, temperature: float = 0.02, prior: float = 0.01) -> None:
        """
        Args:
            width: D of the teacher's space.
            temperature: divides the cosines; 0.02 in Detic.
            prior: score of a name on a region of cosine 0 at the first step, within (0, 1).
        """
        super().__init__(width, temperature=temperature)
        del self.background
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, region_embeddings: Tensor) -> Tensor:
        """(R, D), unit norm -> (R, K + 1) logits; the last column, which sigmoid scores do not read, is 0."""
        logits = cosine_logits(region_embeddings, self.class_embeddings, self.temperature) + self.bias  # (R, K)
        return F.pad(logits, (0, 1))

    def side(self, region_embeddings: Tensor) -> SigmoidSide:
        """(R, D), unit norm -> what they say of each class, for any part of the vocabulary."""
        return SigmoidSide(region_embeddings / self.temperature, bias=self.bias)
