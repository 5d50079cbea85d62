"""From annotated photos to labeled region features: proposals on the examples, and background of the same photos.

Shape letters: R proposals, G annotated boxes of a photo, N regions that are learned from, W width of their features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_iou

from ovdet.errors import InputError
from ovdet.learning.probe import BACKGROUND, IGNORED
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.region_embedding import look_at_regions, refine, refined_proposals

ON_OBJECT, OFF_OBJECTS = 0.5, 0.3  # IoU from which on a region shows an object, and below which it shows none


class LabeledRegions(NamedTuple):
    """Regions to learn from.

    Attributes:
        features: (N, W) float32.
        labels: (N,) int64, the class, or BACKGROUND.
        weights: (N,) float32; those of one example add up to 1.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor


def label_regions(boxes: Tensor, objects: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each region, and its weight.

    Args:
        boxes: (R, 4) XYXY.
        objects: (G, 4) XYXY.
        class_ids: (G,) of the objects; IGNORED for those of other classes, whose regions are no background.

    Returns:
        Labels (R,), a class, BACKGROUND or IGNORED; weights (R,): those of one object add up to 1, 1 elsewhere.
    """
    if not len(objects):
        return torch.full((len(boxes),), BACKGROUND), torch.ones(len(boxes))
    overlaps, nearest = box_iou(boxes, objects).nan_to_num().max(1)
    labels = torch.where(overlaps >= ON_OBJECT, class_ids[nearest], IGNORED)
    labels[overlaps < OFF_OBJECTS] = BACKGROUND
    shares = 1 / torch.bincount(nearest[labels >= 0], minlength=len(objects)).clamp(min=1)
    return labels, torch.where(labels >= 0, shares[nearest], 1.0)


@torch.no_grad()
def labeled_regions(
    model: OpenVocabRCNN,
    inputs: dict,
    boxes: Tensor,
    class_ids: Tensor,
    *,
    max_background: int,
    generator: torch.Generator | None = None,
) -> LabeledRegions:
    """Labeled regions of one photo and of its mirror image; each example counts once in all.

    Args:
        model: in evaluation mode.
        inputs: of the photo, as the model takes it, with "height" and "width".
        boxes: (G, 4) XYXY, pixels of the photo.
        class_ids: (G,), see `label_regions`.
        max_background: background regions of each view, drawn at random.
        generator: of what is drawn.
    """
    height, width = inputs["image"].shape[1:]
    scale = torch.tensor([width / inputs["width"], height / inputs["height"]]).repeat(2)
    objects, views = boxes * scale, []
    for is_mirrored in (False, True):
        if is_mirrored:
            inputs = {**inputs, "image": inputs["image"].flip(2)}
            objects = torch.stack([width - objects[:, 2], objects[:, 1], width - objects[:, 0], objects[:, 3]], dim=1)
        found, features = _regions_with(model, inputs, objects)
        found = torch.cat([found[: len(found) - len(objects)], objects])  # the objects' own regions are where they are
        labels, weights = label_regions(found, objects, class_ids)
        background = (labels == BACKGROUND).nonzero().squeeze(1)
        drawn = torch.randperm(len(background), generator=generator)[:max_background]
        kept = torch.cat([(labels >= 0).nonzero().squeeze(1), background[drawn]])
        views.append(LabeledRegions(features[kept], labels[kept], weights[kept] / 2))
    return join_regions(views)


def join_regions(parts: list[LabeledRegions]) -> LabeledRegions:
    """All of them together."""
    return LabeledRegions(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _regions_with(model: OpenVocabRCNN, inputs: dict, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Refined boxes (R + G, 4) and features (R + G, W) of the proposals and of given boxes, on the CPU."""
    heads = model.roi_heads
    features, proposals = propose(model, inputs)
    proposals = refined_proposals(heads, features, proposals)
    joined = Instances(proposals[0].image_size)
    joined.proposal_boxes = Boxes(torch.cat([proposals[0].proposal_boxes.tensor, objects.to(model.device)]))
    pooled, box_features, text, boxes = refine(heads, features, [joined])
    places = [joined.proposal_boxes.tensor]
    _, looked_at = look_at_regions(heads, pooled, features, places, box_features, text, for_learned=True)
    return boxes[0].cpu(), looked_at.cpu()


def propose(model: OpenVocabRCNN, inputs: dict) -> tuple[dict[str, Tensor], list[Instances]]:
    """The pyramid's maps and the RPN's proposals of one photo."""
    images = model.preprocess_image([inputs])
    features = model.backbone(images.tensor)
    return features, model.proposal_generator(images, features, None)[0]


def to_boxes(boxes: Any, photo: str) -> Tensor:
    """(G, 4) float32 of boxes x1, y1, x2, y2, as a tensor, an array or lists; one box may stand alone.

    Raises:
        InputError: something else, or numbers that are not finite.
    """
    try:
        found = torch.as_tensor(boxes, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(1)
    if found.dim() > 2 or (found.numel() and found.shape[-1:] != (4,)):
        raise InputError(f"expected boxes x1, y1, x2, y2 in {photo}, got {str(boxes)[:80]}")
    found = found.reshape(-1, 4)
    odd = (~torch.isfinite(found)).any(1).nonzero()
    if len(odd):
        raise InputError(f"expected boxes of finite numbers in {photo}, got {found[int(odd[0])].tolist()}")
    return found


def check_boxes(boxes: Tensor, height: int, width: int, photo: str) -> Tensor:
    """(G, 4) XYXY within the photo.

    Raises:
        InputError: as of `to_boxes`, or a box without area in the photo.
    """
    boxes = to_boxes(boxes, photo)
    within = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    empty = (within[:, 2:] <= within[:, :2]).any(1).nonzero()
    if len(empty):
        raise InputError(
            f"expected boxes x1, y1, x2, y2 with an area in {photo} of {width} x {height} pixels, "
            f"got {boxes[int(empty[0])].tolist()}"
        )
    return within
