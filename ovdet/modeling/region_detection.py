"""From proposals to detections: refine boxes, embed regions, score them for any classes, post-process.

The test-time half of the ROI heads, as functions of these; modeling/scoring.py computes the scores.

Shape letters: R regions over all images (Ri of image i), F features, D embedding width, C channels, P pooled side,
L learned rows, W width of what they look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.errors import InputError
from ovdet.modeling.iou_head import geometric_mean_logits
from ovdet.modeling.large_vocabulary import topk_chunked
from ovdet.modeling.postprocess import TopK, postprocess_image
from ovdet.modeling.region_teacher import look_again
from ovdet.modeling.score_fusion import RegionTerms, log_area_shares
from ovdet.modeling.scoring import Regions, RegionScorer, SoftmaxBranch, max_over_rows, topk_dense

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


def detect(
    heads: OpenVocabROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    classes: ClassEmbeddings,
    photos: list[Tensor] | None = None,
) -> list[Instances]:
    """Per image Instances with pred_boxes, scores, pred_classes (indices into `classes.names`), best first.

    Args:
        heads: in evaluation mode.
        features: the pyramid's maps by name.
        proposals: per image, with `proposal_boxes` and `objectness_logits`.
        classes: on the maps' device.
        photos: RGB images (3, H, W) in [0, 255] per image, for heads with a region_teacher.
    """
    wanted = dict(for_names=len(classes.class_ids) > 0, for_learned=classes.learned is not None)
    return [score_image(heads, seen, classes) for seen in embed_images(heads, features, proposals, photos, **wanted)]


def embed_images(
    heads: OpenVocabROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    photos: list[Tensor] | None = None,
    *,
    for_names: bool = True,
    for_learned: bool = True,
) -> list[EmbeddedImage]:
    """All of `detect` that does not hang on the classes.

    Args:
        heads: see `detect`.
        features: see `detect`.
        proposals: see `detect`.
        photos: see `detect`.
        for_names: embed regions.
        for_learned: keep what learned rows look at.
    """
    # boxes
    proposals = refined_proposals(heads, features, proposals)
    pooled, box_features, text, boxes = refine(heads, features, proposals)
    places = [p.proposal_boxes.tensor for p in proposals]
    counts, sizes = [len(p) for p in proposals], [p.image_size for p in proposals]
    # embeddings and objectness
    image = image_embeddings(heads, pooled, features, places, text)
    logits = join_objectness(heads, box_features, torch.cat([p.objectness_logits for p in proposals])).split(counts)
    regions, looked_at = [None] * len(counts), [None] * len(counts)
    if for_learned:
        looked_at = region_features(heads, pooled, features, places, box_features, image).split(counts)
    if for_names:
        regions = map(Regions, boxes, text.split(counts), image.split(counts), logits)
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


def score_image(heads: OpenVocabROIHeads, seen: EmbeddedImage, classes: ClassEmbeddings) -> Instances:
    """One image's detections, see `detect`."""
    by_names = by_examples = None
    if classes.learned is not None:
        logits = learned_logits(seen.features, classes.learned)
        by_examples = _detect_learned(heads, seen.boxes, logits, seen.objectness_logits, seen.image_size, classes)
    if len(classes.class_ids):
        by_names = _detect_in_image(heads, seen.regions, seen.image_size, classes)
    return best_first((by_names, by_examples))


def pool(heads: OpenVocabROIHeads, features: Mapping[str, Tensor], proposals: list[Instances]) -> Tensor:
    """Each proposal's part of the pyramid, (R, C, P, P)."""
    return heads.box_pooler([features[f] for f in heads.box_in_features], [x.proposal_boxes for x in proposals])


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


def image_embeddings(
    heads: OpenVocabROIHeads, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor], text: Tensor
) -> Tensor:
    """The image branch's embeddings of regions (R, D), see ImageBranch; without one the text branch's own."""
    has_own = heads.image_branch is not None and heads.score_fusion.needs_image
    return heads.image_branch(pooled, features, boxes) if has_own else text


def region_features(
    heads: OpenVocabROIHeads,
    pooled: Tensor,
    features: Mapping[str, Tensor],
    boxes: Sequence[Tensor],
    box_features: Tensor,
    image: Tensor,
) -> Tensor:
    """What learned rows look at, (R, W) float32: box features, the image branch's where there is one, its embeddings.

    Args:
        heads: whose they are.
        pooled: (R, C, P, P).
        features: all maps by name.
        boxes: of each image (Ri, 4) XYXY, where `pooled` was pooled.
        box_features: (R, F).
        image: (R, D), of `image_embeddings`.
    """
    parts = [box_features]
    if heads.image_branch is not None:
        parts.append(heads.image_branch.features(pooled, features, boxes))
    parts.append(image)
    return torch.cat([part.flatten(1).float() for part in parts], dim=1)


def learned_logits(features: Tensor, learned: LearnedRows) -> Tensor:
    """(R, W) -> (R, L) logits; InputError for rows of another width, which are another detector's."""
    if features.shape[1] != learned.weights.shape[1]:
        raise InputError(
            f"expected learned rows of width {features.shape[1]}, got {learned.weights.shape[1]}: another detector's"
        )
    with torch.autocast(features.device.type, enabled=False):
        return features @ learned.weights.t() + learned.biases


