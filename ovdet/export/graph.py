"""The whole detector as one graph of tensor operations: a photo and a vocabulary in, boxes, scores and classes out.

detectron2's own inference asks in between how many boxes are left, which a graph cannot. Here the same steps, with the
same trained parts, are written without such questions; tests hold the two side by side.

Shape letters: H, W of the photo; R regions; K rows of the vocabulary; D embedding width;
C channels; P pooled side; N detections; S side of a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler
from torch import Tensor, nn
from torchvision.ops import nms

from ovdet.export.proposals import propose
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.learned_rows import learned_log_scores
from ovdet.modeling.nms import apart, clip
from ovdet.modeling.postprocess import soft_nms_scores
from ovdet.modeling.region_detection import detection_limits
from ovdet.modeling.region_embedding import join_objectness, look_at_regions
from ovdet.modeling.scoring import Regions, build_scorer
from ovdet.modeling.tracing import min_steps, opaque, with_fixed_shapes, with_folded_norms

CANDIDATES_PER_REGION = 10


class DetectionGraph(nn.Module):
    """A detector for one photo, to be traced by `torch.export`."""

    def __init__(self, detector: OpenVocabRCNN) -> None:
        """
        Args:
            detector: trained, in evaluation mode. It is left as it is; its parameters are shared.
        """
        super().__init__()
        self.backbone = with_fixed_shapes(with_folded_norms(detector.backbone))
        self.proposal_generator = detector.proposal_generator
        self.roi_heads = with_folded_norms(detector.roi_heads)
        self.min_steps = min_steps(detector.backbone)
        self.is_bgr = detector.input_format == "BGR"
        self.register_buffer("pixel_mean", detector.pixel_mean)
        self.register_buffer("pixel_std", detector.pixel_std)

    def forward(
        self,
        image: Tensor,
        vocabulary: Tensor,
        is_base: Tensor | None = None,
        learned_weights: Tensor | None = None,
        learned_biases: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            image: (3, H, W) uint8 RGB, of the size that the detector wants its photos in.
            vocabulary: (K, D) float32, unit norm.
            is_base: (K,) bool, which classes were trained on; None where the fusion of scores does not ask.
            learned_weights: (L, W) float32, see `LearnedRows`; None for none.
            learned_biases: (L,) float32.

        Returns:
            Boxes (N, 4) float32 XYXY in pixels of `image`, scores (N,) float32, classes (N,) int64, K and more for
            learned rows, best first; of a detector with masks, the probabilities (N, S, S) of each box's pixels too.
        """
        heads = self.roi_heads
        size = (image.shape[1], image.shape[2])
        features = self.backbone(self._network_input(image))
        maps = [features[name] for name in heads.box_in_features]
        proposals, objectness = propose(self.proposal_generator, features, size)
        for _ in range(heads.box_passes - 1):
            _, _, _, boxes = self._refine(maps, proposals, size)
            proposals = clip(boxes, size)
        own, said = proposals.shape[0], None
        if heads.expert is not None:
            its_maps = [features[name] for name in heads.expert.in_features]
            proposals, objectness, said = heads.expert.add_to(proposals, objectness, its_maps, size)
        pooled, box_features, text, boxes = self._refine(maps, proposals, size)
        if heads.expert is not None:
            boxes = torch.cat([boxes[:own], proposals[own:]])
        objectness = join_objectness(heads, box_features, objectness)
        looks = heads.linear_expert is not None or learned_weights is not None
        seen = heads, pooled, features, [proposals], box_features, text
        image_branch, looked_at = look_at_regions(*seen, for_learned=looks)
        boxes = clip(boxes, size)
        active = None if heads.background_names is None else heads.background_names.active(vocabulary)
        linear = None if heads.linear_expert is None else heads.linear_expert(looked_at)
        scorer = build_scorer(heads, Regions(boxes, text, image_branch, objectness, said, linear), size, active)
        limits = detection_limits(heads)
        found, classes, best = keep_best(boxes, scorer.log_scores(vocabulary, is_base), **limits)
        if learned_weights is not None:
            logits = looked_at @ learned_weights.t() + learned_biases  # (R, L)
            by_examples = keep_best(boxes, learned_log_scores(heads, logits, boxes, objectness, size), **limits)
            found, classes, best = joined(found, classes, best, *by_examples, first=vocabulary.shape[0])
        if not heads.mask_on:
            return found, best, classes
        pooled = pool(heads.mask_pooler, [features[name] for name in heads.mask_in_features], found)
        return found, best, classes, heads.mask_head.layers(pooled)[:, 0].sigmoid()

    def _refine(
        self, maps: list[Tensor], proposals: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> pooled (R, C, P, P), box features (R, F), text embeddings of all stages (R, D), refined boxes (R, 4)."""
        embeddings, boxes = [], proposals
        for stage, (box_head, predictor) in enumerate(self.roi_heads.stages):
            proposals = clip(boxes, size) if stage else boxes
            pooled = pool(self.roi_heads.box_pooler, maps, proposals)
            box_features = box_head(pooled)
            text, deltas = predictor.embed(box_features)
            boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
            embeddings.append(text)
        return pooled, box_features, torch.cat(embeddings, dim=1), boxes

    def _network_input(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB -> (1, 3, H', W') normalized, padded with zeros to what the strides divide."""
        image = image.flip(0) if self.is_bgr else image
        image = (image.float() - self.pixel_mean) / self.pixel_std
        step = max(self.backbone.size_divisibility, 1)  # 0 of backbones that take any size
        height, width = (opaque((side + step - 1) // step, self.min_steps) * step for side in image.shape[1:])
        image = F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))[None]
        return image.contiguous(memory_format=torch.channels_last)


def pool(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """RoI features of one photo, as by detectron2's pooler.

    Args:
        pooler: its layers and the rule which box belongs to which level (arXiv:1612.03144, eq. 1).
        maps: feature maps (1, C, H / stride, W / stride), a level each.
        boxes: (R, 4) XYXY, pixels of the network's input.

    Returns:
        (R, C, P, P).
    """
    rois = F.pad(boxes, (1, 0))  # the first column is the photo's index, 0
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = (pooler.canonical_level + (side / pooler.canonical_box_size + 1e-8).log2()).floor()
    level = level.clamp(pooler.min_level, pooler.max_level) - pooler.min_level
    pooled, order = [], []
    for number, (level_pooler, features) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        index = (level == number).nonzero().squeeze(1)
        pooled.append(level_pooler(features, rois[index]))
        order.append(index)
    order = torch.cat(order)
    place = torch.zeros_like(level, dtype=torch.int64).scatter(0, order, torch.arange(order.shape[0]).to(order))
    return torch.cat(pooled).index_select(0, place)  # unlike a scatter, OpenVINO does this in 8 bits


def keep_best(
    boxes: Tensor,
    log_scores: Tensor,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    class_agnostic_nms: bool = False,
    soft_nms_sigma: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Threshold, NMS, the best of what is left.

    A graph cannot look at more candidates until there are enough detections, so it looks at the best ten times R. None
    is left out where `max_detections` are found among them. Where scores are a softmax's, which add up to at most 1,
    none of 0.1 or more ever is; with foreground, objectness or area in them, names beyond a region's ten best may be.

    Args:
        boxes: (R, 4) XYXY.
        log_scores: (R, K), logarithms of them.
        score_threshold: detections score above it.
        nms_threshold: IoU.
        max_detections: over all classes.
        class_agnostic_nms: NMS over all classes instead of within each.
        soft_nms_sigma: of `soft_nms_scores`; None leaves scores as they are.

    Returns:
        Boxes (N, 4), classes (N,), scores (N,), best first.
    """
    num_regions, num_classes = log_scores.shape
    number = torch.sym_min(num_regions * num_classes, CANDIDATES_PER_REGION * num_regions)
    best, index = log_scores.flatten().topk(number)
    above = (best.exp() > score_threshold).nonzero().squeeze(1)
    best, index = best[above], index[above]
    regions = index // num_classes
    classes = index - regions * num_classes
    found = boxes[regions]
    keep = nms(found if class_agnostic_nms else apart(found, ranks(classes)), best, nms_threshold)[:max_detections]
    found, classes, scores = found[keep], classes[keep], best[keep].exp()
    if soft_nms_sigma is None:
        return found, classes, scores
    scores, order = soft_nms_scores(found, scores, classes, soft_nms_sigma).sort(descending=True)
    order = order[(scores > score_threshold).nonzero().squeeze(1)]
    return found[order], classes[order], scores[: order.shape[0]]


def joined(
    boxes: Tensor, classes: Tensor, scores: Tensor, more: Tensor, its_classes: Tensor, its_scores: Tensor, *, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections (N, 4), (N,), (N,) of two kinds as one, best first; the second's classes begin at `first`."""
    scores, order = torch.cat([scores, its_scores]).sort(descending=True)
    return torch.cat([boxes, more])[order], torch.cat([classes, its_classes + first])[order], scores


def ranks(groups: Tensor) -> Tensor:
    """(R,) int64, not negative -> (R,): 0, 1, 2, ... in the order of the groups, by operators that ONNX has."""
    order = groups.neg().topk(groups.shape[0]).indices  # ascending; ONNX has no stable sort
    ordered = groups[order]
    is_next = (ordered != F.pad(ordered, (1, 0), value=-1)[:-1]).long()
    return torch.zeros_like(groups).scatter(0, order, is_next.cumsum(0) - 1)
