"""ROI heads that classify against any vocabulary and distil a teacher into the regions: the five ViLD methods.

| method | image_branch | distillation | score_fusion | region_teacher |
|---|---|---|---|---|
| ViLD-text | - | - | TextScores | - |
| ViLD-image | - | L1, no loss_cls | ImageScores | - |
| ViLD | - | L1 | TextScores | - |
| ViLD-ensemble | its own head | L1 | GeometricScores | - |
| ViLD-text + teacher | - | - | GeometricScores | the teacher |
| R-CNN style | - | - | ImageScores | the teacher |

Shape letters: R regions over all images (Ri of image i), M distillation regions, F features, D embedding width,
K classes of the present vocabulary, C channels, P pooled side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from ovdet.errors import InputError
from ovdet.modeling.background_names import BackgroundNames
from ovdet.modeling.iou_head import IoUHead, geometric_mean_logits
from ovdet.modeling.large_vocabulary import MAX_DENSE_CLASSES, ClassScores
from ovdet.modeling.postprocess import Suppress, nms_per_class, postprocess_image
from ovdet.modeling.region_teacher import RegionTeacher
from ovdet.modeling.score_fusion import ScoreFusion, log_area_shares
from ovdet.modeling.sides import SoftmaxSide
from ovdet.modeling.text_classifier import RegionProjection


class Regions(NamedTuple):
    """The regions of one image.

    Attributes:
        boxes: (R, 4) XYXY, pixels of the resized image.
        text: (R, D), unit norm, for the text branch.
        image: (R, D), unit norm, for the image side, where there is one.
        objectness_logits: (R,).
    """

    boxes: Tensor
    text: Tensor
    image: Tensor
    objectness_logits: Tensor

    def take(self, index: Tensor) -> Regions:
        """Some of them, by indices or a mask."""
        return Regions(*(part[index] for part in self))

    def finite(self) -> Regions:
        """Without those of which a number is NaN or infinite: no detection comes of them."""
        mask = torch.stack([torch.isfinite(part[:, None].flatten(1)).all(1) for part in self]).all(0)
        return self if mask.all() else self.take(mask)


class ImageBranch(nn.Module):
    """ViLD-ensemble's second branch: its own box head and its own projection, trained by distillation alone.

    FrozenBackboneBranch (modeling/dense_branch.py) takes the same and looks at other parts of it.
    """

    def __init__(self, box_head: nn.Module, *, in_features: int, width: int) -> None:
        super().__init__()
        self.box_head = box_head
        self.projection = RegionProjection(in_features, width)

    def forward(self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Embed regions.

        Args:
            pooled: (R, C, P, P), the regions' parts of the pyramid.
            features: all maps by name; not looked at here.
            boxes: of each image (Ri, 4) XYXY, pixels of the network's input; not looked at here.

        Returns:
            (R, D), unit norm.
        """
        return self.projection(self.box_head(pooled))


