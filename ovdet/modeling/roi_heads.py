"""ROI heads that classify against any vocabulary and distil a teacher into the regions: the five ViLD methods.

| method | image_branch | distillation | score_fusion | crop_embedder |
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

from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ovdet.errors import InputError
from ovdet.modeling.postprocess import detect, select_regions
from ovdet.modeling.region_sources import CropEmbedder
from ovdet.modeling.text_classifier import RegionProjection, cosine_logits


class ImageBranch(nn.Module):
    """ViLD-ensemble's second branch: its own box head and its own projection, trained by distillation alone."""

    def __init__(self, box_head: nn.Module, *, in_features: int, width: int) -> None:
        super().__init__()
        self.box_head = box_head
        self.projection = RegionProjection(in_features, width)

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, C, P, P) -> (R, D), unit norm."""
        return self.projection(self.box_head(pooled))


class OpenVocabROIHeads(StandardROIHeads):
    """detectron2's StandardROIHeads with a vocabulary, a distillation loss and a fusion of scores."""

    def __init__(
        self,
        *,
        score_fusion: Callable[..., Tensor],
        distillation: nn.Module | None = None,
        image_branch: ImageBranch | None = None,
        crop_embedder: CropEmbedder | None = None,
        image_temperature: float = 0.01,
        max_crops: int = 1000,
        crop_nms_threshold: float = 0.9,
        **standard,
    ) -> None:
        """
        Args:
            score_fusion: see modeling/score_fusion.py.
            distillation: (student (M, D), teacher (M, D)) -> loss; None trains without a teacher.
            image_branch: a head of its own for the distilled embeddings; None shares the text branch's.
            crop_embedder: the teacher on crops at test time, instead of distilled embeddings.
            image_temperature: divides the cosines of the image side before its softmax over the K names.
            max_crops: regions that are kept for a crop_embedder, per image.
            crop_nms_threshold: class-agnostic IoU among these.
            standard: what StandardROIHeads takes, but for num_classes.
        """
        if standard.get("train_on_pred_boxes") or standard.get("keypoint_in_features"):
            raise InputError(
                "expected heads for boxes and masks, got train_on_pred_boxes or keypoints, which have none"
            )
        super().__init__(num_classes=1, **standard)
        self.score_fusion = score_fusion
        self.distillation = distillation
        self.image_branch = image_branch
        self.crop_embedder = crop_embedder
        self.image_temperature = image_temperature
        self.max_crops = max_crops
        self.crop_nms_threshold = crop_nms_threshold
        self.register_buffer("is_base", None, persistent=False)

    def set_vocabulary(self, class_embeddings: Tensor, is_base: Tensor | None = None) -> None:
        """Take (K, D) class embeddings and, where base and novel are told apart, (K,) booleans."""
        if is_base is not None and len(is_base) != len(class_embeddings):
            raise ValueError(f"expected one is_base per class, got {len(is_base)} for {len(class_embeddings)} classes")
        self.box_predictor.set_vocabulary(class_embeddings)
        self.num_classes = self.box_predictor.num_classes
        self.is_base = None if is_base is None else is_base.bool().to(class_embeddings.device)

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
            photos: RGB images (3, H, W) in [0, 255] per image, for a crop_embedder at test time.
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
            return self.box_predictor.losses(self.box_predictor(self.box_head(pooled)), proposals)
        pooled_regions = self._pool(features, regions)
        if self.image_branch is None:  # one head, one pass: sampled and distillation regions side by side
            box_features = self.box_head(torch.cat([pooled, pooled_regions]))
            box_features, region_features = box_features.split([len(pooled), len(pooled_regions)])
            student = self.box_predictor.projection(region_features)
        else:
            box_features = self.box_head(pooled)
            student = self.image_branch(pooled_regions)
        losses = self.box_predictor.losses(self.box_predictor(box_features), proposals)
        teacher = torch.cat([r.teacher_embeddings for r in regions])  # (M, D)
        losses["loss_distill"] = self.distillation(student, teacher.to(student))
        return losses

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Instances], photos: list[Tensor] | None
    ) -> list[Instances]:
        predictor = self.box_predictor
        counts = [len(p) for p in proposals]
        pooled = self._pool(features, proposals)
        box_features = self.box_head(pooled)
        predictions = predictor(box_features)
        boxes = predictor.predict_boxes(predictions, proposals)  # per image (Ri, 4)
        text = [p[:, :-1] for p in predictor.predict_probs(predictions, proposals)]  # per image (Ri, K)
        objectness = [p.objectness_logits for p in proposals]
        image: list[Tensor | None] = [None] * len(proposals)
        if self.crop_embedder is not None:
            keep = [
                select_regions(b, o, self.crop_nms_threshold, self.max_crops)
                for b, o in zip(boxes, objectness, strict=True)
            ]
            boxes, text, objectness = (
                [x[k] for x, k in zip(xs, keep, strict=True)] for xs in (boxes, text, objectness)
            )
            image = [self._image_scores(e) for e in self._embed_crops(boxes, proposals, photos)]
        elif self.score_fusion.needs_image:
            image = list(self._image_scores(self._distilled_embeddings(pooled, box_features)).split(counts))
        scores = [self.score_fusion(t, i, o, self.is_base) for t, i, o in zip(text, image, objectness, strict=True)]
        return detect(
            boxes,
            scores,
            [p.image_size for p in proposals],
            score_threshold=predictor.test_score_thresh,
            nms_threshold=predictor.test_nms_thresh,
            max_detections=predictor.test_topk_per_image,
        )

    def _image_scores(self, image_embeddings: Tensor) -> Tensor:
        """(R, D) -> (R, K): softmax over the names alone, no background."""
        class_embeddings = self.box_predictor.classifier.class_embeddings
        return cosine_logits(image_embeddings, class_embeddings, self.image_temperature).softmax(dim=1)

    def _distilled_embeddings(self, pooled: Tensor, box_features: Tensor) -> Tensor:
        """-> (R, D), from the branch that was distilled."""
        if self.image_branch is None:
            return self.box_predictor.projection(box_features)
        return self.image_branch(pooled)

    def _embed_crops(
        self, boxes: list[Tensor], proposals: list[Instances], photos: list[Tensor] | None
    ) -> list[Tensor]:
        """Crops are cut from the photos, which may be larger than the network's input. -> per image (Ri, D)."""
        embeddings = []
        for box, instances, photo in zip(boxes, proposals, photos, strict=True):
            height, width = instances.image_size
            scale = box.new_tensor([photo.shape[2] / width, photo.shape[1] / height]).repeat(2)
            embeddings.append(self.crop_embedder(photo, box * scale).to(box))
        return embeddings
