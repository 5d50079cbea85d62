"""A photo in any of the shapes that people have, as RGB.

Shape letters: H, W of the photo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor

from ovdet.data.images import Frame, check_aspect, read_image, rgb_array
from ovdet.errors import InputError

Photo = str | Path | Image.Image | np.ndarray | Tensor | Frame


def to_rgb(image: Photo, channel_order: str = "BGR") -> np.ndarray:
    """A file, PIL image, array, tensor or frame -> (H, W, 3) uint8 RGB; see `OpenVocabPredictor.__call__`.

    Raises:
        InputError: unreadable, a file of a photo too long for its width (see `check_aspect`), an array or tensor that
            is no 8-bit color image, or nothing of these kinds.
    """
    if channel_order not in ("RGB", "BGR"):
        raise InputError(f"expected channel_order RGB or BGR, got {channel_order!r}")
    if isinstance(image, Frame):
        return image.rgb
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
            raise InputError(f"expected a tensor (3, H, W) of uint8, got shape {tuple(image.shape)} of {image.dtype}")
        return image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, (str, Path)):
        rgb = read_image(image, "RGB")
        check_aspect(*rgb.shape[:2], photo=str(image))
        return rgb
    if isinstance(image, Image.Image):
        try:
            return rgb_array(image)
        except ValueError as error:
            raise InputError(f"expected a PIL image of 8 or 16 bits, got mode {image.mode}: {error}") from error
        except OSError as error:  # PIL reads the pixels only now
            raise InputError(f"expected a readable image, got a broken one: {error}") from error
    if isinstance(image, np.ndarray):
        return _checked_array(image) if channel_order == "RGB" else _checked_array(image)[:, :, ::-1]
    hint = " (cv2.imread's answer to a file that it cannot read)" if image is None else ""
    hint = " (of several photos: detect_batch)" if isinstance(image, (list, tuple)) else hint
    raise InputError(f"expected a file, a PIL image, an array or a tensor, got {type(image).__name__}{hint}")


def resized(rgb: np.ndarray, resize: T.AugmentationList | T.Augmentation) -> np.ndarray:
    """(H, W, 3) uint8 RGB in the size that a detector wants.

    Raises:
        InputError: a photo too long for its width, see `check_aspect`.
    """
    check_aspect(*rgb.shape[:2])
    augmented = T.AugInput(rgb)
    resize(augmented)
    return augmented.image


def _checked_array(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(f"expected an array (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}")
    return image
