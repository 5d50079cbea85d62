"""Losses on photos of which each speaks of some names only: what a photo does not speak of is not held against it.

Shape letters: S sets, R regions over all images, A anchors of an image, K classes of all sets together (background is
index K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ovdet.modeling.box_predictor import OpenVocabBoxPredictor
from ovdet.packable import packable
from ovdet.training_fields import SCORES_FIELD, SET_FIELD

IGNORED = -100  # the class that cross entropy leaves out


class SetLabels(NamedTuple):
    """The names that the sets of a mixture speak of, and how completely.

    Attributes:
        spoken: (S, K) bool.
        is_exhaustive: (S,) bool: each object of its names has a box.
        is_dense: (S,) bool: nearly each object of any name has a box.
        are_parts: (S,) bool: a region may be one of its names and one of another set's.
    """

    spoken: Tensor
    is_exhaustive: Tensor
    is_dense: Tensor
    are_parts: Tensor


def rival_names(class_embeddings: Tensor, labels: SetLabels, near: float) -> Tensor:
    """Names that an object of some name cannot be: (K, K) bool, of the object's name and the other.

    Not those that are near in meaning, nor those that sets of parts alone speak of.

    Args:
        class_embeddings: (K, D), unit norm.
        labels: of the sets.
        near: cosine from which on one thing may have both names.
    """
    whole = labels.spoken[~labels.are_parts].any(0)  # (K,)
    return (class_embeddings @ class_embeddings.t() < near) & whole[None] & whole[:, None]


class PartialLabels:
    """Masks for the text classifier's softmax, and regions that may be objects without a box.

    A region on an object counts against the names that its set speaks of and those that such an object cannot be; any
    other region against its set's names, unless the detector itself sees an object there that nobody had to box: of any
    name where boxes may be missing, of another set's names where they are not.
    """

    def __init__(self, labels: Callable[[], Sequence[Tensor]], *, doubt: float = 0.3, near: float = 0.4) -> None:
        """
        Args:
            labels: gives the parts of SetLabels, see data/mixture.py. Asked for at the first loss: a detector that is
                only run needs no training set.
            doubt: probability of such names together from which on a region is left out.
            near: see rival_names.
        """
        self._get_labels = labels
        self._labels: SetLabels | None = None
        self.doubt = doubt
        self.near = near

    def labels(self, device: torch.device) -> SetLabels:
        """The labels of the sets, on a device."""
        if self._labels is None:
            self._labels = SetLabels(*(part.to(device) for part in self._get_labels()))
        return self._labels

    def apply(self, logits: Tensor, classes: Tensor, sets: Tensor, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits and leave regions out.

        Args:
            logits: (R, K + 1).
            classes: (R,) in [0, K].
            sets: (R,) in [0, S), or -1 where the photo has no object left that says it.
            class_embeddings: (K, D), unit norm.

        Returns:
            Logits (R, K + 1), -infinity where a name does not count; classes (R,), IGNORED where a region does not.
        """
        labels, num_classes = self.labels(logits.device), logits.shape[1] - 1
        rivals = rival_names(class_embeddings.float(), labels, self.near)
        known = sets >= 0
        sets = sets.clamp(min=0)
        own = labels.spoken[sets]  # (R, K)
        on_object = classes < num_classes
        counts = own.clone()
        counts[on_object] |= rivals[classes[on_object]] & ~labels.are_parts[sets[on_object], None]
        counts[on_object, classes[on_object]] = True  # a pseudo-label's name, too
        with torch.no_grad():
            probabilities = logits.float().softmax(1)[:, :num_classes]
            foreign = (probabilities * ~own).sum(1)
            unboxed = torch.where(labels.is_exhaustive[sets], foreign, probabilities.sum(1))
            left_out = ~known | (~on_object & (unboxed > self.doubt))
        masked = logits.masked_fill(~F.pad(counts, (0, 1), value=True), -torch.inf)
        return masked, classes.masked_fill(left_out, IGNORED)


