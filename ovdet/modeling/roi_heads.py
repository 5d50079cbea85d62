"""ROI heads that classify against any classes and align regions with texts and teacher: ViLD's methods and others.

| method | image_branch | objectives | score_fusion | region_teacher |
|---|---|---|---|---|
| ViLD-text | - | - | TextScores | - |
| ViLD-image | - | L1, no loss_cls | ImageScores | - |
| ViLD | - | L1 | TextScores | - |
| ViLD-ensemble | its own head | L1 | GeometricScores | - |
| ViLD-text + teacher | - | - | GeometricScores | the teacher |
| R-CNN style | - | - | ImageScores | the teacher |

Shape letters: R regions over all images (Ri of image i), M distillation regions, F features, D embedding width,
S rows of ClassEmbeddings, K classes, C channels, P pooled side, I images with a caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.box_predictor import BACKGROUND
from ovdet.modeling.calibration import ScoreCalibration
from ovdet.modeling.expert import ClosedSetExpert
from ovdet.modeling.iou_head import IoUHead
from ovdet.modeling.linear_expert import LinearExpert
from ovdet.modeling.region_detection import detect
from ovdet.modeling.region_embedding import pool
from ovdet.modeling.region_teacher import RegionTeacher
from ovdet.modeling.score_fusion import ScoreFusion
from ovdet.modeling.scoring import MAX_DENSE_ROWS, SoftmaxBranch
from ovdet.modeling.soft_nms import SoftNMS
from ovdet.objectives.base import (
    CAPTIONS,
    CELLS,
    LABELS,
    PAIRS,
    TEACHER,
    VIEWS,
    CaptionedImages,
    Objective,
    RegionBatch,
)
from ovdet.packable import packable


class OfPhotos(NamedTuple):
    """The inputs of a step beside photos and boxes, where an objective needs them; arguments of `forward`."""

    regions: list[Instances] | None = None
    words: list[Tensor] | None = None
    captions: list[tuple[str, Tensor]] | None = None


class SampledRegions(NamedTuple):
    """The regions that are sampled for classification, on their way through the heads."""

    pooled: Tensor  # (R, C, P, P)
    box_features: Tensor  # (R, F)
    embeddings: Tensor  # (R, D), unit norm
    deltas: Tensor  # (R, 4)


@packable
class OpenVocabROIHeads(StandardROIHeads):
    """detectron2's StandardROIHeads with classes as an argument, alignment objectives and score fusion.

    Training is here; modeling/region_detection.py goes from proposals to detections.

    Attributes:
        max_dense_rows: S up to which all scores are computed as one matrix; beyond it rows are gone through in chunks.
    """

    max_dense_rows = MAX_DENSE_ROWS

    def __init__(
        self,
        *,
        score_fusion: ScoreFusion,
        objectives: Sequence[Objective] = (),
        image_branch: nn.Module | None = None,
        region_teacher: RegionTeacher | None = None,
        iou_head: IoUHead | None = None,
        expert: ClosedSetExpert | None = None,
        linear_expert: LinearExpert | None = None,
        background_names: BackgroundNames | None = None,
        image_temperature: float = 0.01,
        box_passes: int = 1,
        class_agnostic_nms: bool = False,
        soft_nms_sigma: float | None = None,
        soft_nms: SoftNMS | None = None,
        calibration: ScoreCalibration | None = None,
        **standard,
    ) -> None:
        """
        Args:
            score_fusion: see modeling/score_fusion.py.
            objectives: what aligns regions with texts or with the teacher beside classification, see ovdet/objectives.
            image_branch: ImageBranch or FrozenBackboneBranch, for embeddings of their own; None shares the text
                branch's.
            region_teacher: test-time teacher whose embeddings replace the image branch's.
            iou_head: how well boxes fit, joined to the RPN's objectness; None leaves that as it is.
            expert: a detector of fixed classes, at test time; None for none. The backbone has the maps that it reads.
            linear_expert: linear classifiers of names on region features, at test time; None for none.
            background_names: the image branch's background; None gives it none.
            image_temperature: divides the cosines of the image branch before its softmax.
            box_passes: number of box-refinement passes at test time.
            class_agnostic_nms: NMS over all classes, which leaves one class to an object.
            soft_nms_sigma: of Soft-NMS after NMS, see `soft_nms_scores`; None for none.
            soft_nms: Soft-NMS in the place of NMS; None for NMS.
            calibration: of the scores of names; None leaves them as they are.
            standard: what StandardROIHeads takes, but for num_classes.
        """
        if standard.get("train_on_pred_boxes") or standard.get("keypoint_in_features"):
            raise InputError(
                "expected heads for boxes and masks, got train_on_pred_boxes or keypoints, which have none"
            )
        if box_passes < 1:
            raise InputError(f"expected box_passes of at least 1, got {box_passes}")
        if soft_nms_sigma is not None and not soft_nms_sigma > 0:
            raise InputError(f"expected a positive soft_nms_sigma or none, got {soft_nms_sigma}")
        super().__init__(num_classes=BACKGROUND, **standard)
        self.score_fusion = score_fusion
        self.objectives = nn.ModuleList(objectives)
        self.image_branch = image_branch
        self.region_teacher = region_teacher
        self.iou_head = iou_head
        self.expert = expert
        self.linear_expert = linear_expert
        self.background_names = background_names
        self.image_temperature = image_temperature
        self.box_passes = box_passes
        self.class_agnostic_nms = class_agnostic_nms
        self.soft_nms_sigma = soft_nms_sigma
        self.soft_nms = soft_nms
        self.calibration = calibration

    @property
    def stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """Box heads and box predictors, one after the other on the boxes of the one before; here one of each."""
        return [(self.box_head, self.box_predictor)]

    def text_branch(self, text: Tensor) -> SoftmaxBranch:
        """(R, D), region embeddings of each stage side by side -> the text branch of their scores."""
        return self.box_predictor.classifier.branch(text)

    @property
    def needs(self) -> frozenset[str]:
        """The batch of regions that the objectives read, see `Objective`."""
        return frozenset().union(*(each.needs for each in self.objectives))

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        classes: ClassEmbeddings,
        regions: list[Instances] | None = None,
        photos: list[Tensor] | None = None,
        words: list[Tensor] | None = None,
        captions: list[tuple[str, Tensor]] | None = None,
        mask_thresholds: Tensor | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Detections at test time, losses in training; arguments beyond detectron2's:

        Args:
            classes: on the features' device. In training one row each; ground truth classes are their indices.
            regions: that the teacher saw, per image (see modeling/region_sources.py), where an objective needs it.
            words: (W, D) of each image, the embeddings of its caption's words, where an objective needs captions.
            captions: of each image, and their embeddings (D,), where an objective needs pairs; "" for none.
            photos: RGB images (3, H, W) in [0, 255] per image, for a region_teacher at test time.
            mask_thresholds: see `OpenVocabRCNN.forward`.
        """
        width = self.box_predictor.classifier.width
        if classes.width != width:
            raise InputError(f"expected class embeddings of width {width}, got width {classes.width}")
        if not self.training:
            detections = detect(self, features, proposals, classes, photos)
            if mask_thresholds is None or not self.mask_on:
                return self.forward_with_given_boxes(features, detections), {}
            return self._with_masks_above(mask_thresholds, features, detections), {}
        if len(classes.class_ids) != len(classes.names) or not classes.has_one_row_each:
            rows = f"{len(classes.class_ids)} rows for {len(classes.names)} classes"
            raise InputError(f"expected one row per class in training, in the order of the names, got {rows}")
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._box_losses(features, proposals, targets, classes, OfPhotos(regions, words, captions))
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def _with_masks_above(
        self, thresholds: Tensor, features: dict[str, Tensor], detections: list[Instances]
    ) -> list[Instances]:
        """Detections with masks, those below the threshold (K,) of their class with empty ones."""
        chosen = [each.scores >= thresholds.to(each.scores)[each.pred_classes] for each in detections]
        above = [each[keep] for each, keep in zip(detections, chosen, strict=True)]
        for each, keep, seen in zip(detections, chosen, self.forward_with_given_boxes(features, above), strict=True):
            masks = seen.pred_masks.new_zeros(len(each), *seen.pred_masks.shape[1:])
            masks[keep] = seen.pred_masks
            each.pred_masks = masks
        return detections

    def _box_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        classes: ClassEmbeddings,
        given: OfPhotos,
    ) -> dict[str, Tensor]:
        pooled, needs = pool(self, features, proposals), self.needs
        batches: dict[str, RegionBatch] = {}
        if TEACHER in needs:
            box_features, batches[TEACHER] = self._with_teacher(pooled, features, given.regions, classes)
        else:
            box_features = self.box_head(pooled)
        sampled = SampledRegions(pooled, box_features, *self.box_predictor.embed(box_features))
        losses = self._predictor_losses(sampled, proposals, classes)
        if CAPTIONS in needs:
            batches[CAPTIONS] = captioned_regions(sampled.embeddings, proposals, classes, given.words)
        if needs & {LABELS, VIEWS, CELLS, PAIRS}:
            named = self._named_regions(sampled, features, proposals, classes, given.captions)
            batches.update(dict.fromkeys((LABELS, VIEWS, CELLS, PAIRS), named))
        losses.update(self.objective_losses(batches))
        return losses

    def objective_losses(self, batches: Mapping[str, RegionBatch]) -> dict[str, Tensor]:
        """The loss of each objective, on the regions that have what it needs: batches by what they have."""
        losses: dict[str, Tensor] = {}
        for objective in self.objectives:
            losses.update(objective(batches[next(iter(objective.needs))]))
        return losses

    def _with_teacher(
        self, pooled: Tensor, features: dict[str, Tensor], regions: list[Instances], classes: ClassEmbeddings
    ) -> tuple[Tensor, RegionBatch]:
        """Box features (R, F) of the sampled regions, and the regions that the teacher saw."""
        pooled_regions = pool(self, features, regions)
        if self.image_branch is None:  # one head, one pass: sampled regions and the teacher's side by side
            box_features = self.box_head(torch.cat([pooled, pooled_regions]))
            box_features, region_features = box_features.split([len(pooled), len(pooled_regions)])
            student = self.box_predictor.projection(region_features)
        else:
            box_features = self.box_head(pooled)
            student = self.image_branch(pooled_regions, features, [r.proposal_boxes.tensor for r in regions])
        teacher = torch.cat([r.teacher_embeddings for r in regions]).to(student)  # (M, D)
        if len(teacher) and has_event_storage():
            get_event_storage().put_scalar("distill_cosine", float((student.detach() * teacher).sum(1).mean()))
        return box_features, RegionBatch(student, classes, teacher=teacher)

    def _named_regions(
        self,
        sampled: SampledRegions,
        features: dict[str, Tensor],
        proposals: list[Instances],
        classes: ClassEmbeddings,
        captions: list[tuple[str, Tensor]] | None,
    ) -> RegionBatch:
        """The sampled regions that lie on an object, with its class; with them what else an objective asks for."""
        labels = torch.cat([each.gt_classes for each in proposals])  # (R,)
        rows, views, pairs = labels < BACKGROUND, None, None
        if VIEWS in self.needs:
            moved = [_moved(each[each.gt_classes < BACKGROUND]) for each in proposals]
            views = self.box_predictor.projection(self.box_head(pool(self, features, moved)))
        if PAIRS in self.needs:
            pairs = self.captioned_images(features, [each.image_size for each in proposals], captions)
        cells = sampled.pooled[rows] if CELLS in self.needs else None
        of_named = dict(labels=labels[rows], views=views, cells=cells, pairs=pairs)
        return RegionBatch(sampled.embeddings[rows], classes, **of_named)

    def captioned_images(
        self,
        features: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        captions: list[tuple[str, Tensor]] | None,
    ) -> CaptionedImages:
        """The images that have a caption, each as one region.

        Args:
            features: the pyramid's maps by name.
            sizes: (height, width) of each image.
            captions: of each image, and their embeddings (D,); "" for none.
        """
        if captions is None:
            raise InputError("expected the mapper to give 'caption' for each photo, got none: give it sentences")
        pooled = pool(self, features, [_whole(*pair) for pair in zip(sizes, captions, strict=True)])  # (I, C, P, P)
        embeddings = self.box_predictor.projection(self.box_head(pooled))  # (I, D)
        there = [each for each in captions if each[0]]
        rows = [embedding.to(embeddings) for _, embedding in there]
        texts = torch.stack(rows) if rows else embeddings.detach()
        return CaptionedImages(embeddings, texts, tuple(sentence for sentence, _ in there), pooled)

    def _predictor_losses(
        self, sampled: SampledRegions, proposals: list[Instances], classes: ClassEmbeddings
    ) -> dict[str, Tensor]:
        predictions = self.box_predictor.predict(sampled.embeddings, sampled.deltas, classes.embeddings)
        losses = self.box_predictor.losses(predictions, proposals)
        if self.iou_head is not None:
            losses.update(self.iou_head.losses(self.iou_head(sampled.box_features), proposals))
        return losses