def _detect_learned(
    heads: OpenVocabROIHeads,
    boxes: Tensor,
    logits: Tensor,
    objectness_logits: Tensor,
    image_size: tuple[int, int],
    classes: ClassEmbeddings,
) -> Instances:
    """One image's detections of classes with learned rows: logits (Ri, L), objectness (Ri,)."""
    is_finite = torch.isfinite(boxes).all(1) & torch.isfinite(logits).all(1) & torch.isfinite(objectness_logits)
    kept = logits[is_finite], boxes[is_finite], objectness_logits[is_finite]
    log_scores = learned_log_scores(heads, *kept, image_size)
    ids, columns = classes.learned.class_ids.unique(return_inverse=True)
    best = log_scores.new_full((len(log_scores), len(ids)), -torch.inf)
    best.scatter_reduce_(1, columns.expand_as(log_scores), log_scores, "amax")
    found = postprocess_image(partial(topk_dense, best), boxes[is_finite], image_size, **_postprocessing(heads))
    found.pred_classes = ids[found.pred_classes]
    return found


def learned_log_scores(
    heads: OpenVocabROIHeads, logits: Tensor, boxes: Tensor, objectness_logits: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """(R, L) logits of learned rows -> (R, L) log scores: a sigmoid each, joined with objectness (R,) and box area."""
    areas = log_area_shares(boxes, image_size)[:, None] if heads.score_fusion.needs_area else None
    terms = RegionTerms(heads.score_fusion.log_objectness(objectness_logits)[:, None], None, areas)
    return heads.score_fusion.join_learned(F.logsigmoid(logits), terms)


def best_first(found: Sequence[Instances | None]) -> Instances:
    """Detections of one image from several sources, in the order of their scores; None is no source."""
    there = [each for each in found if each is not None]
    if len(there) == 1:
        return there[0]
    joined = Instances.cat(there)
    return joined[joined.scores.sort(descending=True, stable=True).indices]


def join_objectness(heads: OpenVocabROIHeads, box_features: Tensor, objectness_logits: Tensor) -> Tensor:
    """(R, F), the RPN's logits (R,) -> logits (R,), float32, joined with the IoU head's where there is one."""
    logits = objectness_logits.float()
    return logits if heads.iou_head is None else geometric_mean_logits(logits, heads.iou_head(box_features))


def build_scorer(
    heads: OpenVocabROIHeads, regions: Regions, image_size: tuple[int, int], active: Tensor | None
) -> RegionScorer:
    """What scores one image's regions for any classes; `active`: which background names count, None without them."""
    fusion, image = heads.score_fusion, None
    if fusion.needs_image:
        queries = regions.image / heads.image_temperature
        background = None if active is None else heads.background_names(queries, active)
        image = SoftmaxBranch(queries, background_logits=background)
    return RegionScorer(
        text=heads.text_branch(regions.text) if fusion.needs_text else None,
        image=image,
        objectness_logits=regions.objectness_logits,
        fusion=fusion,
        log_areas=log_area_shares(regions.boxes, image_size) if fusion.needs_area else None,
    )


def build_topk(heads: OpenVocabROIHeads, scorer: RegionScorer, classes: ClassEmbeddings) -> TopK:
    """The top-k function. With class-agnostic NMS negatives are candidates too, so that they can suppress boxes."""
    with_negatives = heads.class_agnostic_nms
    if len(classes.class_ids) > heads.max_dense_rows:
        return partial(topk_chunked, scorer, classes, with_negatives=with_negatives)
    log_scores = scorer.log_scores(classes.embeddings, classes.is_base)
    return partial(topk_dense, max_over_rows(log_scores, classes, with_negatives=with_negatives))


def _detect_in_image(
    heads: OpenVocabROIHeads, regions: Regions, image_size: tuple[int, int], classes: ClassEmbeddings
) -> Instances:
    regions = regions.finite()
    active = None if heads.background_names is None else heads.background_names.active_for(classes)
    found = postprocess_image(
        build_topk(heads, build_scorer(heads, regions, image_size, active), classes),
        regions.boxes,
        image_size,
        **_postprocessing(heads),
        negative_class=len(classes.names) if heads.class_agnostic_nms else None,
    )
    return found if heads.calibration is None else heads.calibration.of_instances(found, classes)


def _postprocessing(heads: OpenVocabROIHeads) -> dict[str, Any]:
    """What `postprocess_image` takes from the heads."""
    return dict(
        score_threshold=heads.box_predictor.test_score_thresh,
        nms_threshold=heads.box_predictor.test_nms_thresh,
        max_detections=heads.box_predictor.test_topk_per_image,
        class_agnostic_nms=heads.class_agnostic_nms,
        soft_nms_sigma=heads.soft_nms_sigma,
        soft_nms=heads.soft_nms,
    )


def with_boxes(proposals: Instances, boxes: Tensor) -> Instances:
    """The same proposals elsewhere, within the image."""
    moved = Instances(proposals.image_size)
    moved.proposal_boxes = Boxes(boxes.nan_to_num())  # detectron2's clip wants numbers
    moved.proposal_boxes.clip(proposals.image_size)
    moved.objectness_logits = proposals.objectness_logits
    return moved
