"""DeCLIP's nearest neighbours (arXiv:2110.05208): a region is also a pair with the text nearest to its own.

Shape letters: M regions over all processes, D embedding width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ovdet.objectives.info_nce import RegionTextInfoNCE


def nearest_texts(texts: Tensor) -> Tensor:
    """(K, D), unit norm -> (K,): of each text the one nearest to it that is not itself; itself where K = 1."""
    cosines = texts @ texts.T
    if len(texts) > 1:
        cosines.fill_diagonal_(-torch.inf)
    return cosines.argmax(1) if len(texts) else cosines.new_zeros(0, dtype=torch.int64)


class NearestTexts(RegionTextInfoNCE):
    """RegionTextInfoNCE with the nearest other class's text in place of the class's own.

    DeCLIP seeks neighbours in a queue of captions; a detector's texts are its classes, all of which are there.
    """

    name = "nearest_texts"

    def __init__(self, weight: float = 0.2) -> None:
        super().__init__(weight)

    def texts_of(self, class_embeddings: Tensor) -> Tensor:
        """See RegionTextInfoNCE."""
        return class_embeddings[nearest_texts(class_embeddings)]
