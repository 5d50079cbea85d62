"""Pictures of detections.

Shape letters: H, W of the photo; R detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.colors import hsv_to_rgb

_FIRST_HUE, _GOLDEN = 0.45, 0.618034  # steps of the golden ratio never come near one another, and few photos are cyan
SMALL = 800  # pixels; smaller photos are enlarged so that the labels can be read


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: np.ndarray,
    masks: np.ndarray | None = None,
) -> np.ndarray:
    """Boxes with names and scores, one colour a name.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (R, 4) XYXY in its pixels.
        labels: R names.
        scores: (R,).
        masks: (R, H, W) bool, or None.

    Returns:
        (H', W', 3) uint8 RGB; photos with a longest side under 800 pixels are enlarged to it.
    """
    scale = max(SMALL / max(image.shape[:2]), 1.0)
    names = sorted(set(labels))
    hues = [(_FIRST_HUE + names.index(label) * _GOLDEN) % 1 for label in labels]
    colours = [hsv_to_rgb((hue, 0.9, 1.0)) for hue in hues]
    captions = [f"{label} {score:.2f}".replace("$", r"\$") for label, score in zip(labels, scores, strict=True)]
    painter = Visualizer(image, scale=scale)
    if len(boxes):
        painter.overlay_instances(boxes=boxes, labels=captions, masks=masks, assigned_colors=colours, alpha=0.4)
    return painter.get_output().get_image()
