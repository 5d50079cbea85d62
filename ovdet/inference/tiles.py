"""Small things on large photos: detect in overlapping tiles and on the whole photo, and merge what was found.

Shape letters: H, W of the photo; C detections of all tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.photo import Photo, to_rgb
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.inference.shown import CLASS_AGNOSTIC_IOU, MAX_CONTAINMENT
from ovdet.inference.stream import OnFailure, StreamedPhoto, log_failure, photos_of, stream_photos
from ovdet.inference.vocabulary_embedder import Names
from ovdet.modeling.nms import nms_per_class
from ovdet.modeling.postprocess import is_not_contained, is_not_outdone

OVERLAP = 0.25  # of a tile's side
_SAME_OBJECT = 0.5  # IoU of boxes of one name from two tiles
_TOUCHES = 2.0  # pixels from a tile's border within which a box counts as cut off


class TiledPredictor:
    """A predictor that looks at large photos tile by tile, called like OpenVocabPredictor with one photo.

    Things larger than the overlap of two tiles are found on the whole photo alone. Detections have no masks.
    """

    def __init__(self, predictor: OpenVocabPredictor, side: int, *, overlap: float = OVERLAP) -> None:
        """
        Args:
            predictor: that looks at each tile.
            side: of a tile, in pixels; photos of no larger sides are seen as a whole alone.
            overlap: of neighboring tiles, as a share of the side.

        Raises:
            InputError: a side below 32 pixels, or an overlap outside of [0, 0.9].
        """
        if side < 32:
            raise InputError(f"expected tiles of 32 pixels at least, got {side}")
        if not 0 <= overlap <= 0.9:
            raise InputError(f"expected tiles that overlap by 0 to 0.9 of their side, got {overlap}")
        self.predictor, self.side, self.overlap = predictor, side, overlap

    @property
    def names(self) -> tuple[str, ...]:
        """See OpenVocabPredictor."""
        return self.predictor.names

    @property
    def trained_names(self) -> tuple[str, ...]:
        """See OpenVocabPredictor."""
        return self.predictor.trained_names

    @property
    def classes(self) -> ClassEmbeddings | None:
        """See OpenVocabPredictor."""
        return self.predictor.classes

    def __call__(
        self,
        image: Photo,
        names: Names | None = None,
        *,
        class_agnostic_iou: float = CLASS_AGNOSTIC_IOU,
        max_containment: float = MAX_CONTAINMENT,
        channel_order: str = "BGR",
        **options: Any,
    ) -> Detections:
        """Detect names in one photo; arguments as of OpenVocabPredictor.

        Raises:
            InputError: as there.
        """
        rgb = to_rgb(image, channel_order)
        shown = dict(class_agnostic_iou=class_agnostic_iou, max_containment=max_containment)
        whole = self.predictor(rgb, names, channel_order="RGB", **shown, **options)
        height, width = rgb.shape[:2]
        if max(height, width) <= self.side:
            return whole
        found = [whole]
        for top, left in tile_corners(height, width, self.side, self.overlap):
            tile = np.ascontiguousarray(rgb[top : top + self.side, left : left + self.side])
            of_tile = self.predictor(tile, names, channel_order="RGB", **shown, **options)
            found.append(moved(of_tile, top, left, (height, width)))
        return merged(found, class_agnostic_iou, max_containment)

    def stream(
        self,
        source: str | Path | Iterable[Photo],
        names: Names | None = None,
        *,
        channel_order: str = "BGR",
        on_failure: OnFailure = log_failure,
        **options: Any,
    ) -> Iterator[StreamedPhoto]:
        """Detect names in many photos, see OpenVocabPredictor; one photo after the other is decoded ahead.

        Raises:
            InputError: as there, or a batch size other than 1.
        """
        if (batch_size := options.pop("batch_size", 1)) != 1:
            raise InputError(f"expected a batch size of 1 with tiles, got {batch_size}")
        detect = partial(self, names=names, channel_order="RGB", **options)
        return stream_photos(
            photos_of(source),
            lambda rgb: rgb,
            lambda batch: [detect(rgb) for rgb in batch],
            readers=1,
            on_failure=on_failure,
            channel_order=channel_order,
        )


def tile_corners(height: int, width: int, side: int, overlap: float) -> Iterator[tuple[int, int]]:
    """Top and left of tiles that cover (H, W); the last of a row ends with the photo."""
    step = max(1, round(side * (1 - overlap)))
    for top in _starts(height, side, step):
        for left in _starts(width, side, step):
            yield top, left


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(length - side, 0)
    return [*range(0, last, step), last]


def moved(found: Detections, top: int, left: int, size: tuple[int, int]) -> Detections:
    """A tile's detections in pixels of the photo, without boxes that the tile's border cuts off.

    What is cut off lies whole in another tile, or on the whole photo.

    Args:
        found: of the tile.
        top: where the tile begins.
        left: likewise.
        size: (H, W) of the photo.
    """
    tile_height, tile_width = found.size
    x1, y1, x2, y2 = found.boxes.T
    inner = (left > 0, top > 0, left + tile_width < size[1], top + tile_height < size[0])
    borders = (x1 < _TOUCHES, y1 < _TOUCHES, x2 > tile_width - _TOUCHES, y2 > tile_height - _TOUCHES)
    is_cut = np.any([border & is_inner for border, is_inner in zip(borders, inner, strict=True)], axis=0)
    places = np.flatnonzero(~is_cut)
    return Detections(
        boxes=found.boxes[places] + np.float32([left, top, left, top]),
        scores=found.scores[places],
        class_ids=found.class_ids[places],
        labels=tuple(found.labels[place] for place in places),
        size=size,
    )


def merged(found: list[Detections], class_agnostic_iou: float, max_containment: float) -> Detections:
    """Detections of the same photo as one, best first: NMS within a name, then the filters of a single photo.

    Args:
        found: of the whole photo first, then of its tiles, in pixels of the photo.
        class_agnostic_iou: see `OpenVocabPredictor.__call__`.
        max_containment: likewise.
    """
    scores = torch.from_numpy(np.concatenate([each.scores for each in found]))
    order = scores.argsort(descending=True, stable=True)
    boxes = torch.from_numpy(np.concatenate([each.boxes for each in found]))[order].clamp(min=0)
    ids = torch.from_numpy(np.concatenate([each.class_ids for each in found]))[order]
    scores = scores[order]
    labels = [label for each in found for label in each.labels]
    keep = nms_per_class(boxes, scores, ids, _SAME_OBJECT, len(boxes)).sort().values
    if max_containment < 1:
        keep = keep[is_not_contained(boxes[keep], ids[keep], max_containment)]
    if class_agnostic_iou < 1:
        keep = keep[is_not_outdone(boxes[keep], scores[keep], class_agnostic_iou)]
    missed = [each.best_missed for each in found if each.best_missed is not None]
    return Detections(
        boxes=boxes[keep].numpy(),
        scores=scores[keep].numpy(),
        class_ids=ids[keep].numpy(),
        labels=tuple(labels[order[place]] for place in keep.tolist()),
        size=found[0].size,
        best_missed=max(missed, key=lambda each: each[1], default=None),
        unknown=found[0].unknown,
    )
