"""Box deltas as mmdetection reads them."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor

from ovdet.packable import packable


@packable
class ClampedBoxTransform(Box2BoxTransform):
    """detectron2's, with logarithms of scale clamped from below too: no side shrinks to less than a 62nd."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """(R, 4 K) deltas, (R, 4) XYXY -> (R, 4 K)."""
        _, _, width, height = self.weights
        floor = deltas.new_tensor([-torch.inf, -torch.inf, -self.scale_clamp * width, -self.scale_clamp * height])
        return super().apply_deltas(torch.maximum(deltas.unflatten(1, (-1, 4)), floor).flatten(1), boxes)
