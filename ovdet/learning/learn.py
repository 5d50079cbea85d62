"""Learning classes from annotated photos: labeled regions, a linear probe, and ClassEmbeddings with learned rows.

Shape letters: G annotated boxes of a photo, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.data.dataset import load_coco_subsets
from ovdet.errors import InputError
from ovdet.learning.examples import check_boxes, join_regions, labeled_regions
from ovdet.learning.probe import IGNORED, fit_probe
from ovdet.modeling.detector import OpenVocabRCNN
from ovdet.text.class_names import normalize_class_name
from ovdet.text.vocabulary import Vocabulary

_FINGERPRINT_DIGITS = 16
_BACKGROUND = 12_000  # background regions in all, about; more change little and take time
_BACKGROUND_OF_A_VIEW, _LEAST_BACKGROUND = 60, 10


class AnnotatedPhoto(NamedTuple):
    """A photo whose objects of the learned classes all have boxes.

    Attributes:
        image: what the predictor takes.
        boxes: (G, 4) XYXY, pixels of the photo.
        class_ids: (G,) the learned class of each; IGNORED (-2) for objects of other classes.
    """

    image: Any
    boxes: Tensor
    class_ids: Tensor


def learn_classes(
    model: nn.Module,
    prepare: Callable[[Any], dict],
    names: Sequence[str],
    photos: Iterable[AnnotatedPhoto],
    *,
    seed: int = 0,
) -> ClassEmbeddings:
    """Classes with a learned row each; the model is left as it is.

    Args:
        model: in evaluation mode.
        prepare: a photo -> what the model takes for it.
        names: of K classes.
        photos: their examples; a photo without boxes is background.
        seed: of the background that is drawn.

    Raises:
        InputError: no detector that learned rows fit, names that are none, a name without an example, or a box that is
            none.
    """
    if not isinstance(model, OpenVocabRCNN):
        raise InputError(f"expected a trained open-vocabulary detector to learn with, got {type(model).__name__}")
    names = Vocabulary(tuple(names)).names
    photos = list(photos)
    most = min(_BACKGROUND_OF_A_VIEW, max(_BACKGROUND // (2 * max(len(photos), 1)), _LEAST_BACKGROUND))
    generator = torch.Generator().manual_seed(seed)
    parts, counts = [], torch.zeros(len(names), dtype=torch.long)
    for photo in photos:
        inputs = prepare(photo.image)
        boxes = check_boxes(photo.boxes, inputs["height"], inputs["width"], _told(photo.image))
        parts.append(labeled_regions(model, inputs, boxes, photo.class_ids, max_background=most, generator=generator))
        counts += torch.bincount(photo.class_ids[photo.class_ids >= 0], minlength=len(names))
    if not photos:
        raise InputError("expected photos to learn from, got none")
    without = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    if without:
        raise InputError(f"expected a box of each name to learn from, got none of {', '.join(without[:5])}")
    regions = join_regions(parts)
    box_width = model.roi_heads.box_predictor.in_features
    blocks = [width for width in (box_width, regions.features.shape[1] - box_width) if width]
    weights, biases = fit_probe(*regions, len(names), blocks=blocks)
    rows = LearnedRows(weights, biases, torch.arange(len(names)), detector_fingerprint(model))
    width = model.roi_heads.box_predictor.classifier.width
    no_ids, no_base = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    return ClassEmbeddings(torch.zeros(0, width), no_ids, names, no_base, rows)


def read_examples(annotations: str | Path, images: str | Path, names: Sequence[str] = ()) -> tuple[list[str], list]:
    """Names and AnnotatedPhotos of a COCO-format json.

    Args:
        annotations: the json.
        images: the folder that its photos' names are relative to.
        names: the classes to learn, spelled as the json's or nearly so; none takes all that have a box.

    Raises:
        InputError: as of `load_coco_subsets`, or the json has no such class.
    """
    data = load_coco_subsets(annotations, images)
    known = {normalize_class_name(name): index for index, name in enumerate(data.thing_classes)}
    if odd := [name for name in names if normalize_class_name(name) not in known]:
        raise InputError(f"expected a class of {annotations} ({', '.join(data.thing_classes[:8])}), got {odd[0]!r}")
    used = {each["category_id"] for record in data.dicts for each in record["annotations"]}
    chosen = [known[normalize_class_name(name)] for name in names] or sorted(used)
    place = {class_id: position for position, class_id in enumerate(chosen)}
    photos = []
    for record in data.dicts:
        boxes = torch.tensor([each["bbox"] for each in record["annotations"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        ids = [place.get(each["category_id"], IGNORED) for each in record["annotations"]]
        photos.append(AnnotatedPhoto(record["file_name"], boxes, torch.tensor(ids, dtype=torch.long)))
    return [*names] or [data.thing_classes[index] for index in chosen], photos


def read_negatives(annotations: str | Path, images: str | Path, names: Sequence[str]) -> list[AnnotatedPhoto]:
    """The photos of a COCO-format json that show none of the names, as background.

    Raises:
        InputError: as of `load_coco_subsets`.
    """
    data = load_coco_subsets(annotations, images, filter_empty=False)
    asked = {normalize_class_name(name) for name in names}
    is_asked = [normalize_class_name(name) in asked for name in data.thing_classes]
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    records = [each for each in data.dicts if not any(is_asked[a["category_id"]] for a in each["annotations"])]
    return [AnnotatedPhoto(record["file_name"], *nothing) for record in records]


def detector_fingerprint(model: nn.Module) -> str:
    """16 hex digits of a detector's weights in half precision, which a model folder keeps.

    A training run and the model folder that it was packed as have the same.
    """
    total = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        value = value.half() if value.is_floating_point() else value
        total.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:_FINGERPRINT_DIGITS]


def _told(image: Any) -> str:
    return str(image) if isinstance(image, (str, Path)) else "the photo"
