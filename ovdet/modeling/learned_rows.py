"""Scores of classes that were learned from examples: linear rows on what the detector sees of a region.

Shape letters: R regions, F features, D embedding width, L learned rows, W width of what they look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.class_embeddings import LearnedRows
from ovdet.errors import InputError
from ovdet.modeling.score_fusion import Exponents, RegionTerms, log_area_shares

if TYPE_CHECKING:
    from ovdet.modeling.roi_heads import OpenVocabROIHeads


def region_features(box_features: Tensor, of_image: Tensor | None, image: Tensor) -> Tensor:
    """The input of learned rows, (R, W) float32: all of this side by side.

    Args:
        box_features: (R, F).
        of_image: (R, F'), the image branch's; None without an image branch.
        image: (R, D), embeddings of the regions.
    """
    parts = [part for part in (box_features, of_image, image) if part is not None]
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)


def learned_logits(features: Tensor, learned: LearnedRows) -> Tensor:
    """(R, W) -> (R, L) logits; InputError for rows of another width, which are another detector's."""
    if features.shape[1] != learned.weights.shape[1]:
        raise InputError(
            f"expected learned rows of width {features.shape[1]}, got {learned.weights.shape[1]}: another detector's"
        )
    with torch.autocast(features.device.type, enabled=False):
        return features @ learned.weights.t() + learned.biases


def learned_log_scores(
    heads: OpenVocabROIHeads, logits: Tensor, boxes: Tensor, objectness_logits: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """(R, L) logits of learned rows -> (R, L) log scores: a sigmoid each, joined with objectness (R,) and box area."""
    areas = log_area_shares(boxes, image_size)[:, None] if heads.score_fusion.needs_area else None
    terms = RegionTerms(heads.score_fusion.log_objectness(objectness_logits)[:, None], None, areas)
    exponents = Exponents(1.0, 0.0, heads.score_fusion.area_exponent)  # as of classes that were not trained
    return heads.score_fusion.join_terms(F.logsigmoid(logits), terms, exponents)
