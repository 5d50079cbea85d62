"""ROIAlign for CPUs, several times as fast as torchvision's: a bin is a weighted sum of pixels, all channels at once.

torchvision goes through one channel after the other, and in the backward pass on one thread. Maps that are channels
last in memory are a matrix with a row for each pixel, and a bin is a bag of its rows.

Shape letters: N images, C channels, R regions over all images, L levels of the pyramid, P bins a side, S samples a side
of each bin, Q pixels of all maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor

from ovdet.errors import InputError
from ovdet.packable import packable


@packable
class RegionPooler(ROIPooler):
    """detectron2's ROIPooler with ROIAlignV2, the same to rounding, by other ways on CPUs and at test time."""

    def __init__(
        self,
        output_size: int,
        *,
        scales: Sequence[float],
        sampling_ratio: int,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        """
        Args:
            output_size: P.
            scales: of each level, 1 / stride.
            sampling_ratio: S; detectron2's 0, a number for each region, is not for this class.
            canonical_box_size: pixels; see ROIPooler.
            canonical_level: see ROIPooler.
        """
        if sampling_ratio < 1:
            raise InputError(f"expected a sampling_ratio of at least 1, got {sampling_ratio}")
        super().__init__(output_size, scales, sampling_ratio, "ROIAlignV2", canonical_box_size, canonical_level)
        self.scales = tuple(scales)
        self.sampling_ratio = sampling_ratio

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pool.

        Args:
            x: L maps (N, C, H, W).
            box_lists: N times the boxes of an image, XYXY in pixels of the network's input.

        Returns:
            (R, C, P, P) float32, channels last in memory.
        """
        if x[0].device.type != "cpu":
            if torch.is_grad_enabled():
                return super().forward([level.float() for level in x], box_lists)
            return pool_every_level(self, x, [boxes.tensor for boxes in box_lists])
        bins, size, channels = self.output_size[0], 4 * self.sampling_ratio**2, x[0].shape[1]
        pixels = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in x]).float()  # (Q, C)
        with torch.no_grad():  # as ROIAlign: boxes learn nothing through it
            index, weights = self._bags(x, box_lists)
        pooled = F.embedding_bag(
            index.view(-1, size), pixels, per_sample_weights=weights.view(-1, size).to(pixels), mode="sum"
        )  # (R * P * P, C)
        return pooled.view(-1, bins, bins, channels).permute(0, 3, 1, 2)

    def _bags(self, x: list[Tensor], box_lists: list[Boxes]) -> tuple[Tensor, Tensor]:
        """-> rows of the pixels' matrix and their weights, both (R, P, P, 2 S, 2 S)."""
        last = len(x) - 1
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        ).clamp(0, last)  # a box that is none has no level
        counts = torch.tensor([len(boxes) for boxes in box_lists])
        images = torch.arange(len(box_lists)).repeat_interleave(counts)  # (R,)
        heights, widths = (torch.tensor([level.shape[side] for level in x])[levels] for side in (2, 3))
        starts = torch.tensor([0, *(len(level) * level[0, 0].numel() for level in x)]).cumsum(0)[levels]
        boxes = torch.cat([boxes.tensor for boxes in box_lists]).float()
        boxes = boxes * boxes.new_tensor(self.scales)[levels, None] - 0.5  # (R, 4), pixels' centers at whole numbers
        rows, row_weights = self._neighbors(boxes[:, 1], boxes[:, 3], heights)  # (R, P, 2 S)
        columns, column_weights = self._neighbors(boxes[:, 0], boxes[:, 2], widths)
        rows = (starts + images * heights * widths)[:, None, None] + rows * widths[:, None, None]
        index = rows[:, :, None, :, None] + columns[:, None, :, None, :]
        return index, row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]

    def _neighbors(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels beside each sample along one side of the boxes.

        Args:
            low: (R,), where a box begins.
            high: (R,), where it ends.
            length: (R,), of the map.

        Returns:
            Pixels and weights, (R, P, 2 S) each. Samples more than a pixel outside have weight 0.
        """
        bins, samples = self.output_size[0], self.sampling_ratio
        steps = (torch.arange(bins * samples) + 0.5) / samples
        at = low[:, None] + steps * ((high - low) / bins)[:, None]
        at = at.nan_to_num(-2.0)
        inside = (at >= -1) & (at <= length[:, None])
        at = at.clamp(min=0).minimum(length[:, None] - 1)  # (R, P * S)
        before = at.floor()
        after = (before + 1).minimum(length[:, None] - 1)
        pixels = torch.stack([before, after], dim=-1).long()
        weights = torch.stack([1 - (at - before), at - before], dim=-1) * (inside / samples)[..., None]
        return pixels.view(-1, bins, 2 * samples), weights.view(-1, bins, 2 * samples)


def pool_every_level(pooler: ROIPooler, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Pool as detectron2's pooler, without asking which boxes are of which level, for GPUs.

    Each level pools all boxes, those of other levels as boxes without area, and each box keeps what its level gave.

    Args:
        pooler: of which this takes the levels.
        maps: L maps (N, C, H, W); pooled in float32, as float16 and bfloat16 round boxes to whole pixels.
        boxes: of each image (Ri, 4) XYXY, pixels of the network's input.

    Returns:
        (R, C, P, P) float32.
    """
    rois = torch.cat([F.pad(each, (1, 0), value=index) for index, each in enumerate(boxes)]).float()  # (R, 5)
    if len(maps) == 1:
        return pooler.level_poolers[0](maps[0].float(), rois)
    rule = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    levels = assign_boxes_to_levels([Boxes(each) for each in boxes], *rule).clamp(0, len(maps) - 1)
    pooled = None
    for number, (level_pooler, level) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        is_here = (levels == number)[:, None]
        found = level_pooler(level.float(), torch.where(is_here, rois, 0))
        pooled = found if pooled is None else torch.where(is_here[:, :, None, None], found, pooled)
    return pooled
