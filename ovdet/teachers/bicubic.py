"""Cropping and bicubic resizing of image regions, equal to Pillow's.

On CPUs torch's own resize does it, one region after the other. On CUDA devices one kernel cuts all of them, where
Triton and the C compiler that it needs are there.

Shape letters: N photos, R regions, H x W photos, h x w crops.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.errors import error_summary

logger = logging.getLogger(__name__)


def resize_regions(photos: Tensor, edges: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop and resize regions as Pillow's `image.crop(box).resize(size, BICUBIC)` does.

    The cubic of Keys (1981) with a = -0.5, widened where it shrinks (antialiasing), rounded to 256 levels after each of
    the two passes, rows first.

    Args:
        photos: (N, 3, H, W) in [0, 255], uint8 or float.
        edges: (R, 5) int64 on the CPU: the photo's number, then XYXY in its pixels, inside of it and not empty.
        size: (h, w).

    Returns:
        (R, 3, h, w) uint8, channels last in memory, on the photos' device.
    """
    together = _kernel() if photos.device.type == "cuda" else None
    if together is not None:
        return together(photos, edges, size)
    crops = torch.empty(
        len(edges), 3, *size, dtype=torch.uint8, device=photos.device, memory_format=torch.channels_last
    )
    resize = _resize_bytes if photos.dtype == torch.uint8 and photos.device.type == "cpu" else _resize_floats
    for crop, (number, left, top, right, bottom) in zip(crops, edges.tolist(), strict=True):
        crop.copy_(resize(photos[number, None, :, top:bottom, left:right], size)[0])
    return crops


@functools.cache
def _kernel() -> Callable[[Tensor, Tensor, tuple[int, int]], Tensor] | None:
    """The Triton kernel, which resizes all regions in one launch; None where it cannot be built."""
    try:
        from ovdet.teachers.bicubic_kernel import resize_regions_together

        pixel = torch.zeros(1, 3, 1, 1, dtype=torch.uint8, device="cuda")
        resize_regions_together(pixel, torch.tensor([[0, 0, 0, 1, 1]]), (1, 1))
    except Exception as error:  # no Triton, no C compiler for it, one that fails: there is no list of what may come
        logger.warning("crops are cut one by one, which is slower: %s", error_summary(error))
        return None
    return resize_regions_together


def _resize_bytes(region: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 3, n, m) uint8 -> (1, 3, h, w) uint8."""
    return F.interpolate(region, size, mode="bicubic", antialias=True)


def _resize_floats(region: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 3, n, m) -> (1, 3, h, w) float32 of whole numbers."""
    for step in ((region.shape[2], size[1]), size):
        region = F.interpolate(region.float(), step, mode="bicubic", antialias=True).clamp_(0, 255).round_()
    return region
