"""Masks as files have them: run lengths of COCO, of CVAT and of Label Studio.

Shape letters: H, W of the photo.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_VALUE_BITS = 8  # of Label Studio's brush
_LENGTH_BITS = 16  # of its runs


def to_run_lengths(mask: np.ndarray) -> str:
    """(H, W) bool -> COCO's compressed run lengths, as its JSON has them."""
    from pycocotools import mask as coco_masks

    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def from_run_lengths(counts: str, height: int, width: int) -> np.ndarray:
    """`to_run_lengths` back: (H, W) bool."""
    from pycocotools import mask as coco_masks

    return coco_masks.decode(to_segmentation(counts, height, width)).astype(bool)


def to_segmentation(counts: str, height: int, width: int) -> dict[str, Any]:
    """The `segmentation` of a COCO json: run lengths and the photo's size."""
    return {"size": [height, width], "counts": counts}


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
    lengths, values = _runs(part)
    place = {"left": left, "top": top, "width": width, "height": height}
    zeros_first = [0, *lengths] if values[0] else lengths
    return {"rle": ", ".join(map(str, zeros_first)), **{key: str(value) for key, value in place.items()}}


def to_brush_run_lengths(mask: np.ndarray) -> list[int] | None:
    """(H, W) bool -> the bytes of Label Studio's `rle`: runs of an RGBA image that is 255 where the mask is, else 0.

    Bits, the highest first: 32 count the image's values, 5 and four times 4 say the widths of a value and of a run's
    length, each less one; then a run each: 1, which of the four widths, the length less one, the value. None of an
    empty mask.
    """
    if not mask.any():
        return None
    lengths, values = _runs(mask)
    bits = [f"{4 * mask.size:032b}{_VALUE_BITS - 1:05b}", 4 * f"{_LENGTH_BITS - 1:04b}"]
    for length, value in zip((4 * lengths).tolist(), values.tolist(), strict=True):
        for start in range(0, length, 1 << _LENGTH_BITS):
            part = min(length - start, 1 << _LENGTH_BITS)
            bits.append(f"111{part - 1:0{_LENGTH_BITS}b}{255 * value:0{_VALUE_BITS}b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row by row: how long each run is, and whether it is the mask's."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    return np.diff(starts, append=flat.size), flat[starts]
