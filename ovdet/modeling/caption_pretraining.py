"""ROI heads that learn from captions alone, before a detector is trained: OVR-CNN's first stage (arXiv:2011.10678).

Shape letters: R regions over all images, D embedding width.
"""

from __future__ import annotations

from detectron2.structures import ImageList, Instances
from torch import Tensor

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.modeling.region_embedding import pool
from ovdet.modeling.roi_heads import OpenVocabROIHeads, captioned_regions
from ovdet.objectives.base import CAPTIONS, PAIRS, RegionBatch
from ovdet.packable import packable


@packable
class CaptionPretrainingROIHeads(OpenVocabROIHeads):
    """OpenVocabROIHeads that are trained without boxes and class names; the same at test time.

    Box head and projection learn from each image's most object-like proposals and its caption. The projection is what
    OVR-CNN calls its vision-to-language layer, which goes into the detector as it is.
    """

    def __init__(self, *, regions_per_image: int = 64, **parts) -> None:
        """
        Args:
            regions_per_image: how many proposals are looked at.
            parts: what OpenVocabROIHeads takes; objectives need captions or pairs and nothing else.

        Raises:
            InputError: an objective needs more, or there is none in training.
        """
        super().__init__(**parts)
        for objective in self.objectives:
            if not objective.needs <= {CAPTIONS, PAIRS}:
                needs = ", ".join(sorted(objective.needs))
                raise InputError(
                    "expected objectives on captions alone in pre-training, "
                    f"got {type(objective).__name__}, which needs {needs}"
                )
        self.regions_per_image = regions_per_image

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        *,
        classes: ClassEmbeddings,
        words: list[Tensor] | None = None,
        captions: list[tuple[str, Tensor]] | None = None,
        **others,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As OpenVocabROIHeads'; in training `targets` are not looked at."""
        if not self.training:
            return super().forward(images, features, proposals, targets, classes=classes, **others)
        proposals = [each[: self.regions_per_image] for each in proposals]  # best first
        embeddings = self.box_predictor.projection(self.box_head(pool(self, features, proposals)))  # (R, D)
        batches: dict[str, RegionBatch] = {}
        if CAPTIONS in self.needs:
            batches[CAPTIONS] = captioned_regions(embeddings, proposals, classes, words)
        if PAIRS in self.needs:
            pairs = self.captioned_images(features, [each.image_size for each in proposals], captions)
            batches[PAIRS] = RegionBatch(embeddings, classes, pairs=pairs)
        return proposals, self.objective_losses(batches)
