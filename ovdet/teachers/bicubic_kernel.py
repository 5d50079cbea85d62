"""A Triton kernel that crops and resizes all regions in one launch; Triton comes with torch for CUDA.

A program makes ROWS x COLUMNS pixels of one crop. It goes down the rows of the photo that these see, resamples each
along x, and adds it to the output rows that it weighs in. A pixel k has its center at k + 0.5, as in Pillow's
Resample.c.

Shape letters: as in bicubic.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _WARPS = 8, 32, 1  # the fastest of 18 on an H200


def resize_regions_together(photos: Tensor, edges: Tensor, size: tuple[int, int]) -> Tensor:
    """See `resize_regions`; the photos are on a CUDA device."""
    photos = photos.contiguous()
    crops = torch.empty(
        len(edges), 3, *size, dtype=torch.uint8, device=photos.device, memory_format=torch.channels_last
    )
    if len(edges):
        grid = (len(edges), triton.cdiv(size[0], _ROWS), triton.cdiv(size[1], _COLUMNS))
        edges = edges.int().to(photos.device, non_blocking=True)
        with torch.cuda.device_of(photos):
            _resize[grid](
                *(photos, edges, crops, *photos.shape[2:], *size), ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=_WARPS
            )
    return crops


@triton.jit
def _cubic(distance):
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return tl.where(distance < 1, near, tl.where(distance < 2, far, 0.0))


@triton.jit
def _level(value):
    return tl.floor(tl.minimum(tl.maximum(value, 0.0), 255.0) + 0.5)


@triton.jit
def _resize(
    photos, edges, crops, height, width, crop_height, crop_width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    crop = tl.program_id(0)
    number = tl.load(edges + crop * 5)
    left, top = tl.load(edges + crop * 5 + 1), tl.load(edges + crop * 5 + 2)
    right, bottom = tl.load(edges + crop * 5 + 3), tl.load(edges + crop * 5 + 4)
    x_scale, y_scale = (right - left) / crop_width, (bottom - top) / crop_height
    x_reach, y_reach = tl.maximum(x_scale, 1.0), tl.maximum(y_scale, 1.0)
    first_row = tl.program_id(1) * ROWS
    rows = first_row + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    x_center, y_center = (columns + 0.5) * x_scale, (rows + 0.5) * y_scale
    x_first = left + tl.floor(x_center - 2 * x_reach).to(tl.int32)
    num_taps = tl.ceil(4 * x_reach).to(tl.int32) + 1
    y = top + tl.maximum(tl.floor((first_row + 0.5) * y_scale - 2 * y_reach).to(tl.int32), 0)
    y_end = tl.minimum(top + tl.ceil((first_row + ROWS - 0.5) * y_scale + 2 * y_reach).to(tl.int32), bottom)
    plane = height * width
    photo = photos + number.to(tl.int64) * 3 * plane
    red = tl.zeros((ROWS, COLUMNS), tl.float32)
    green = tl.zeros((ROWS, COLUMNS), tl.float32)
    blue = tl.zeros((ROWS, COLUMNS), tl.float32)
    y_total = tl.zeros((ROWS,), tl.float32)
    while y < y_end:
        r = tl.zeros((COLUMNS,), tl.float32)
        g = tl.zeros((COLUMNS,), tl.float32)
        b = tl.zeros((COLUMNS,), tl.float32)
        x_total = tl.zeros((COLUMNS,), tl.float32)
        tap = 0
        while tap < num_taps:
            x = x_first + tap
            inside = (x >= left) & (x < right)
            weight = tl.where(inside, _cubic(tl.abs(x - left + 0.5 - x_center) / x_reach), 0.0)
            pixel = photo + y * width + x
            r += weight * tl.load(pixel, mask=inside, other=0).to(tl.float32)
            g += weight * tl.load(pixel + plane, mask=inside, other=0).to(tl.float32)
            b += weight * tl.load(pixel + 2 * plane, mask=inside, other=0).to(tl.float32)
            x_total += weight
            tap += 1
        weight = _cubic(tl.abs(y - top + 0.5 - y_center) / y_reach)
        red += weight[:, None] * _level(r / x_total)[None, :]
        green += weight[:, None] * _level(g / x_total)[None, :]
        blue += weight[:, None] * _level(b / x_total)[None, :]
        y_total += weight
        y += 1
    here = (rows < crop_height)[:, None] & (columns < crop_width)[None, :]
    pixel = crops + ((crop.to(tl.int64) * crop_height + rows[:, None]) * crop_width + columns[None, :]) * 3
    tl.store(pixel, _level(red / y_total[:, None]).to(tl.uint8), mask=here)
    tl.store(pixel + 1, _level(green / y_total[:, None]).to(tl.uint8), mask=here)
    tl.store(pixel + 2, _level(blue / y_total[:, None]).to(tl.uint8), mask=here)