class OpenVocabROIHeads(StandardROIHeads):
    """detectron2's StandardROIHeads with a vocabulary, a distillation loss and a fusion of scores.

    Attributes:
        max_dense_classes: K up to which all scores are computed as one matrix; beyond it the vocabulary is gone through
            in chunks.
    """

    max_dense_classes = MAX_DENSE_CLASSES

    def __init__(
        self,
        *,
        score_fusion: ScoreFusion,
        distillation: nn.Module | None = None,
        image_branch: nn.Module | None = None,
        region_teacher: RegionTeacher | None = None,
        iou_head: IoUHead | None = None,
        background_names: BackgroundNames | None = None,
        image_temperature: float = 0.01,
        box_passes: int = 1,
        suppress: Suppress = nms_per_class,
        soft_nms_sigma: float | None = None,
        **standard,
    ) -> None:
        """
        Args:
            score_fusion: see modeling/score_fusion.py.
            distillation: (student (M, D), teacher (M, D)) -> loss; None trains without a teacher.
            image_branch: ImageBranch or FrozenBackboneBranch, for embeddings of their own; None shares the text branch's.
            region_teacher: the teacher itself at test time, instead of distilled embeddings.
            iou_head: how well boxes fit, joined to the RPN's objectness; None leaves that as it is.
            background_names: the image side's background; None gives it none.
            image_temperature: divides the cosines of the image side before its softmax over the K names.
            box_passes: how often boxes go through the head at test time, refined ones as proposals again: some need
                more than one step.
            suppress: nms_per_class, or nms_over_classes, which leaves one name to an object.
            soft_nms_sigma: lowers the scores of boxes that overlap with better ones of their name, see `soft_nms_scores`; None
                does not.
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
        super().__init__(num_classes=1, **standard)
        self.score_fusion = score_fusion
        self.distillation = distillation
        self.image_branch = image_branch
        self.region_teacher = region_teacher
        self.iou_head = iou_head
        self.background_names = background_names
        self.image_temperature = image_temperature
        self.box_passes = box_passes
        self.suppress = suppress
        self.soft_nms_sigma = soft_nms_sigma
        self.num_asked: int | None = None
        self.register_buffer("is_base", None, persistent=False)
        self.register_buffer("unlike", None, persistent=False)  # (O,), of the other names

    def set_vocabulary(
        self, class_embeddings: Tensor, is_base: Tensor | None = None, num_asked: int | None = None
    ) -> None:
        """Take (K, D) class embeddings and, where base and novel are told apart, (K,) booleans.

        Of the classes the first `num_asked` are found, all where it is None.
        """
        if is_base is not None and len(is_base) != len(class_embeddings):
            raise ValueError(f"expected one is_base per class, got {len(is_base)} for {len(class_embeddings)} classes")
        self.box_predictor.set_vocabulary(class_embeddings)
        self.num_classes = self.box_predictor.num_classes
        self.is_base = None if is_base is None else is_base.bool().to(class_embeddings.device)
        is_some = num_asked is not None and num_asked < len(class_embeddings)
        self.num_asked = num_asked if is_some and self.suppress is nms_per_class else None
        others = self.background_names
        self.unlike = None if others is None else others.unlike(self.box_predictor.classifier.class_embeddings)

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        regions: list[Instances] | None = None,
        photos: list[Tensor] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As detectron2's, and besides:

        Args:
            regions: distillation regions per image (see modeling/region_sources.py), in training with a teacher.
            photos: RGB images (3, H, W) in [0, 255] per image, for a region_teacher at test time.
        """
        if not self.training:
            detections = self._detect(features, proposals, photos)
            return self.forward_with_given_boxes(features, detections), {}
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._box_losses(features, proposals, regions)
        losses.update(self._forward_mask(features, proposals))
        return proposals, losses

    def _pool(self, features: dict[str, Tensor], instances: list[Instances]) -> Tensor:
        """-> (R, C, P, P)."""
        return self.box_pooler([features[f] for f in self.box_in_features], [x.proposal_boxes for x in instances])

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], regions: list[Instances] | None
    ) -> dict[str, Tensor]:
        pooled = self._pool(features, proposals)
        if self.distillation is None:
            return self._predictor_losses(self.box_head(pooled), proposals)
        pooled_regions = self._pool(features, regions)
        if self.image_branch is None:  # one head, one pass: sampled and distillation regions side by side
            box_features = self.box_head(torch.cat([pooled, pooled_regions]))
            box_features, region_features = box_features.split([len(pooled), len(pooled_regions)])
            student = self.box_predictor.projection(region_features)
        else:
            box_features = self.box_head(pooled)
            student = self.image_branch(pooled_regions, features, [r.proposal_boxes.tensor for r in regions])
        losses = self._predictor_losses(box_features, proposals)
        teacher = torch.cat([r.teacher_embeddings for r in regions])  # (M, D)
        losses["loss_distill"] = self.distillation(student, teacher.to(student))
        return losses

    def _predictor_losses(self, box_features: Tensor, proposals: list[Instances]) -> dict[str, Tensor]:
        losses = self.box_predictor.losses(self.box_predictor(box_features), proposals)
        if self.iou_head is not None:
            losses.update(self.iou_head.losses(self.iou_head(box_features), proposals))
        return losses

    def image_embeddings(
        self, pooled: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor], text: Tensor
    ) -> Tensor:
        """What the image side says of regions: the image branch's, see there, or the text branch's own (R, D)."""
        if self.image_branch is None or not self.score_fusion.needs_image:
            return text
        return self.image_branch(pooled, features, boxes)

    def objectness(self, box_features: Tensor, objectness_logits: Tensor) -> Tensor:
        """(R, F), the RPN's logits (R,) -> logits (R,), float32, with how well the boxes fit where that was learned."""
        objectness_logits = objectness_logits.float()
        if self.iou_head is None:
            return objectness_logits
        return geometric_mean_logits(objectness_logits, self.iou_head(box_features))

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Instances], photos: list[Tensor] | None
    ) -> list[Instances]:
        for _ in range(self.box_passes - 1):
            _, _, _, boxes = self._refine(features, proposals)
            proposals = [_with_boxes(*pair) for pair in zip(proposals, boxes, strict=True)]
        pooled, box_features, text, boxes = self._refine(features, proposals)
        image = self.image_embeddings(pooled, features, [p.proposal_boxes.tensor for p in proposals], text)
        counts = [len(p) for p in proposals]
        objectness = self.objectness(box_features, torch.cat([p.objectness_logits for p in proposals]))
        regions = map(Regions, boxes, *(part.split(counts) for part in (text, image, objectness)))
        sizes = [p.image_size for p in proposals]
        if self.region_teacher is not None:
            regions = map(self._ask_teacher, regions, sizes, photos)
        return list(map(self._settle, regions, sizes))

    def _refine(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """-> pooled (R, C, P, P), box features (R, F), text embeddings (R, D), refined boxes (Ri, 4) per image."""
        pooled = self._pool(features, proposals)
        box_features = self.box_head(pooled)
        text, deltas = self.box_predictor.embed(box_features)  # (R, D), (R, 4)
        return pooled, box_features, text, self.box_predictor.predict_boxes((None, deltas), proposals)

    def _ask_teacher(self, regions: Regions, image_size: tuple[int, int], photo: Tensor) -> Regions:
        """The regions that the teacher saw, with its embeddings."""
        regions = regions.finite()
        regions = regions._replace(boxes=clip_boxes_to_image(regions.boxes, image_size))  # as it will see them
        keep, embeddings = self.region_teacher(photo, regions.boxes, regions.objectness_logits, image_size)
        return regions.take(keep)._replace(image=embeddings)

    def _settle(self, regions: Regions, image_size: tuple[int, int]) -> Instances:
        regions = regions.finite()
        scores = self.class_scores(regions, image_size)
        is_small = self.num_classes <= self.max_dense_classes
        return postprocess_image(
            scores.best_of_matrix if is_small else scores.best_of_chunks,
            regions.boxes,
            image_size,
            score_threshold=self.box_predictor.test_score_thresh,
            nms_threshold=self.box_predictor.test_nms_thresh,
            max_detections=self.box_predictor.test_topk_per_image,
            suppress=self.suppress,
            soft_nms_sigma=self.soft_nms_sigma,
        )

    def class_scores(self, regions: Regions, image_size: tuple[int, int]) -> ClassScores:
        """What one image's regions score for the present vocabulary."""
        class_embeddings = self.box_predictor.classifier.class_embeddings
        return self.scores_for(regions, image_size, class_embeddings, self.is_base, self.unlike, self.num_asked)

    def scores_for(
        self,
        regions: Regions,
        image_size: tuple[int, int],
        class_embeddings: Tensor,
        is_base: Tensor | None,
        unlike: Tensor | None,
        num_asked: int | None = None,
    ) -> ClassScores:
        """What one image's regions score for a vocabulary.

        Args:
            regions: R of them.
            image_size: (height, width), in whose pixels their boxes are.
            class_embeddings: (K, D), unit norm.
            is_base: (K,) booleans; None where base and novel are not told apart.
            unlike: (O,) booleans, which of the other names count; None for none of them.
            num_asked: see ClassScores.
        """
        classifier, fusion = self.box_predictor.classifier, self.score_fusion
        return ClassScores(
            class_embeddings,
            text=classifier.side(regions.text) if fusion.needs_text else None,
            image=self._image_side(regions.image, unlike) if fusion.needs_image else None,
            objectness_logits=regions.objectness_logits,
            fusion=fusion,
            is_base=is_base,
            log_areas=log_area_shares(regions.boxes, image_size) if fusion.needs_area else None,
            num_asked=num_asked,
        )

    def _image_side(self, embeddings: Tensor, unlike: Tensor | None) -> SoftmaxSide:
        """(R, D) -> a softmax over the names, and all others together as the background that the teacher lacks."""
        queries = embeddings / self.image_temperature
        background = None if unlike is None else self.background_names(queries, unlike)
        return SoftmaxSide(queries, background_logits=background)


def _with_boxes(proposals: Instances, boxes: Tensor) -> Instances:
    """The same proposals elsewhere, within the image."""
    moved = Instances(proposals.image_size)
    moved.proposal_boxes = Boxes(boxes.nan_to_num())  # detectron2's clip wants numbers
    moved.proposal_boxes.clip(proposals.image_size)
    moved.objectness_logits = proposals.objectness_logits
    return moved
