"""Masks as files have them: run lengths of COCO and of CVAT, outlines.

Shape letters: H, W of the photo, P points.
"""

from __future__ import annotations

import cv2
import numpy as np

_SIMPLER = 0.5  # pixels that an outline may differ from the mask's


def to_run_lengths(mask: np.ndarray) -> str:
    """(H, W) bool -> COCO's compressed run lengths, as its JSON has them."""
    from pycocotools import mask as coco_masks

    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def from_run_lengths(counts: str, height: int, width: int) -> np.ndarray:
    """`to_run_lengths` back: (H, W) bool."""
    from pycocotools import mask as coco_masks

    return coco_masks.decode({"size": [height, width], "counts": counts.encode()}).astype(bool)


def to_cvat_run_lengths(mask: np.ndarray) -> dict[str, str] | None:
    """(H, W) bool -> the attributes of CVAT's `mask`: run lengths, row by row from the first 0 on, in the mask's box.

    None of an empty mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    height, width = part.shape
    flat = part.ravel()
    ends = [*(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    lengths = np.diff([0, *([0] if flat[0] else []), *ends]).tolist()
    place = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": ", ".join(map(str, lengths)), **{key: str(value) for key, value in place.items()}}


def to_outline(mask: np.ndarray) -> np.ndarray | None:
    """(H, W) bool -> (P, 2) x and y in pixels, around the largest part, without its holes; None below three points."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    largest = max(outlines, key=cv2.contourArea)
    points = cv2.approxPolyDP(largest, _SIMPLER, closed=True).reshape(-1, 2)
    return points + 0.5 if len(points) > 2 else None  # OpenCV counts from the middle of a pixel
