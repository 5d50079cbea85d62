"""Detection by tensors of fixed shapes, for CUDA graphs: nothing asks on the way how many boxes are left.

Each such question stops the program until the GPU is through, and each of some two thousand small operations waits for
the program to launch it. Here the same steps as in modeling/region_detection.py, with the same trained parts, go over
all places that there may be, and a mask says which count. Where a fixed number of rounds or candidates did not suffice
for an image, `is_exact` says so. modeling/cuda_graphs.py runs it.

Shape letters: N images, H, W of the network's input, L levels, A places of one level, C candidates, R regions of each
image, K classes, S rows of ClassEmbeddings, D embedding width, P pooled side, M detections of each image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings
from ovdet.modeling.centernet import logit_of_log
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.expert import ClosedSetExpert
from ovdet.modeling.nms import nms_in_rounds, pairwise_iou
from ovdet.modeling.postprocess import soft_nms_scores
from ovdet.modeling.region_detection import detection_limits
from ovdet.modeling.region_embedding import join_objectness, look_at_regions
from ovdet.modeling.region_pooler import pool_every_level
from ovdet.modeling.scoring import Regions, build_scorer, max_over_rows
from ovdet.modeling.topk import take

_EXPERT_CANDIDATES = 1024
_CANDIDATES = 1024  # of (region, class) pairs in an image


class FixedBoxes(NamedTuple):
    """Boxes of several images, as many places in each.

    Attributes:
        boxes: (N, R, 4) XYXY, within the image.
        logits: (N, R), of objectness.
        is_there: (N, R) bool, which places hold a box.
        is_exact: (N,) bool, whether these are the boxes that any number of rounds and candidates would give.
    """

    boxes: Tensor
    logits: Tensor
    is_there: Tensor
    is_exact: Tensor


class FixedDetections(NamedTuple):
    """Detections of several images, best first, as many places in each.

    Attributes:
        boxes: (N, M, 4) XYXY, pixels of the network's input.
        scores: (N, M), not calibrated; -1 in places without a detection, which are the last.
        classes: (N, M) int64.
        is_exact: (N,) bool, see FixedBoxes.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    is_exact: Tensor


def why_not_fixed(detector: nn.Module) -> str:
    """Name the parts of a detector that fixed shapes do not have; "" for none."""
    if not isinstance(detector, OpenVocabRCNN):
        return f"a detector of another kind ({type(detector).__name__})"
    heads = detector.roi_heads
    parts = {
        "proposals of another kind than an RPN's": not isinstance(detector.proposal_generator, RPN),
        "masks": heads.mask_on,
        "a teacher at test time": heads.region_teacher is not None,
        "Soft-NMS in the place of NMS": heads.soft_nms is not None,
        "all detections instead of the best": heads.box_predictor.test_topk_per_image < 0,
    }
    return ", ".join(what for what, is_so in parts.items() if is_so)


def is_askable(detector: OpenVocabRCNN, classes: ClassEmbeddings) -> bool:
    """Whether all scores of these classes are one matrix, without rows that were learned from examples."""
    return classes.learned is None and 0 < len(classes.class_ids) <= detector.roi_heads.max_dense_rows


