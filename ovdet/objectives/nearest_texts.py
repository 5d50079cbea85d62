"""DeCLIP's nearest neighbours (arXiv:2110.05208): a region is also a pair with the text nearest to its own.

Shape letters: M regions over all processes, D embedding width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovdet.objectives.info_nce import RegionTextInfoNCE


def nearest_texts(labels: Tensor, texts: Tensor) -> Tensor:
    """The class whose text is nearest to a label's own, and is not that; the label itself where K = 1.

    Args:
        labels: (M,) in [0, K).
        texts: (K, D), unit norm.

    Returns:
        (M,) in [0, K).
    """
    if len(texts) < 2:
        return labels
    cosines = texts[labels] @ texts.T  # (M, K)
    return cosines.scatter(1, labels[:, None], -torch.inf).argmax(1)


class NearestTexts(RegionTextInfoNCE):
    """RegionTextInfoNCE with the nearest other class's text in place of the class's own.

    DeCLIP seeks neighbours in a queue of captions; a detector's texts are its classes, all of which are there.
    """

    name = "nearest_texts"

    def __init__(self, weight: float = 0.2) -> None:
        super().__init__(weight)

    def texts_of(self, labels: Tensor, class_embeddings: Tensor) -> Tensor:
        """See RegionTextInfoNCE."""
        return class_embeddings[nearest_texts(labels, class_embeddings)]