def sets_of(proposals: Sequence[Instances]) -> Tensor:
    """(R,): the set of each region's photo, -1 where no object says it."""
    return torch.cat(
        [each.get(SET_FIELD) if each.has(SET_FIELD) else torch.full_like(each.gt_classes, -1) for each in proposals]
    )


def label_scores(proposals: Sequence[Instances], on_object: Tensor) -> Tensor:
    """(R,) scores of the labels of regions on an object, (R,) bool; 1 elsewhere, and where no label has one."""
    given = [each.get(SCORES_FIELD) if each.has(SCORES_FIELD) else each.gt_classes.new_ones(len(each)).float()
             for each in proposals]  # fmt: skip
    return torch.where(on_object, torch.cat(given), 1.0)


@packable
class PartialLabelBoxPredictor(OpenVocabBoxPredictor):
    """The box predictor for photos of several data sets, each of which speaks of names of its own."""

    def __init__(self, *arguments, partial_labels: PartialLabels | None, soft_labels: bool = False, **options) -> None:
        """
        Args:
            arguments: of OpenVocabBoxPredictor.
            partial_labels: which names count on which photos; None for a detector that is only run.
            soft_labels: whether pseudo-labels weigh as much as their scores in `loss_cls`; else they are as any other.
            options: of OpenVocabBoxPredictor.
        """
        super().__init__(*arguments, **options)
        self.partial_labels = partial_labels
        self.soft_labels = soft_labels

    def predict(self, embeddings: Tensor, deltas: Tensor, class_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As OpenVocabBoxPredictor's, and the class embeddings (K, D), for `losses`."""
        return *super().predict(embeddings, deltas, class_embeddings), class_embeddings

    def losses(self, predictions: tuple[Tensor, Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """As OpenVocabBoxPredictor's, `loss_cls` without the names and regions that do not count."""
        logits, deltas, class_embeddings = predictions
        losses = super().losses((logits, deltas), proposals)
        labels = torch.cat([each.gt_classes for each in proposals]).clamp(max=logits.shape[1] - 1)
        logits, labels = self.partial_labels.apply(logits, labels, sets_of(proposals), class_embeddings)
        count = int((labels != IGNORED).sum())
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")  # (R,)
        if self.soft_labels:
            loss = loss * label_scores(proposals, labels < logits.shape[1] - 1)
        loss = loss.sum() / max(count, 1)
        losses["loss_cls"] = loss * self.loss_weight.get("loss_cls", 1.0)
        return losses


@packable
class PartialLabelRPN(RPN):
    """detectron2's RPN, for photos on which not every object has a box.

    An anchor that lies on no box and yet looks like an object is neither object nor background there.
    """

    def __init__(self, *, labels: Callable[[], Sequence[Tensor]] | None, doubt: float = 0.5, **standard) -> None:
        """
        Args:
            labels: gives the parts of SetLabels; None for a detector that is only run.
            doubt: objectness from which on such an anchor is left out.
            standard: what RPN takes.
        """
        super().__init__(**standard)
        self._get_labels = labels
        self.doubt = doubt
        self._sparse: list[bool] = []

    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As detectron2's; remembers which photos have objects without a box."""
        is_dense = SetLabels(*self._get_labels()).is_dense
        self._sparse = [not len(each) or not is_dense[int(each.get(SET_FIELD)[0])] for each in gt_instances]
        return super().label_and_sample_anchors(anchors, gt_instances)

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> dict[str, Tensor]:
        """As detectron2's."""
        objectness = torch.cat(pred_objectness_logits, dim=1).detach().float().sigmoid()  # (N, A)
        gt_labels = [
            labels.masked_fill((labels == 0) & (found > self.doubt), -1) if sparse else labels
            for labels, found, sparse in zip(gt_labels, objectness, self._sparse, strict=True)
        ]
        return super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes)