class FixedShapeDetection:
    """A detector's steps from images to detections, in fixed shapes.

    What hangs on the classes or the shapes alone is computed at the first call and kept: anchors here, background names
    and an expert's rows by these. All later calls are operations on the device.
    """

    def __init__(self, detector: OpenVocabRCNN, dtype: torch.dtype | None = None) -> None:
        """
        Args:
            detector: in evaluation mode, one for which `why_not_fixed` is "".
            dtype: of the mixed precision that it will run in; None for float32.
        """
        self.detector = detector
        self.backbone = with_weights_in(detector.backbone, dtype)
        self.rpn = with_weights_in(detector.proposal_generator, dtype)
        self.stages = [(with_weights_in(head, dtype), predictor) for head, predictor in detector.roi_heads.stages]
        self._anchors: dict[tuple[torch.Size, ...], list[Tensor]] = {}

    def __call__(self, images: Tensor, sizes: Tensor, classes: ClassEmbeddings) -> FixedDetections:
        """Detect.

        Args:
            images: (N, 3, H, W) uint8 in the detector's channel order, anything beside what their sizes say.
            sizes: (N, 2) float32, height and width of each.
            classes: on the same device, see `is_askable`.
        """
        heads = self.detector.roi_heads
        features = self.backbone(self._network_input(images, sizes))
        maps = [features[name] for name in self.rpn.in_features]
        proposals = propose_fixed(self.rpn, maps, self._anchors_of(maps), sizes)
        for stage in self.stages * (heads.box_passes - 1):
            boxes = self._refine([stage], features, proposals.boxes, sizes)[3]
            proposals = proposals._replace(boxes=clip_each(boxes, sizes))
        own, said = proposals.boxes.shape[1], None
        if heads.expert is not None:
            its_maps = [features[name] for name in heads.expert.in_features]
            proposals, said = _with_expert(heads.expert, proposals, its_maps, sizes)
        pooled, box_features, text, boxes = self._refine(self.stages, features, proposals.boxes, sizes)
        boxes = torch.cat([boxes[:, :own], proposals.boxes[:, own:]], dim=1)  # the expert's stay as they are
        # embeddings, objectness, and what the experts say
        seen = heads, pooled, features, proposals.boxes.unbind(), box_features, text
        image, looked_at = look_at_regions(*seen, for_learned=heads.linear_expert is not None)
        linear = None if heads.linear_expert is None else heads.linear_expert(looked_at)
        objectness = join_objectness(heads, box_features, proposals.logits.flatten())
        shares = boxes / sizes.flip(1).repeat(1, 2)[:, None]  # of the image's sides: all images have one size
        regions = Regions(shares.flatten(0, 1), text, image, objectness, said, linear)
        is_there = proposals.is_there & regions.is_finite().view_as(proposals.is_there)
        # scores
        active = None if heads.background_names is None else heads.background_names.active_for(classes)
        log_scores = build_scorer(heads, regions, (1, 1), active).log_scores(classes.embeddings, classes.is_base)
        log_scores = max_over_rows(log_scores, classes, with_negatives=heads.class_agnostic_nms)  # (N R, K)
        log_scores = log_scores.unflatten(0, is_there.shape).masked_fill(~is_there[:, :, None], -torch.inf)
        negative_class = len(classes.names) if heads.class_agnostic_nms else NEGATIVE
        limits = detection_limits(heads)
        found = keep_best(clip_each(boxes, sizes), log_scores, **limits, negative_class=negative_class)
        return found._replace(is_exact=found.is_exact & proposals.is_exact)

    def _network_input(self, images: Tensor, sizes: Tensor) -> Tensor:
        """(N, 3, H, W) uint8, (N, 2) -> normalized, zeros beside the images."""
        rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
        inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None, :]  # (N, H, W)
        pixels = (images.float() - self.detector.pixel_mean) / self.detector.pixel_std
        return pixels.masked_fill(~inside[:, None], 0).contiguous(memory_format=self.detector.memory_format)

    def _refine(
        self,
        stages: Sequence[tuple[nn.Module, nn.Module]],
        features: Mapping[str, Tensor],
        boxes: Tensor,
        sizes: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> pooled (N R, C, P, P), box features (N R, F), text embeddings of all stages (N R, D), boxes (N, R, 4)."""
        heads, embeddings = self.detector.roi_heads, []
        maps = [features[name] for name in heads.box_in_features]
        for index, (box_head, predictor) in enumerate(stages):
            boxes = clip_each(boxes, sizes) if index else boxes
            pooled = pool_every_level(heads.box_pooler, maps, boxes.unbind())
            box_features = box_head(pooled)
            text, deltas = predictor.embed(box_features)
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes.flatten(0, 1)).view_as(boxes)
            embeddings.append(text)
        return pooled, box_features, torch.cat(embeddings, dim=1), boxes

    def _anchors_of(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """L of (A, 4) XYXY."""
        shapes = tuple(each.shape[2:] for each in maps)
        if shapes not in self._anchors:
            made = self.rpn.anchor_generator(list(maps))
            self._anchors[shapes] = [each.tensor for each in made]
        return self._anchors[shapes]


def with_weights_in(part: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy whose convolutions and linear layers have their weights in this type; for None the part itself.

    Autocast would convert them at each call, to the same numbers.
    """
    if dtype is None:
        return part
    part = deepcopy(part)
    for layer in part.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            for own in layer.parameters(recurse=False):
                own.data = own.data.to(dtype)
    return part


def propose_fixed(rpn: RPN, maps: Sequence[Tensor], anchors: Sequence[Tensor], sizes: Tensor) -> FixedBoxes:
    """The proposals of an RPN, the most object-like first.

    Args:
        rpn: in evaluation mode.
        maps: L of (N, C, H / stride, W / stride).
        anchors: L of (A, 4) XYXY.
        sizes: (N, 2), height and width.
    """
    boxes, scores = [], []
    for places, logits, deltas in zip(anchors, *rpn.rpn_head(list(maps)), strict=True):
        logits = logits.permute(0, 2, 3, 1).flatten(1).float()  # (N, A)
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (N, A, 4)
        best, index = logits.topk(min(logits.shape[1], rpn.pre_nms_topk[False]))
        moved = rpn.box2box_transform.apply_deltas(take(deltas, index).flatten(0, 1), places[index].flatten(0, 1))
        boxes.append(clip_each(moved.unflatten(0, index.shape), sizes))
        scores.append(best)
    most = max(each.shape[1] for each in scores)  # levels side by side, the coarse ones filled up
    boxes = torch.stack([F.pad(each, (0, 0, 0, most - each.shape[1])) for each in boxes], dim=1)  # (N, L, A, 4)
    scores = torch.stack([F.pad(each, (0, most - each.shape[1]), value=-torch.inf) for each in scores], dim=1)
    is_there = (boxes[..., 2:] - boxes[..., :2] > rpn.min_box_size).all(-1) & scores.isfinite()
    keep, is_exact = nms_in_rounds(pairwise_iou(boxes) > rpn.nms_thresh, is_there)
    scores = scores.masked_fill(~keep, -torch.inf).flatten(1)
    scores, index = scores.topk(min(scores.shape[1], rpn.post_nms_topk[False]))
    is_there = scores.isfinite()
    boxes = take(boxes.flatten(1, 2), index).masked_fill(~is_there[:, :, None], 0)
    return FixedBoxes(boxes, scores.masked_fill(~is_there, 0), is_there, is_exact.all(1))


def _with_expert(
    expert: ClosedSetExpert, proposals: FixedBoxes, maps: Sequence[Tensor], sizes: Tensor
) -> tuple[FixedBoxes, Tensor]:
    """Proposals with the expert's own behind them, and what it says of all, (N R, C); see ClosedSetExpert.add_to."""
    own, log_probabilities = find_fixed(expert, maps, sizes)
    least = torch.full_like(log_probabilities[:, :1], expert.score_threshold).log()  # (N, 1, C)
    said = torch.cat([least.expand(-1, proposals.boxes.shape[1], -1), log_probabilities.clamp(min=least)], dim=1)
    joined = [torch.cat(pair, dim=1) for pair in zip(proposals[:3], own[:3], strict=True)]
    return FixedBoxes(*joined, proposals.is_exact & own.is_exact), said.flatten(0, 1)


def find_fixed(expert: ClosedSetExpert, maps: Sequence[Tensor], sizes: Tensor) -> tuple[FixedBoxes, Tensor]:
    """The expert's boxes, the most probable first, and the log-probabilities of its classes (N, R, C).

    Args:
        expert: see `ClosedSetExpert.find`.
        maps: of its `in_features`, (N, channels, H / stride, W / stride).
        sizes: (N, 2), height and width.
    """
    boxes, log_probabilities = expert.locate(maps)  # (N, A, 4), (N, A, C)
    best = log_probabilities.amax(2)
    least = torch.full_like(best[:, :1], expert.score_threshold).log().minimum(best.amax(1, keepdim=True))
    num_all = (best >= least).sum(1)
    best, index = best.topk(min(best.shape[1], _EXPERT_CANDIDATES))
    boxes, log_probabilities = clip_each(take(boxes, index), sizes), take(log_probabilities, index)
    classes, is_there = log_probabilities.argmax(2), best >= least
    suppresses = (pairwise_iou(boxes) > expert.nms_threshold) & (classes[:, :, None] == classes[:, None])
    keep, is_exact = nms_in_rounds(suppresses, is_there)
    number = min(best.shape[1], expert.post_nms_topk)
    is_exact &= (num_all <= best.shape[1]) | (keep.sum(1) >= number)
    best, index = best.masked_fill(~keep, -torch.inf).topk(number)
    boxes, log_probabilities, is_there = take(boxes, index), take(log_probabilities, index), best.isfinite()
    logits = logit_of_log(best.masked_fill(~is_there, -1))
    return FixedBoxes(boxes, logits, is_there, is_exact), log_probabilities


def keep_best(
    boxes: Tensor,
    log_scores: Tensor,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    class_agnostic_nms: bool = False,
    soft_nms_sigma: float | None = None,
    negative_class: int = NEGATIVE,
) -> FixedDetections:
    """Threshold, NMS, the best of what is left, as of `postprocess_image`.

    Args:
        boxes: (N, R, 4) XYXY, within the images.
        log_scores: (N, R, K), logarithms; -inf where there is no region.
        score_threshold: detections score above it.
        nms_threshold: IoU.
        max_detections: M, over all classes.
        class_agnostic_nms: NMS over all classes instead of within each.
        soft_nms_sigma: of `soft_nms_scores`; None leaves scores as they are.
        negative_class: takes part in NMS, but is no detection; -1 for none.
    """
    num_classes = log_scores.shape[2]
    all_scores = log_scores.flatten(1)
    best, index = all_scores.topk(min(all_scores.shape[1], _CANDIDATES))
    scores = best.exp()
    num_all = (all_scores.exp() > score_threshold).sum(1)
    regions = index.div(num_classes, rounding_mode="floor")
    classes, found = index - regions * num_classes, take(boxes, regions)
    overlaps = pairwise_iou(found) > nms_threshold
    if not class_agnostic_nms:
        overlaps &= classes[:, :, None] == classes[:, None]
    keep, is_exact = nms_in_rounds(overlaps, scores > score_threshold)
    keep &= classes != negative_class
    is_exact &= (num_all <= scores.shape[1]) | (keep.sum(1) >= max_detections)
    scores, order = scores.masked_fill(~keep, -1).topk(min(scores.shape[1], max_detections))
    found, classes = take(found, order), classes.gather(1, order)
    if soft_nms_sigma is not None:
        lowered = soft_nms_scores(found, scores, classes, soft_nms_sigma)  # of no place by one behind it
        scores, order = lowered.masked_fill(lowered <= score_threshold, -1).sort(descending=True, stable=True)
        found, classes = take(found, order), classes.gather(1, order)
    return FixedDetections(found, scores, classes, is_exact)


def clip_each(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(N, R, 4) XYXY -> the same within (height, width) of each image, (N, 2)."""
    limits = sizes.flip(1).repeat(1, 2)[:, None]  # (N, 1, 4)
    return boxes.nan_to_num().clamp(min=0).minimum(limits)
