"""Region embeddings by cropping: boxes are cut out of images, resized, and embedded by a teacher in batches.

A crop is what Pillow's `image.crop(box).resize(size, BICUBIC)` gives (see bicubic.py).

Shape letters: N photos, R regions (of one photo, or over all and scales), S scales, D embedding width, H x W photo,
h x w crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.errors import InputError
from ovdet.packable import packable
from ovdet.teachers.base import Teacher, plain_inference
from ovdet.teachers.bicubic import resize_regions

# Crops in one forward pass: on CPUs its maps then stay near the cache, elsewhere a photo of 300 regions is one pass.
_CPU_BATCH, _DEVICE_BATCH = 8, 600


def crop_regions(image: Tensor, boxes: Tensor, size: tuple[int, int], scale: float = 1.0) -> Tensor:
    """Crop regions of an image and resize them bicubically.

    Equal to Pillow's bicubic resize, with its rounding to 256 levels after each of the two passes: without that, the
    features of small, much enlarged regions move to a cosine of 0.97. (Rows come first here; newer versions of Pillow
    take columns first for tall crops, which differs where an overshoot was cut off.)

    Args:
        image: (3, H, W) RGB in [0, 255], uint8 or float.
        boxes: (R, 4) XYXY in pixels of that image. They are rounded as Pillow does and clipped to the image; at least
            one pixel is left.
        size: (height, width) of a crop.
        scale: of the box about its center, before it is clipped (ViLD uses 1 and 1.5).

    Returns:
        (R, 3, *size) float32 RGB in [0, 1] on the image's device.

    Raises:
        InputError: another shape or type, a box that is not finite, a scale that is not positive.
    """
    _check(image, boxes, (scale,))
    with plain_inference(image.device):
        edges = _pixel_edges(boxes, scale, image.shape[1:])
        crops = resize_regions(image[None], F.pad(edges, (1, 0)), size) / 255
    return crops.clone()  # out of inference mode


def normalize_crops(crops: Tensor, mean: Sequence[float], std: Sequence[float], white: float = 1.0) -> Tensor:
    """Normalize colors by a teacher's mean and standard deviation.

    Args:
        crops: (R, 3, h, w) RGB in [0, white], any type.
        mean: of RGB in [0, 1], to subtract.
        std: of RGB in [0, 1], to divide by.
        white: the largest value, 255 for gray levels.

    Returns:
        (R, 3, h, w) float32.
    """
    shift, spread = (torch.tensor(values, device=crops.device).view(3, 1, 1) for values in (mean, std))
    return torch.addcmul(-shift / spread, crops.float(), 1 / (white * spread))


def embed_regions(
    teacher: Teacher,
    image: Tensor,
    boxes: Tensor,
    scales: Sequence[float] = (1.0, 1.5),
    batch_size: int | None = None,
) -> Tensor:
    """`embed_region_batch` for one photo: (3, H, W) RGB in [0, 255], boxes (R, 4) XYXY -> (R, D)."""
    return embed_region_batch(teacher, [image], [boxes], scales, batch_size)[0]


def embed_region_batch(
    teacher: Teacher,
    photos: Sequence[Tensor],
    boxes: Sequence[Tensor],
    scales: Sequence[float] = (1.0, 1.5),
    batch_size: int | None = None,
) -> list[Tensor]:
    """ViLD's distillation targets: unit embeddings of the crops at each scale, summed and normalized.

    The regions of all photos share the teacher's forward passes.

    Args:
        teacher: on whose device this runs.
        photos: N of (3, H, W) RGB in [0, 255], uint8 or float, of any sizes.
        boxes: for each photo (R, 4) XYXY in its pixels; R may be 0.
        scales: of the boxes about their centers.
        batch_size: crops in one forward pass; None: what suits the device.

    Returns:
        For each photo (R, D) float32, unit norm, on the teacher's device.

    Raises:
        InputError: as of `crop_regions`, or not as many photos as boxes.
    """
    if len(photos) != len(boxes):
        raise InputError(f"expected boxes for each of {len(photos)} photos, got boxes for {len(boxes)}")
    for photo, of_photo in zip(photos, boxes, strict=True):
        _check(photo, of_photo, scales)
    counts = [len(of_photo) for of_photo in boxes]
    if not sum(counts):
        return [torch.zeros(0, teacher.width, device=teacher.device) for _ in photos]
    step = batch_size or (_CPU_BATCH if teacher.device.type == "cpu" else _DEVICE_BATCH)
    with plain_inference(teacher.device):
        canvas = _stack([photo.to(teacher.device) for photo in photos])
        edges = torch.cat([_canvas_edges(boxes, scale, photos) for scale in scales])  # (S * R, 5)
        parts = []
        for batch in edges.split(step):
            levels = resize_regions(canvas, batch, teacher.input_size)
            parts.append(teacher.encode_image(normalize_crops(levels, teacher.mean, teacher.std, white=255)))
        summed = torch.cat(parts).view(len(scales), sum(counts), -1).sum(0)
        result = F.normalize(summed, dim=-1)
    return list(result.clone().split(counts))


@packable
class RegionEmbedder:
    """Embeds regions by their crops at several scales. No module: the teacher's weights never enter a checkpoint."""

    def __init__(
        self, teacher: Teacher, scales: Sequence[float] = (1.0, 1.5), *, batch_size: int | None = None
    ) -> None:
        """
        Args:
            teacher: on whose device crops are cut and embedded.
            scales: of the boxes about their centers.
            batch_size: crops in one forward pass; None: what suits the device. Fewer take less memory.
        """
        self.teacher = teacher
        self.scales = tuple(scales)
        self.batch_size = batch_size

    def __call__(self, image: Tensor, boxes: Tensor) -> Tensor:
        """RGB image (3, H, W) in [0, 255], boxes (R, 4) XYXY -> (R, D) float32, unit norm."""
        return embed_regions(self.teacher, image, boxes, self.scales, self.batch_size)

    def embed_batch(self, photos: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """RGB photos (3, H, W) in [0, 255] of any sizes, boxes (R, 4) XYXY of each -> (R, D) of each, unit norm."""
        return embed_region_batch(self.teacher, photos, boxes, self.scales, self.batch_size)

    def to(self, device: str | torch.device) -> RegionEmbedder:
        self.teacher.to(device)
        return self

    @property
    def width(self) -> int:
        return self.teacher.width

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def fingerprint(self) -> str:
        return self.teacher.fingerprint

    @property
    def temperature(self) -> float:
        return self.teacher.temperature


def _check(image: Tensor, boxes: Tensor, scales: Sequence[float]) -> None:
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise InputError(f"expected an RGB image of shape (3, H, W), got {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"expected an image of uint8 or float, got {image.dtype}")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise InputError(f"expected boxes of shape (R, 4), got {tuple(boxes.shape)}")
    bad = (~torch.isfinite(boxes).all(1)).nonzero()
    if len(bad):
        index = int(bad[0])
        raise InputError(f"expected finite boxes, got {boxes[index].tolist()} at index {index}")
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise InputError(f"expected one positive scale or more, got {tuple(scales)}")


def _pixel_edges(boxes: Tensor, scale: float, image_size: Sequence[int]) -> Tensor:
    """(R, 4) boxes -> (R, 4) int64 XYXY on the CPU: scaled, rounded half to even, inside the image, never empty."""
    boxes = boxes.detach().to("cpu", torch.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    if scale != 1:
        center, half = (low + high) / 2, (high - low) / 2 * scale
        low, high = center - half, center + half
    limit = torch.tensor([image_size[1], image_size[0]], dtype=torch.float64)  # W, H
    low = low.round().clamp(min=0).minimum(limit - 1)
    high = high.round().maximum(low + 1).minimum(limit)
    return torch.cat([low, high], dim=1).long()


def _canvas_edges(boxes: Sequence[Tensor], scale: float, photos: Sequence[Tensor]) -> Tensor:
    """`_pixel_edges` of all photos, behind the number of the photo -> (R, 5) int64 on the CPU."""
    parts = [_pixel_edges(of_photo, scale, photo.shape[1:]) for photo, of_photo in zip(photos, boxes, strict=True)]
    return torch.cat([F.pad(edges, (1, 0), value=number) for number, edges in enumerate(parts)])


def _stack(photos: Sequence[Tensor]) -> Tensor:
    """N of (3, H, W), each of its own size -> (N, 3, H, W) of the largest, zeros to the right and below."""
    if len(photos) == 1:
        return photos[0][None]
    size = [max(photo.shape[axis] for photo in photos) for axis in (1, 2)]
    is_bytes = all(photo.dtype == torch.uint8 for photo in photos)
    canvas = photos[0].new_zeros(len(photos), 3, *size, dtype=torch.uint8 if is_bytes else torch.float32)
    for place, photo in zip(canvas, photos, strict=True):
        place[:, : photo.shape[1], : photo.shape[2]] = photo
    return canvas
