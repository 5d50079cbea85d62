"""Pictures of detections.

Shape letters: H, W of the photo; R detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.colors import hsv_to_rgb

_FIRST_HUE, _GOLDEN = 0.45, 0.618034  # steps of the golden ratio never come near one another, and few photos are cyan
SMALL = 800  # pixels; smaller photos are enlarged so that the labels can be read
LARGE = 2560  # larger photos are made smaller: a picture of a phone's 48 million pixels would take 7 GB to draw
_MARGIN = 1.5  # pixels of the picture around a caption: its black background
_BOLD = 1.6  # times detectron2's captions and lines: legible where a picture is shown small


class _BoldVisualizer(Visualizer):
    def __init__(self, image: np.ndarray, scale: float) -> None:
        super().__init__(image, scale=scale)
        self._default_font_size *= _BOLD  # lines are as thick as a quarter of it

    def draw_text(self, text: str, position: tuple[float, float], **options) -> VisImage:
        """As detectron2's, moved to where the whole caption is in the picture."""
        output = super().draw_text(text, position, **options)
        caption = output.ax.texts[-1]
        box = caption.get_window_extent().padded(_MARGIN).transformed(output.ax.transData.inverted())
        left, right, top, bottom = box.xmin, box.xmax, box.ymin, box.ymax  # in pixels of the photo, from its upper edge
        x, y = caption.get_position()
        x += max(-left, 0) - max(right - output.width, 0)
        y += max(-top, 0) - max(bottom - output.height, 0)
        caption.set_position((x, y))
        return output


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray,
    masks: np.ndarray | None = None,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Boxes with names and scores, one color a name.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (R, 4) XYXY in its pixels.
        labels: R names.
        scores: (R,).
        masks: (R, H, W) bool, or None.
        names: all that was asked for, so that a name has the same color in every picture; () for the labels alone.

    Returns:
        (H', W', 3) uint8 RGB; photos with a longest side under 800 pixels are enlarged to it, over 2560 made smaller.
    """
    image, boxes, masks = _not_larger(image, boxes, masks)
    scale = max(SMALL / max(image.shape[:2]), 1.0)
    order = {name: place for place, name in enumerate(names or sorted(set(labels)))}
    hues = [(_FIRST_HUE + order[label] * _GOLDEN) % 1 for label in labels]
    colors = [hsv_to_rgb((hue, 0.9, 1.0)) for hue in hues]
    captions = [f"{label} {score:.2f}".replace("$", r"\$") for label, score in zip(labels, scores, strict=True)]
    painter = _BoldVisualizer(image, scale)
    if len(boxes):
        painter.overlay_instances(boxes=boxes, labels=captions, masks=masks, assigned_colors=colors, alpha=0.4)
    return painter.get_output().get_image()


def _not_larger(
    image: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    height, width = image.shape[:2]
    factor = LARGE / max(height, width)
    if factor >= 1:
        return image, boxes, masks
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    scale = np.float32([size[0] / width, size[1] / height] * 2)
    if masks is not None and len(masks):
        masks = np.stack([cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in masks])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), boxes * scale, masks
