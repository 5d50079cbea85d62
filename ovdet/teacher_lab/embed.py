"""Embeddings of labeled objects by a teacher: whole photos, crops of boxes, RoI features.

Shape letters: R objects, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.progress import track
from ovdet.teacher_lab.labeled import LabeledPhoto, LabeledSet, read_photo
from ovdet.teachers.base import Teacher
from ovdet.teachers.conse import ConseTeacher
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.roi_features import RoIFeatureEmbedder

_PHOTOS_AT_ONCE = 8

WHOLE, CROPS, ROI_FEATURES, BOTH = "photos", "crops", "RoI features", "both"  # ways to embed, as tables name them

EmbedBatch = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]  # photos and their boxes
Views = Mapping[str, EmbedBatch]


def crop_view(teacher: Teacher, data: LabeledSet) -> Views:
    """Boxes by their crops at 1x and 1.5x, as ViLD distills them; whole photos by their central part, as CLIP does."""
    if data.has_boxes:
        return {CROPS: RegionEmbedder(teacher).embed_batch}
    return {WHOLE: RegionEmbedder(teacher, scales=(1.0,)).embed_batch}


def all_views(teacher: Teacher, data: LabeledSet) -> Views:
    """`crop_view`, and for the boxes of the embedded teacher RoI features of the whole image."""
    views = dict(crop_view(teacher, data))
    if data.has_boxes and isinstance(teacher, ConseTeacher):
        roi_features = RoIFeatureEmbedder(device=teacher.device)
        views[ROI_FEATURES] = lambda photos, boxes: list(map(roi_features, photos, boxes))
    return views


def embed_objects(data: LabeledSet, views: Views, size: tuple[int, int]) -> dict[str, Tensor]:
    """Embeddings of a set's objects, photo by photo.

    Args:
        data: of R objects.
        views: ways to embed regions; of several their sum is added as BOTH.
        size: (height, width) of the teacher's input, whose form the central part of a whole photo has.

    Returns:
        By way (R, D) float32, unit norm, on the CPU; the most accurate last.

    Raises:
        InputError: a photo cannot be read.
    """
    parts: dict[str, list[Tensor]] = {view: [] for view in views}
    for start in track(
        range(0, len(data.photos), _PHOTOS_AT_ONCE),
        f"{len(data.labels)} objects in {len(data.photos)} photos",
        transient=True,
    ):
        some = data.photos[start : start + _PHOTOS_AT_ONCE]
        pixels = [read_photo(photo) for photo in some]
        boxes = [_boxes(photo, image, size) for photo, image in zip(some, pixels, strict=True)]
        for view, embed in views.items():
            parts[view] += [embeddings.cpu() for embeddings in embed(pixels, boxes)]
    embedded = {view: torch.cat(of_view) for view, of_view in parts.items()}
    if len(embedded) > 1:
        embedded[BOTH] = F.normalize(sum(embedded.values()), dim=-1)
    return embedded


def _boxes(photo: LabeledPhoto, image: Tensor, size: tuple[int, int]) -> Tensor:
    return central_box(image.shape[1:], size)[None] if photo.boxes is None else photo.boxes


def central_box(photo_size: Sequence[int], size: Sequence[int]) -> Tensor:
    """The largest central box of a form: what "resize the shorter side, then crop the center" shows.

    Args:
        photo_size: (height, width).
        size: (height, width) of the form.

    Returns:
        (4,) float32 XYXY, pixels of the photo.
    """
    height, width = photo_size
    scale = min(height / size[0], width / size[1])
    box_height, box_width = scale * size[0], scale * size[1]
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return torch.tensor([left, top, left + box_width, top + box_height])
