"""Zero-shot accuracy of a teacher on the annotated boxes of a data set: an upper bound for distillation.

Each box is embedded by its crops (1x and 1.5x); `conse` also by RoI features of the whole image, and by both together.

Shape letters: R objects, K classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from torch import Tensor

from ovdet.data.dataset import load_coco_subsets
from ovdet.data.images import read_image
from ovdet.errors import InputError
from ovdet.teachers.base import Teacher
from ovdet.teachers.conse import ConseTeacher
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.roi_features import RoIFeatureEmbedder
from ovdet.text.embeddings import embed_vocabulary
from ovdet.text.prompts import resolve_templates
from ovdet.text.vocabulary import Vocabulary

_PHOTOS_AT_ONCE = 8

CROPS, ROI_FEATURES, BOTH = "crops", "RoI features", "both"  # ways to embed an object, as tables name them

_EmbedBatch = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]  # photos and their boxes


@dataclass(frozen=True)
class ClassAccuracy:
    """Top-1 and top-5 accuracy of one class, in [0, 1]."""

    name: str
    subset: str  # "base" or "novel"
    objects: int
    top1: float | None  # None without objects
    top5: float | None


@dataclass(frozen=True)
class ZeroShotReport:
    """Accuracies of a teacher with one way to embed objects, in [0, 1]."""

    view: str
    teacher: str
    fingerprint: str
    templates: tuple[str, ...]
    classes: tuple[ClassAccuracy, ...]

    def mean(self, which: str, subset: str = "all") -> float | None:
        """Mean of "top1" or "top5" over the classes of a subset ("base", "novel", "all") that have objects."""
        values = [getattr(each, which) for each in self.of(subset) if each.objects]
        return sum(values) / len(values) if values else None

    def of(self, subset: str) -> tuple[ClassAccuracy, ...]:
        """The classes of "base", "novel" or "all"."""
        return tuple(each for each in self.classes if subset in ("all", each.subset))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the means by subset, and each class."""
        means = {
            subset: {
                "top1": self.mean("top1", subset),
                "top5": self.mean("top5", subset),
                "classes": sum(each.objects > 0 for each in self.of(subset)),
                "objects": sum(each.objects for each in self.of(subset)),
            }
            for subset in ("base", "novel", "all")
        }
        return {
            "view": self.view,
            "teacher": self.teacher,
            "fingerprint": self.fingerprint,
            "templates": list(self.templates),
            **means,
            "per_class": [asdict(each) for each in self.classes],
        }


