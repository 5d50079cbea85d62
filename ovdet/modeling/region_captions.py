"""Captions of regions, by a decoder that training left in the ROI heads (CoCa, arXiv:2205.01917).

Shape letters: R regions of one image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.errors import InputError
from ovdet.modeling.nms import select_regions
from ovdet.modeling.region_embedding import join_objectness, pool, refine, refined_proposals, with_boxes
from ovdet.objectives.caption_decoder import CaptionDecoder
from ovdet.objectives.coca import CoCa

if TYPE_CHECKING:
    from ovdet.modeling.roi_heads import OpenVocabROIHeads


def decoder_of(heads: OpenVocabROIHeads) -> CaptionDecoder:
    """The decoder that these heads learned.

    Raises:
        InputError: none.
    """
    found = [each.decoder for each in getattr(heads, "objectives", ()) if isinstance(each, CoCa)]
    if not found:
        raise InputError(
            "expected a detector with a caption decoder, this one has none: "
            "`ovdet train --config-file lite/coca dataset.root=PATH` trains one"
        )
    return found[0]


def describe_regions(
    heads: OpenVocabROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    *,
    max_regions: int,
    nms_threshold: float,
) -> list[tuple[Instances, list[str]]]:
    """The most object-like regions of each image, and a text on each.

    Args:
        heads: in evaluation mode, with a decoder.
        features: the pyramid's maps by name.
        proposals: per image, with `proposal_boxes` and `objectness_logits`.
        max_regions: of an image, at most.
        nms_threshold: IoU above which the less object-like of two regions is left out.

    Returns:
        Per image Instances with `pred_boxes` (R, 4), `scores` (R,), the texts' probabilities, and `text_ids` (R,); and
        the R texts. Most object-like first.
    """
    decoder = decoder_of(heads)
    # boxes
    proposals = refined_proposals(heads, features, proposals)
    _, box_features, _, boxes = refine(heads, features, proposals)
    logits = join_objectness(heads, box_features, torch.cat([each.objectness_logits for each in proposals]))
    counts, chosen = [len(each) for each in proposals], []
    for image, moved, objectness in zip(proposals, boxes, logits.split(counts), strict=True):
        regions = with_boxes(image, moved)
        regions.objectness_logits = objectness
        regions = regions[regions.proposal_boxes.nonempty()]
        at = select_regions(regions.proposal_boxes.tensor, regions.objectness_logits, nms_threshold, max_regions)
        chosen.append(regions[at])
    # texts
    pooled = pool(heads, features, chosen)
    told = decoder.write(pooled, heads.box_predictor.projection(heads.box_head(pooled)))
    found = []
    for regions in chosen:
        texts, told = told[: len(regions)], told[len(regions) :]
        described = Instances(regions.image_size)
        described.pred_boxes = Boxes(regions.proposal_boxes.tensor)
        described.scores = torch.tensor([probability for _, probability in texts])
        described.text_ids = torch.arange(len(texts))
        found.append((described, [text for text, _ in texts]))
    return found
