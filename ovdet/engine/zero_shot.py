"""How well a teacher names the objects of a data set by their crops alone: what distillation can hope for.

Shape letters: R objects, K classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from ovdet.data import load_coco_subsets, read_image
from ovdet.errors import InputError
from ovdet.teachers import RegionEmbedder, Teacher
from ovdet.text import Vocabulary, embed_vocabulary, resolve_templates

_PHOTOS_AT_ONCE = 8

EmbedBatch = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class ClassAccuracy:
    """Of one class: `top1` and `top5` are the shares of its objects whose true name is among the best 1 and 5."""

    name: str
    subset: str  # "base" or "novel"
    objects: int
    top1: float | None  # None without objects
    top5: float | None


@dataclass(frozen=True)
class ZeroShotReport:
    """What `inspect_teacher` found; accuracies in [0, 1]."""

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
                "classes": len(self.of(subset)),
                "objects": sum(each.objects for each in self.of(subset)),
            }
            for subset in ("base", "novel", "all")
        }
        return {
            "teacher": self.teacher,
            "fingerprint": self.fingerprint,
            "templates": list(self.templates),
            **means,
            "per_class": [asdict(each) for each in self.classes],
        }


def rank_of_truth(similarities: Tensor, labels: Tensor) -> Tensor:
    """How many classes stand before the true one, (R, K) and (R,) -> (R,) int64; a draw counts against it."""
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
) -> ZeroShotReport:
    """Name each ground-truth box by the class whose text embedding is nearest to that of its crops (1x and 1.5x).

    All base and novel classes compete. Crowds are left out.

    Args:
        teacher: on whose device this runs.
        annotations: a COCO-format json.
        images: the folder of its photos.
        split: a split json; None makes every class a base class.
        templates: see text/prompts.py.
        max_objects: as many, drawn with a fixed seed; None for all.

    Raises:
        InputError: a file is missing or does not fit, or no object would be left.
    """
    if max_objects is not None and max_objects < 1:
        raise InputError(f"expected at least 1 object, got {max_objects}")
    prompts = resolve_templates(templates)
    data = load_coco_subsets(annotations, images, split, ("base", "novel"), is_train=True)
    names, novel = data.thing_classes, set(data.novel_classes)
    class_embeddings = embed_vocabulary(Vocabulary(names), teacher, prompts).matrix
    objects = _draw([(record, a) for record in data.dicts for a in record["annotations"]], max_objects)
    ranks = [
        rank_of_truth(embeddings @ class_embeddings.T, labels.to(embeddings.device)).cpu()
        for embeddings, labels in _embed_objects(RegionEmbedder(teacher).embed_batch, objects)
    ]
    labels = torch.tensor([annotation["category_id"] for _, annotation in objects])
    ranks_by_class = [torch.cat(ranks)[labels == index] for index in range(len(names))]
    classes = tuple(
        _accuracy(name, "novel" if name in novel else "base", of_class)
        for name, of_class in zip(names, ranks_by_class, strict=True)
    )
    return ZeroShotReport(teacher.name, teacher.fingerprint, prompts, classes)


def _draw(objects: list, number: int | None) -> list:
    """At most `number` of them, in their order; the same ones each time."""
    if number is None or number >= len(objects):
        return objects
    drawn = torch.randperm(len(objects), generator=torch.Generator().manual_seed(0))[:number]
    return [objects[index] for index in drawn.sort().values.tolist()]


def _embed_objects(
    embed_batch: EmbedBatch, objects: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(photo's record, annotation) pairs, photo by photo -> embeddings (R, D) and labels (R,) of some at a time."""
    by_photo: dict[str, tuple[Mapping[str, Any], list]] = {}
    for record, annotation in objects:
        by_photo.setdefault(record["file_name"], (record, []))[1].append(annotation)
    photos = list(by_photo.values())
    starts = range(0, len(photos), _PHOTOS_AT_ONCE)
    for start in track(starts, f"{len(objects)} objects in {len(photos)} photos", transient=True):
        some = photos[start : start + _PHOTOS_AT_ONCE]
        boxes = [torch.tensor([annotation["bbox"] for annotation in of_photo]) for _, of_photo in some]  # XYWH
        corners = [torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1) for box in boxes]
        embeddings = embed_batch([_read_photo(record) for record, _ in some], corners)
        labels = [annotation["category_id"] for _, of_photo in some for annotation in of_photo]
        yield torch.cat(list(embeddings)), torch.tensor(labels)


def _read_photo(record: Mapping[str, Any]) -> Tensor:
    """-> (3, H, W) uint8 RGB, of the size that its boxes are for."""
    photo = torch.tensor(read_image(record["file_name"])).permute(2, 0, 1)
    expected, came = (record["height"], record["width"]), tuple(photo.shape[1:])
    if expected != came:
        raise InputError(f"expected {record['file_name']} of (height, width) {expected} as annotated, got {came}")
    return photo


def _accuracy(name: str, subset: str, ranks: Tensor) -> ClassAccuracy:
    if not len(ranks):
        return ClassAccuracy(name, subset, 0, None, None)
    top1, top5 = (float((ranks < best).float().mean()) for best in (1, 5))
    return ClassAccuracy(name, subset, len(ranks), top1, top5)


def print_report(report: ZeroShotReport) -> None:
    """A table of the classes, best first, and the means below it."""
    table = Table("class", "subset", "objects", "top-1 %", "top-5 %")
    for each in sorted(report.classes, key=lambda each: (each.top1 is None, -(each.top1 or 0))):
        table.add_row(each.name, each.subset, str(each.objects), _percent(each.top1), _percent(each.top5))
    table.add_section()
    for subset in ("base", "novel", "all"):
        seen = [each for each in report.of(subset) if each.objects]
        if seen:
            means = [_percent(report.mean(which, subset)) for which in ("top1", "top5")]
            table.add_row(f"mean of {len(seen)} classes", subset, str(sum(each.objects for each in seen)), *means)
    console = Console()
    console.print(table)
    console.print(
        f"{report.teacher} ({report.fingerprint}), {len(report.classes)}-way, {len(report.templates)} prompts"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
