"""Soft-NMS in the place of NMS (Bodla et al., arXiv:1704.04503): overlapping detections score lower instead of going.

Shape letters: C candidates of one image, best first; N detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ovdet.errors import InputError
from ovdet.packable import packable


@packable
@dataclass(frozen=True)
class SoftNMS:
    """The Gaussian Soft-NMS: each detection that is taken multiplies others of its class by exp(-IoU^2 / sigma).

    Attributes:
        sigma: positive; 0.5 in that paper.
        min_score: detections whose score falls to it are left out.
    """

    sigma: float = 0.5
    min_score: float = 0.001

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(f"expected a positive sigma of Soft-NMS, got {self.sigma}")

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Take the best of what is left `number` times; the same as within each class, as scores only fall.

        Args:
            boxes: (C, 4) XYXY.
            scores: (C,).
            classes: (C,).
            number: how many at most; all that there are if negative.

        Returns:
            Indices into C and lowered scores, (N,) each, best first.
        """
        left, taken, lowered = scores.clone(), [], []
        while len(taken) < (number if number >= 0 else len(left)):
            best = int(left.argmax()) if len(left) else 0
            if not len(left) or not left[best] > self.min_score:
                break
            taken.append(best)
            lowered.append(left[best].clone())
            overlaps = box_iou(boxes[best : best + 1], boxes)[0].nan_to_num()  # 0 / 0 of boxes without area
            decay = (-(overlaps**2) / self.sigma).exp()
            left = torch.where(classes == classes[best], left * decay, left)
            left[best] = -torch.inf
        index = torch.tensor(taken, dtype=torch.long, device=boxes.device)
        return index, torch.stack(lowered) if lowered else scores[:0]
