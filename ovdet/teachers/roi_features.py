"""Region embeddings by RoIAlign on the feature map of the whole image, for the embedded teacher.

A crop shows the teacher an object without its surroundings, and needs a forward pass of its own. Here the classifier of
ConSE computes one feature map of the image, and RoIAlign and its last layers give all regions (as F-VLM does,
arXiv:2209.15639).

Shape letters: R regions of one photo, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from ovdet.errors import InputError
from ovdet.packable import packable
from ovdet.teachers.base import plain_inference
from ovdet.teachers.conse import ConseTeacher
from ovdet.teachers.crops import normalize_crops

Embedder = Callable[[Tensor, Tensor], Tensor]  # RGB photo (3, H, W) in [0, 255], boxes (R, 4) -> (R, D), unit norm

_STRIDE = 32  # of the classifier's last map
_SAMPLES = 4  # a side, of a region
_SHORT_SIDES = (448, 640)


@packable
class RoIFeatureEmbedder:
    """Embeds regions by RoI features of ConSE's EfficientNet-Lite0. No module: its weights never enter a checkpoint."""

    def __init__(self, short_sides: Sequence[int] | None = _SHORT_SIDES, *, device: str | torch.device = "cpu") -> None:
        """
        Args:
            short_sides: test-time scales, in pixels of the image's shorter side; the embeddings are summed and
                normalized. None: the image's own size.
            device: where it computes.

        Raises:
            InputError: a package with its weights is missing, or no size is given.
        """
        if short_sides is not None and (not short_sides or min(short_sides) < 1):
            raise InputError(f"expected one size or more of at least 1 pixel, got {tuple(short_sides)}")
        self.teacher = ConseTeacher(0, device=device)
        self.short_sides = short_sides and tuple(short_sides)

    def __call__(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """Embed regions.

        Args:
            photo: RGB (3, H, W) in [0, 255].
            boxes: (R, 4) XYXY in its pixels.

        Returns:
            (R, D) float32, unit norm, on the teacher's device.
        """
        teacher = self.teacher
        short = min(photo.shape[1:])
        scales = [side / short for side in self.short_sides or (short,)]
        with plain_inference(teacher.device):
            pixels = normalize_crops(photo.to(teacher.device)[None], teacher.mean, teacher.std, white=255)
            boxes = boxes.to(pixels)
            embeddings = F.normalize(sum(self._embed(pixels, boxes, scale) for scale in scales), dim=-1)
        return embeddings.clone()

    def _embed(self, pixels: Tensor, boxes: Tensor, scale: float) -> Tensor:
        if scale != 1:
            size = [round(side * scale) for side in pixels.shape[-2:]]
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=scale < 1)
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % _STRIDE, 0, -height % _STRIDE))
        pixels = pixels.contiguous(memory_format=self.teacher.memory_format)
        features = self.teacher.classifier.forward_features(pixels)  # (1, 1280, H / 32, W / 32)
        regions = roi_align(features, [boxes * scale], 1, 1 / _STRIDE, _SAMPLES, aligned=True).flatten(1)
        return self.teacher.embed_features(regions)


@packable
class EnsembleEmbedder:
    """An ensemble of region embedders: their embeddings are summed and normalized."""

    def __init__(self, views: Sequence[Embedder]) -> None:
        """Take the embedders, which share a space and a width D."""
        self.views = tuple(views)

    def __call__(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """RGB photo (3, H, W) in [0, 255], boxes (R, 4) XYXY in its pixels -> (R, D) float32, unit norm."""
        return F.normalize(sum(view(photo, boxes) for view in self.views), dim=-1)
