"""ROI heads that read masks off the stage that the box head runs on each region, as Mask R-CNN on C4 shares it."""

from __future__ import annotations

from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Instances
from torch import Tensor

from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.packable import packable


@packable
class SharedStageROIHeads(OpenVocabROIHeads):
    """OpenVocabROIHeads whose mask head stands behind the box head's `stage` ((R, C, P, P) -> (R, F, P / 2, P / 2))."""

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> dict | list[Instances]:
        """As detectron2's."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
        boxes = [each.proposal_boxes if self.training else each.pred_boxes for each in instances]
        pooled = self.mask_pooler([features[name] for name in self.mask_in_features], boxes)
        return self.mask_head(self.box_head.stage(pooled), instances)
