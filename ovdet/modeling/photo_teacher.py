"""The teacher on whole photos: what a frozen image classifier says of a region where it lies.

A crop shows the teacher an object without its surroundings, and costs it a pass of its own; here one pass serves all
regions of a photo. In detection so it holds the student, whose backbone began as the same classifier and then learns
boxes, to what it knew of names before (for frozen backbones: F-VLM, arXiv:2209.15639).

Shape letters: R regions, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor

from ovdet.modeling.dense_branch import DenseImageBranch


class PhotoTeacher:
    """Embeds regions of one photo, as OnlineRegions asks it to.

    It is no module: a student's checkpoint does not hold its teacher.
    """

    def __init__(
        self,
        backbone: Backbone,
        branch: DenseImageBranch,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        scales: Sequence[float] = (1.0,),
    ) -> None:
        """
        Args:
            backbone: with the map that `branch` looks at.
            branch: the classifier's last layers.
            pixel_mean: of R, G and B in [0, 255].
            pixel_std: the same.
            scales: the photo is looked at in each of these sizes, relative to the one that comes; the embeddings are
                summed and brought to unit norm.
        """
        self.backbone = backbone.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.branch = branch.requires_grad_(False).eval()
        self.mean = torch.tensor(pixel_mean)[:, None, None]
        self.std = torch.tensor(pixel_std)[:, None, None]
        self.scales = tuple(scales)

    @torch.no_grad()
    def __call__(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """Embed regions.

        Args:
            photo: RGB (3, H, W) in [0, 255].
            boxes: (R, 4) XYXY in its pixels.

        Returns:
            (R, D) float32, unit norm.
        """
        self._move_to(photo.device)
        pixels = ((photo - self.mean) / self.std)[None]
        return F.normalize(sum(self._embed(pixels, boxes, scale) for scale in self.scales), dim=-1)

    def _embed(self, pixels: Tensor, boxes: Tensor, scale: float) -> Tensor:
        if scale != 1:
            pixels = F.interpolate(pixels, scale_factor=scale, mode="bilinear", antialias=scale < 1)
        height, width = pixels.shape[-2:]
        step = self.branch.stride
        pixels = F.pad(pixels, (0, -width % step, 0, -height % step)).contiguous(memory_format=torch.channels_last)
        return self.branch(None, self.backbone(pixels), [boxes * scale])

    def _move_to(self, device: torch.device) -> None:
        if self.mean.device != device:
            self.backbone, self.branch = self.backbone.to(device), self.branch.to(device)
            self.mean, self.std = self.mean.to(device), self.std.to(device)
