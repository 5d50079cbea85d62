"""Photos whose classes are known: a folder by class, or the annotated boxes of a COCO-format json.

Shape letters: R objects of a photo, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ovdet.data.dataset import load_coco_subsets
from ovdet.data.images import class_folders, read_image
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.text.vocabulary import Vocabulary


class LabeledPhoto(NamedTuple):
    """A photo and the classes of its objects.

    Attributes:
        file: of the photo.
        labels: (R,) int64, the class of each object.
        boxes: (R, 4) float32 XYXY, pixels of the photo; None for a photo that is its one object.
        size: (height, width) that the boxes are for; None where there are none.
    """

    file: Path
    labels: Tensor
    boxes: Tensor | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class LabeledSet:
    """Photos with objects of K known classes.

    Attributes:
        title: what tables call it.
        names: of the K classes.
        photos: in order.
        novel: those of the names that a split calls novel.
        has_boxes: whether the objects are boxes rather than whole photos.
    """

    title: str
    names: tuple[str, ...]
    photos: tuple[LabeledPhoto, ...]
    novel: frozenset[str] = frozenset()
    has_boxes: bool = False

    @property
    def labels(self) -> Tensor:
        """The class of every object, photo by photo; int64."""
        return torch.cat([torch.zeros(0, dtype=torch.long), *(photo.labels for photo in self.photos)])

    @property
    def photo_of_object(self) -> Tensor:
        """The number of every object's photo; int64."""
        counts = torch.tensor([len(photo.labels) for photo in self.photos], dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    def take(self, objects: Sequence[int]) -> LabeledSet:
        """The set with these of its objects alone, in its own order; photos without one are left out."""
        is_taken = torch.zeros(len(self.labels), dtype=torch.bool)
        is_taken[torch.as_tensor(objects, dtype=torch.long)] = True
        parts = is_taken.split([len(photo.labels) for photo in self.photos])
        photos = [
            photo._replace(labels=photo.labels[part], boxes=None if photo.boxes is None else photo.boxes[part])
            for photo, part in zip(self.photos, parts, strict=True)
            if part.any()
        ]
        return replace(self, photos=tuple(photos))


def read_class_folders(folder: str | Path) -> LabeledSet:
    """Photos in a sub-folder for each class, whose name is the class's.

    Raises:
        InputError: as of `class_folders`.
    """
    folders = class_folders(folder)
    names = Vocabulary(tuple(folders)).names
    files = [(file, label) for label, of_class in enumerate(folders.values()) for file in of_class]
    photos = tuple(LabeledPhoto(file, torch.tensor([label])) for file, label in files)
    return LabeledSet(Path(folder).resolve().name, names, photos)


def read_coco_boxes(annotations: str | Path, images: str | Path, split: str | Path | None = None) -> LabeledSet:
    """The annotated boxes of a COCO-format json; crowds are left out.

    Args:
        annotations: the json.
        images: the folder of its photos.
        split: a split json, which says what is novel and leaves its ignored classes out; None takes all classes.

    Raises:
        InputError: as of `load_coco_subsets`.
    """
    data = load_coco_subsets(annotations, images, split, ("base", "novel"), is_train=True)
    photos = []
    for record in data.dicts:
        boxes = torch.tensor([annotation["bbox"] for annotation in record["annotations"]])  # XYWH
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([annotation["category_id"] for annotation in record["annotations"]])
        photos.append(LabeledPhoto(Path(record["file_name"]), labels, boxes, (record["height"], record["width"])))
    novel = frozenset(data.novel_classes)
    return LabeledSet(Path(annotations).stem, tuple(data.thing_classes), tuple(photos), novel, has_boxes=True)


def read_photo(photo: LabeledPhoto) -> Tensor:
    """-> (3, H, W) uint8 RGB, upright.

    Raises:
        InputError: it cannot be read, or has another size than its boxes are for.
    """
    pixels = torch.tensor(read_image(photo.file)).permute(2, 0, 1)
    actual = tuple(pixels.shape[1:])
    if photo.size not in (None, actual):
        raise InputError(f"expected {photo.file} of (height, width) {photo.size} as annotated, got {actual}")
    return pixels


def draw_objects(data: LabeledSet, number: int | None = None, *, per_class: int | None = None) -> LabeledSet:
    """A random sample of objects, the same each time.

    Args:
        data: any.
        number: of objects in all; None takes all.
        per_class: at most so many of each class; None takes all.

    Raises:
        InputError: less than one is asked for.
    """
    if number is not None and number < 1:
        raise InputError(f"expected at least 1 object, got {number}")
    if per_class is not None and per_class < 1:
        raise InputError(f"expected at least 1 object of a class, got {per_class}")
    labels = data.labels
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    if per_class is not None:
        drawn = drawn[_place_in_group(labels[drawn]) < per_class]
    return data if number is None and per_class is None else data.take(drawn[:number].tolist())


def _place_in_group(groups: Tensor) -> Tensor:
    """The number of entries of the same group before each; (N,) -> (N,) int64."""
    seen: Counter[int] = Counter()
    places = []
    for group in groups.tolist():
        places.append(seen[group])
        seen[group] += 1
    return torch.tensor(places, dtype=torch.long)


def split_photos(data: LabeledSet, shares: Sequence[float], seed: int = 0) -> list[Tensor]:
    """Deal photos into parts, class by class, so that no photo has objects in two of them.

    A photo is dealt with its rarest class. Of the n photos of a class each part gets about its share and, while there
    are enough, one at least; later parts are served first.

    Args:
        data: any.
        shares: of the parts; they add up to 1.
        seed: of the shuffling.

    Returns:
        For each part the numbers of its objects; int64.
    """
    photos_with = Counter(label for photo in data.photos for label in set(photo.labels.tolist()))
    keys = [min(photo.labels.tolist(), key=lambda label: (photos_with[label], label)) for photo in data.photos]
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed)).tolist()
    by_class: dict[int, list[int]] = {}
    for photo in order:
        by_class.setdefault(keys[photo], []).append(photo)
    part_of_photo = torch.zeros(len(keys), dtype=torch.long)
    for members in by_class.values():
        left = list(members)
        for part in range(len(shares) - 1, 0, -1):
            count = min(max(round(shares[part] * len(members)), 1), max(len(left) - part, 0))
            for photo in left[:count]:
                part_of_photo[photo] = part
            left = left[count:]
    part_of_object = part_of_photo[data.photo_of_object]
    return [(part_of_object == part).nonzero().squeeze(1) for part in range(len(shares))]


def with_classes(data: LabeledSet, names: Sequence[str]) -> tuple[LabeledSet, Tensor]:
    """The objects of these classes alone, numbered as the names are; which names are the same is text/class_names.py's.

    Returns:
        The set, and which of the given one's objects it has; int64.

    Raises:
        InputError: two of the names read alike, or there are none.
    """
    names = Vocabulary(tuple(names)).names
    place = {normalize_class_name(name): number for number, name in enumerate(names)}
    number = torch.tensor([place.get(normalize_class_name(name), -1) for name in data.names])
    objects = (number[data.labels] >= 0).nonzero().squeeze(1)
    taken = data.take(objects.tolist())
    photos = tuple(photo._replace(labels=number[photo.labels]) for photo in taken.photos)
    novel = {normalize_class_name(name) for name in data.novel}
    is_novel = frozenset(name for name in names if normalize_class_name(name) in novel)
    return replace(data, names=names, photos=photos, novel=is_novel), objects
