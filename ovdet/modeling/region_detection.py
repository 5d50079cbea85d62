"""From proposals to detections for any classes: embed regions, score them, post-process, the ROI heads at test time.

modeling/region_embedding.py embeds, modeling/scoring.py scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from detectron2.structures import Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.modeling.large_vocabulary import topk_chunked
from ovdet.modeling.learned_rows import learned_log_scores, learned_logits
from ovdet.modeling.postprocess import TopK, postprocess_image
from ovdet.modeling.region_embedding import EmbeddedImage, embed_images
from ovdet.modeling.scoring import Regions, RegionScorer, build_scorer, max_over_rows, topk_dense

if TYPE_CHECKING:
    from ovdet.modeling.roi_heads import OpenVocabROIHeads


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


def score_image(heads: OpenVocabROIHeads, seen: EmbeddedImage, classes: ClassEmbeddings) -> Instances:
    """One image's detections, see `detect`."""
    by_names = by_examples = None
    if classes.learned is not None:
        logits = learned_logits(seen.features, classes.learned)
        by_examples = _detect_learned(heads, seen.boxes, logits, seen.objectness_logits, seen.image_size, classes)
    if len(classes.class_ids):
        by_names = _detect_in_image(heads, seen.regions, seen.image_size, classes)
    return best_first((by_names, by_examples))


def _detect_in_image(
    heads: OpenVocabROIHeads, regions: Regions, image_size: tuple[int, int], classes: ClassEmbeddings
) -> Instances:
    regions = regions.finite()
    active = None if heads.background_names is None else heads.background_names.active_for(classes)
    found = postprocess_image(
        build_topk(heads, build_scorer(heads, regions, image_size, active), classes),
        regions.boxes,
        image_size,
        **detection_limits(heads),
        soft_nms=heads.soft_nms,
        negative_class=len(classes.names) if heads.class_agnostic_nms else None,
    )
    return found if heads.calibration is None else heads.calibration.of_instances(found, classes)


def build_topk(heads: OpenVocabROIHeads, scorer: RegionScorer, classes: ClassEmbeddings) -> TopK:
    """The top-k function. With class-agnostic NMS negatives are candidates too, so that they can suppress boxes."""
    with_negatives = heads.class_agnostic_nms
    if len(classes.class_ids) > heads.max_dense_rows:
        return partial(topk_chunked, scorer, classes, with_negatives=with_negatives)
    log_scores = scorer.log_scores(classes.embeddings, classes.is_base)
    return partial(topk_dense, max_over_rows(log_scores, classes, with_negatives=with_negatives))


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
    limits = dict(**detection_limits(heads), soft_nms=heads.soft_nms)
    found = postprocess_image(partial(topk_dense, best), boxes[is_finite], image_size, **limits)
    found.pred_classes = ids[found.pred_classes]
    return found


def detection_limits(heads: OpenVocabROIHeads) -> dict[str, Any]:
    """Thresholds and numbers of detections that the heads hold, by the names that post-processing has for them."""
    return dict(
        score_threshold=heads.box_predictor.test_score_thresh,
        nms_threshold=heads.box_predictor.test_nms_thresh,
        max_detections=heads.box_predictor.test_topk_per_image,
        class_agnostic_nms=heads.class_agnostic_nms,
        soft_nms_sigma=heads.soft_nms_sigma,
    )


def best_first(found: Sequence[Instances | None]) -> Instances:
    """Detections of one image from several sources, in the order of their scores; None is no source."""
    there = [each for each in found if each is not None]
    if len(there) == 1:
        return there[0]
    joined = Instances.cat(there)
    return joined[joined.scores.sort(descending=True, stable=True).indices]
