"""Learning from photos of which only the classes are known: their largest proposal is it (Detic, arXiv:2201.02605).

Shape letters: N labeled photos, K classes (background is column K of logits), S data sets, T stages of the ROI heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.modeling.region_embedding import pool, with_boxes
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.modeling.text_classifier import SigmoidTextClassifier
from ovdet.packable import packable
from ovdet.training_fields import LABELS_KEY, SET_KEY


@packable
class ImageLabelRCNN(OpenVocabRCNN):
    """OpenVocabRCNN that learns from boxed photos as ever, and from labeled photos what their largest proposal is.

    A labeled photo's input has `image_labels` (int64, its classes) and `set_index`, and counts in no other loss.
    """

    def __init__(
        self,
        *,
        labels: Callable[[], Sequence[Tensor]] | None = None,
        image_label_weight: float = 0.1,
        image_label_proposals: int = 128,
        **parts,
    ) -> None:
        """
        Args:
            labels: gives `spoken` (S, K) first: which classes a photo's set speaks of; a photo says nothing about
                others. None: each set speaks of all.
            image_label_weight: of the loss; 0.1 in Detic.
            image_label_proposals: the best so many of a photo are looked at; 128 in Detic.
            parts: what OpenVocabRCNN takes.
        """
        super().__init__(**parts)
        self._get_labels = labels
        self.image_label_weight = image_label_weight
        self.image_label_proposals = image_label_proposals

    def forward(
        self, batched_inputs: list[dict], *, classes: ClassEmbeddings, mask_thresholds: Tensor | None = None
    ) -> list[dict] | dict[str, Tensor]:
        """As OpenVocabRCNN's; in training `loss_image_labels` besides."""
        if not self.training:
            return super().forward(batched_inputs, classes=classes, mask_thresholds=mask_thresholds)
        labeled = [x for x in batched_inputs if LABELS_KEY in x]
        boxed = [x for x in batched_inputs if LABELS_KEY not in x]
        losses = super().forward(boxed or labeled[:1], classes=classes)
        if not boxed:  # every step has the same losses, and all weights a gradient
            losses = {key: loss * 0.0 for key, loss in losses.items()}
        loss = self._image_label_loss(labeled, classes.to(self.device)) if labeled else sum(losses.values()) * 0.0
        return {**losses, "loss_image_labels": loss * self.image_label_weight}

    def _image_label_loss(self, inputs: list[dict], classes: ClassEmbeddings) -> Tensor:
        images = self.preprocess_image(inputs)
        features = self.backbone(images.tensor)
        with torch.no_grad(), _without_losses(self.proposal_generator):
            proposals, _ = self.proposal_generator(images, features, None)
        regions = [largest_proposal(each, self.image_label_proposals) for each in proposals]
        labels = torch.zeros(len(inputs), len(classes.names), dtype=torch.bool, device=self.device)
        for row, x in zip(labels, inputs, strict=True):
            row[x[LABELS_KEY].to(self.device)] = True
        counts = torch.ones_like(labels)
        if self._get_labels is not None:
            counts = self._get_labels()[0].to(self.device)[[x[SET_KEY] for x in inputs]] | labels
        is_sigmoid = isinstance(self.roi_heads.box_predictor.classifier, SigmoidTextClassifier)
        loss = sigmoid_loss if is_sigmoid else softmax_loss
        return sum(loss(logits, labels, counts) for logits in stage_logits(self.roi_heads, features, regions, classes))


@contextlib.contextmanager
def _without_losses(proposal_generator: nn.Module) -> Iterator[None]:
    """It proposes as at test time, without ground truth; its parts stay in training mode."""
    was_training, proposal_generator.training = proposal_generator.training, False
    try:
        yield
    finally:
        proposal_generator.training = was_training


def largest_proposal(proposals: Instances, number: int) -> Instances:
    """The largest of an image's best proposals, or the whole image where there are none.

    Args:
        proposals: with `proposal_boxes` and `objectness_logits`.
        number: of the best ones.

    Returns:
        One region, with `proposal_boxes` within the image.
    """
    height, width = proposals.image_size
    boxes = Boxes(proposals.proposal_boxes.tensor.detach().clone())
    boxes.clip(proposals.image_size)
    best = proposals.objectness_logits.topk(min(number, len(boxes))).indices
    boxes = boxes.tensor[best]
    if not len(boxes):
        boxes = boxes.new_tensor([[0, 0, width, height]])
    region = Instances(proposals.image_size)
    region.proposal_boxes = Boxes(boxes[Boxes(boxes).area().argmax()][None])
    region.objectness_logits = boxes.new_zeros(1)
    return region


def stage_logits(
    heads: OpenVocabROIHeads, features: dict[str, Tensor], regions: list[Instances], classes: ClassEmbeddings
) -> list[Tensor]:
    """T times (N, K + 1) class logits of one region an image; a further stage looks where the one before moved it.

    Args:
        heads: in training mode.
        features: the backbone's maps by name.
        regions: N, one region each.
        classes: one row each.
    """
    logits, boxes = [], None
    for box_head, predictor in heads.stages:
        if boxes is not None:
            regions = [with_boxes(*pair) for pair in zip(regions, boxes, strict=True)]
        # losses are added, so the shared features learn from their mean, as in a cascade's other losses
        pooled = _ScaleGradient.apply(pool(heads, features, regions), 1 / len(heads.stages))
        embeddings, deltas = predictor.embed(box_head(pooled))
        logits.append(predictor.classifier(embeddings, classes.embeddings))
        boxes = [box.detach() for box in predictor.predict_boxes((None, deltas), regions)]
    return logits


def sigmoid_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the classes that count, averaged over photos; 0 for none.

    Args:
        logits: (N, K + 1).
        labels: (N, K) bool, the classes of each photo.
        counts: (N, K) bool, the classes that each photo speaks of, its own among them.
    """
    logits = logits[:, :-1].float()
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    return (losses * counts).sum() / max(len(labels), 1)


def softmax_loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of each label against background and the classes that the photo has not, averaged over a photo's
    labels and over photos; 0 for none. Arguments as of `sigmoid_loss`; each photo has a label.
    """
    logits = logits.float()
    others = F.pad(counts & ~labels, (0, 1), value=True)  # background is always one
    rest = logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)  # (N, 1)
    losses = torch.logaddexp(rest, logits[:, :-1]) - logits[:, :-1]  # (N, K)
    of_photo = (losses * labels).sum(1) / labels.sum(1).clamp(min=1)
    return of_photo.sum() / max(len(labels), 1)