def rank_of_truth(similarities: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class: similarities (R, K), labels (R,) -> (R,) int64, 0 is best; after others in a tie."""
    true = similarities.gather(1, labels[:, None])
    return (similarities >= true).sum(1) - 1


def inspect_teacher(
    teacher: Teacher,
    annotations: str | Path,
    images: str | Path,
    *,
    split: str | Path | None = None,
    templates: str | Sequence[str] = "a",
    max_objects: int | None = None,
) -> tuple[ZeroShotReport, ...]:
    """Classify each annotated box by its nearest class embedding, and report accuracies.

    All base and novel classes compete. Crowds are left out.

    Args:
        teacher: on whose device this runs.
        annotations: a COCO-format json.
        images: the folder of its photos.
        split: a split json; None makes every class a base class.
        templates: see text/prompts.py.
        max_objects: as many, drawn with a fixed seed; None for all.

    Returns:
        A report for each way to embed objects: crops first, the most accurate last.

    Raises:
        InputError: a file is missing or does not fit, or no object would be left.
    """
    if max_objects is not None and max_objects < 1:
        raise InputError(f"expected at least 1 object, got {max_objects}")
    # class embeddings
    prompts = resolve_templates(templates)
    data = load_coco_subsets(annotations, images, split, ("base", "novel"), is_train=True)
    names, novel = data.thing_classes, set(data.novel_classes)
    class_embeddings = embed_vocabulary(Vocabulary(names), teacher, prompts).matrix
    # ranks of the true classes
    objects = _draw([(record, a) for record in data.dicts for a in record["annotations"]], max_objects)
    ranks: dict[str, list[Tensor]] = {}
    for by_view, labels in _embed_objects(_views(teacher), objects):
        for view, embeddings in by_view.items():
            rank = rank_of_truth(embeddings @ class_embeddings.T, labels.to(embeddings.device))
            ranks.setdefault(view, []).append(rank.cpu())
    labels = torch.tensor([annotation["category_id"] for _, annotation in objects])

    # accuracies by class
    def report(view: str, of_all: Tensor) -> ZeroShotReport:
        classes = tuple(
            _accuracy(name, "novel" if name in novel else "base", of_all[labels == index])
            for index, name in enumerate(names)
        )
        return ZeroShotReport(view, teacher.name, teacher.fingerprint, prompts, classes)

    return tuple(report(view, torch.cat(parts)) for view, parts in ranks.items())


def _views(teacher: Teacher) -> dict[str, _EmbedBatch]:
    views: dict[str, _EmbedBatch] = {CROPS: RegionEmbedder(teacher).embed_batch}
    if isinstance(teacher, ConseTeacher):
        roi_features = RoIFeatureEmbedder(device=teacher.device)
        views[ROI_FEATURES] = lambda photos, boxes: list(map(roi_features, photos, boxes))
    return views


def _draw(objects: list, number: int | None) -> list:
    """A random sample in the given order, the same each time; None takes all."""
    if number is None or number >= len(objects):
        return objects
    drawn = torch.randperm(len(objects), generator=torch.Generator().manual_seed(0))[:number]
    return [objects[index] for index in drawn.sort().values.tolist()]


def _embed_objects(
    views: Mapping[str, _EmbedBatch], objects: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """(photo's record, annotation) pairs, photo by photo -> embeddings (R, D) by view and labels (R,) of some."""
    by_photo: dict[Any, tuple[Mapping[str, Any], list]] = {}  # by id: two may name one file
    for record, annotation in objects:
        by_photo.setdefault(record["image_id"], (record, []))[1].append(annotation)
    photos = list(by_photo.values())
    starts = range(0, len(photos), _PHOTOS_AT_ONCE)
    for start in track(starts, f"{len(objects)} objects in {len(photos)} photos", transient=True):
        some = photos[start : start + _PHOTOS_AT_ONCE]
        boxes = [torch.tensor([annotation["bbox"] for annotation in of_photo]) for _, of_photo in some]  # XYWH
        corners = [torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1) for box in boxes]
        pixels = [_read_photo(record) for record, _ in some]
        by_view = {view: torch.cat(list(embed(pixels, corners))) for view, embed in views.items()}
        if len(views) > 1:
            by_view[BOTH] = F.normalize(sum(by_view.values()), dim=-1)
        labels = [annotation["category_id"] for _, of_photo in some for annotation in of_photo]
        yield by_view, torch.tensor(labels)


def _read_photo(record: Mapping[str, Any]) -> Tensor:
    """-> (3, H, W) uint8 RGB, of the size that its boxes are for."""
    photo = torch.tensor(read_image(record["file_name"])).permute(2, 0, 1)
    expected, actual = (record["height"], record["width"]), tuple(photo.shape[1:])
    if expected != actual:
        raise InputError(f"expected {record['file_name']} of (height, width) {expected} as annotated, got {actual}")
    return photo


def _accuracy(name: str, subset: str, ranks: Tensor) -> ClassAccuracy:
    if not len(ranks):
        return ClassAccuracy(name, subset, 0, None, None)
    top1, top5 = (float((ranks < best).float().mean()) for best in (1, 5))
    return ClassAccuracy(name, subset, len(ranks), top1, top5)


def print_reports(reports: Sequence[ZeroShotReport]) -> None:
    """Print a table of classes, best first, and of means: top-1 of each way to embed objects, and top-5 of the last."""
    best = reports[-1]
    columns = [(f"{report.view}\ntop-1 %" if len(reports) > 1 else "top-1 %", report, "top1") for report in reports]
    columns.append((f"{best.view}\ntop-5 %" if len(reports) > 1 else "top-5 %", best, "top5"))
    table = Table(Column("class", no_wrap=True), "subset", "objects", *(title for title, _, _ in columns))
    for index in sorted(range(len(best.classes)), key=lambda index: -(best.classes[index].top1 or 0)):
        each = best.classes[index]
        cells = [_percent(getattr(report.classes[index], which)) for _, report, which in columns]
        table.add_row(each.name, each.subset, str(each.objects), *cells)
    table.add_section()
    for subset in ("base", "novel", "all"):
        seen = [each for each in best.of(subset) if each.objects]
        if seen:
            means = [_percent(report.mean(which, subset)) for _, report, which in columns]
            table.add_row(f"mean of {len(seen)} classes", subset, str(sum(each.objects for each in seen)), *means)
    console = Console()
    console.print(table)
    console.print(f"{best.teacher} ({best.fingerprint}), {len(best.classes)}-way, {len(best.templates)} prompts")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