def captioned_regions(
    embeddings: Tensor, proposals: list[Instances], classes: ClassEmbeddings, words: list[Tensor] | None
) -> RegionBatch:
    """All regions (R, D) of a step's proposals, and the words (W, D) of their images' captions."""
    if words is None:
        raise InputError("expected the mapper to give 'caption_words' for each photo, got none: give it captions")
    counts = torch.tensor([len(each) for each in proposals], device=embeddings.device)
    indices = torch.arange(len(proposals), device=embeddings.device).repeat_interleave(counts)
    return RegionBatch(embeddings, classes, words=words, image_indices=indices)


def _whole(size: tuple[int, int], caption: tuple[str, Tensor]) -> Instances:
    """An image as its own only region; no region where it has no caption."""
    height, width = size
    whole = Instances(size)
    device = caption[1].device
    boxes = torch.tensor([[0.0, 0.0, width, height]], device=device)
    whole.proposal_boxes = Boxes(boxes if caption[0] else boxes[:0])
    return whole


def _moved(proposals: Instances) -> Instances:
    """An image's regions in boxes that were moved and scaled a little at random."""
    moved = Instances(proposals.image_size)
    moved.proposal_boxes = Boxes(move_boxes(proposals.proposal_boxes.tensor))
    moved.proposal_boxes.clip(proposals.image_size)
    return moved


def move_boxes(boxes: Tensor, share: float = 0.1) -> Tensor:
    """(R, 4) XYXY -> (R, 4): each side moved at random by at most a share of the box's size, independently."""
    sizes = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)  # (R, 4)
    return boxes + sizes * share * (2 * torch.rand_like(boxes) - 1)
