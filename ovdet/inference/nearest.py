"""The regions of a photo nearest to names in the embedding space, whether or not they would be detected.

Shape letters: R regions, S rows, K classes, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.inference.embedded_photo import EmbeddedPhoto
from ovdet.modeling.scoring import Regions, max_over_rows

_IOU = 0.5  # of regions that are taken for the same


def cosines(regions: Regions, classes: ClassEmbeddings) -> Tensor:
    """(R, K) of regions and classes: the mean over a region's embeddings (of both branches, of the stages of a
    cascade), the best of a class's rows.
    """
    rows = classes.embeddings.to(regions.text)
    means = [part.unflatten(1, (-1, classes.width)).mean(1) for part in (regions.text, regions.image)]
    return max_over_rows(sum(means) / 2 @ rows.t(), classes)


@torch.inference_mode()
def nearest_regions(photo: EmbeddedPhoto, classes: ClassEmbeddings, number: int = 5) -> list[dict[str, Any]]:
    """The regions nearest to each class, as plain values: {"label", "cosine", "box": [x1, y1, x2, y2]}.

    Scores, objectness, thresholds and what else competes count for nothing here. Boxes are pixels of the photo; of
    those that overlap by more than 0.5 the nearest one stands for the others.

    Args:
        photo: of `OpenVocabPredictor.embed_photo`.
        classes: with an embedding each; of `OpenVocabPredictor.embed`.
        number: of regions for each class, best first.

    Raises:
        InputError: a class has no embedding, such as learned ones.
    """
    if classes.learned is not None:
        raise InputError("expected names to look for the regions near them, got learned classes")
    regions = photo.seen.regions.finite()
    (height, width), (seen_height, seen_width) = photo.size, photo.seen.image_size
    scale = regions.boxes.new_tensor([width / seen_width, height / seen_height]).repeat(2)
    boxes = clip_boxes_to_image(regions.boxes.float() * scale, photo.size)
    found = []
    for name, near in zip(classes.names, cosines(regions, classes).float().t(), strict=True):
        best = nms(boxes, near, _IOU)[:number]
        rows = zip(near[best].tolist(), boxes[best].tolist(), strict=True)
        found += [
            {"label": name, "cosine": round(cosine, 4), "box": [round(x, 2) for x in box]} for cosine, box in rows
        ]
    return found
