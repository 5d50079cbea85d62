"""From boxes to embedded regions: pool them, refine them, embed them, all that does not hang on the classes.

modeling/scoring.py goes on from here. The functions take the ROI heads, whose parts they run.

Shape letters: R regions over all images (Ri of image i), F features, D embedding width, C channels, P pooled side,
W width of what learned rows look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.modeling.iou_head import geometric_mean_logits
from ovdet.modeling.learned_rows import region_features
from ovdet.modeling.region_teacher import look_again
from ovdet.modeling.scoring import Regions

if TYPE_CHECKING:
    from ovdet.modeling.roi_heads import OpenVocabROIHeads


@dataclass(frozen=True)
class EmbeddedImage:
    """Regions of one image with their embeddings, to be scored for any classes.

    Attributes:
        image_size: (height, width) that boxes are in.
        boxes: (R, 4) XYXY, refined.
        objectness_logits: (R,).
        regions: embedded, for names; a region_teacher may leave some out. None where not asked for.
        features: (R, W) that learned rows look at; None where not asked for.
    """

    image_size: tuple[int, int]
    boxes: Tensor
    objectness_logits: Tensor
    regions: Regions | None
    features: Tensor | None


def embed_images(
    heads: OpenVocabROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    photos: list[Tensor] | None = None,
    *,
    for_names: bool = True,
    for_learned: bool = True,
) -> list[EmbeddedImage]:
    """All of `detect`, with its arguments, that does not hang on the classes.

    `for_names` embeds regions, `for_learned` keeps what learned rows look at.
    """
    # boxes
    sizes, said = [p.image_size for p in proposals], [None] * len(proposals)
    proposals = refined_proposals(heads, features, proposals)
    own = [len(p) for p in proposals]
    if heads.expert is not None:
        proposals, said = heads.expert.join_proposals(proposals, features)
    pooled, box_features, text, boxes = refine(heads, features, proposals)
    places, counts = [p.proposal_boxes.tensor for p in proposals], [len(p) for p in proposals]
    if heads.expert is not None:  # its boxes stay as they are
        boxes = [torch.cat([new[:n], place[n:]]) for n, new, place in zip(own, boxes, places, strict=True)]
    # embeddings and objectness
    asks_linear = for_names and heads.linear_expert is not None
    wanted = dict(for_learned=for_learned or asks_linear)
    image, looked_at = look_at_regions(heads, pooled, features, places, box_features, text, **wanted)
    logits = join_objectness(heads, box_features, torch.cat([p.objectness_logits for p in proposals])).split(counts)
    nothing = [None] * len(counts)
    linear = heads.linear_expert(looked_at).split(counts) if asks_linear else nothing
    looked_at, regions = looked_at.split(counts) if for_learned else nothing, nothing
    if for_names:
        regions = map(Regions, boxes, text.split(counts), image.split(counts), logits, said, linear)
        if heads.region_teacher is not None:
            regions = map(partial(look_again, heads.region_teacher), regions, sizes, photos)
    return [EmbeddedImage(*parts) for parts in zip(sizes, boxes, logits, regions, looked_at, strict=True)]


def refined_proposals(
    heads: OpenVocabROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]
) -> list[Instances]:
    """Proposals moved by all box-refinement passes but the last."""
    for box_head, predictor in heads.stages * (heads.box_passes - 1):
        deltas = predictor.bbox_pred(box_head(pool(heads, features, proposals)).flatten(1))  # (R, 4)
        boxes = predictor.predict_boxes((None, deltas), proposals)
        proposals = [with_boxes(*pair) for pair in zip(proposals, boxes, strict=True)]
    return proposals


def refine(
    heads: OpenVocabROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """-> pooled (R, C, P, P), box features (R, F), text embeddings (R, D), refined boxes (Ri, 4) per image.

    Of heads with several stages the embeddings of all stand side by side; the rest is the last one's.
    """
    embeddings, boxes = [], None
    for box_head, predictor in heads.stages:
        if boxes is not None:
            proposals = [with_boxes(*pair) for pair in zip(proposals, boxes, strict=True)]
        pooled = pool(heads, features, proposals)
        box_features = box_head(pooled)
        text, deltas = predictor.embed(box_features)  # (R, D), (R, 4)
        boxes = predictor.predict_boxes((None, deltas), proposals)
        embeddings.append(text)
    return pooled, box_features, torch.cat(embeddings, dim=1), boxes


def pool(heads: OpenVocabROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]) -> Tensor:
    """Each proposal's part of the pyramid, (R, C, P, P).

    In float32: detectron2 takes boxes to the maps' type, and bfloat16 knows no pixels but every fourth beyond 512.
    """
    maps = [features[name].float() for name in heads.box_in_features]
    return heads.box_pooler(maps, [x.proposal_boxes for x in proposals])


def look_at_regions(
    heads: OpenVocabROIHeads,
    pooled: Tensor,
    features: Mapping[str, Tensor],
    boxes: Sequence[Tensor],
    box_features: Tensor,
    text: Tensor,
    *,
    for_learned: bool,
) -> tuple[Tensor, Tensor | None]:
    """The image branch's embeddings of regions (R, D), see ImageBranch, and what learned rows look at (R, W).

    The text branch's own embeddings, where there is no image branch or the fusion does not ask for it; None for the
    latter, unless `for_learned`. The branch looks at each region once for both.
    """
    needs_image, of_image = heads.score_fusion.needs_image, None
    if heads.image_branch is not None and (needs_image or for_learned):
        of_image = heads.image_branch.features(pooled, features, boxes)
    has_own = of_image is not None and needs_image
    image = heads.image_branch.embed_features(of_image) if has_own else text
    return image, region_features(box_features, of_image, image) if for_learned else None


def join_objectness(heads: OpenVocabROIHeads, box_features: Tensor, objectness_logits: Tensor) -> Tensor:
    """(R, F), the RPN's logits (R,) -> logits (R,), float32, joined with the IoU head's where there is one."""
    logits = objectness_logits.float()
    return logits if heads.iou_head is None else geometric_mean_logits(logits, heads.iou_head(box_features))


def with_boxes(proposals: Instances, boxes: Tensor) -> Instances:
    """The same proposals elsewhere, within the image."""
    moved = Instances(proposals.image_size)
    moved.proposal_boxes = Boxes(boxes.nan_to_num())  # detectron2's clip wants numbers
    moved.proposal_boxes.clip(proposals.image_size)
    moved.objectness_logits = proposals.objectness_logits
    return moved
