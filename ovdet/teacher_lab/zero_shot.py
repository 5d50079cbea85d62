"""Zero-shot accuracy of a teacher: each object is given the class whose text embedding is nearest.

On the annotated boxes of a detection set it is an upper bound for distillation.

Shape letters: R objects, K classes, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ovdet.errors import InputError
from ovdet.teacher_lab.embed import Views, all_views, embed_objects
from ovdet.teacher_lab.labeled import LabeledSet
from ovdet.teachers.base import Teacher
from ovdet.text.class_names import nearest_name, normalize_class_name
from ovdet.text.embeddings import embed_vocabulary
from ovdet.text.prompts import resolve_templates
from ovdet.text.vocabulary import Vocabulary

SUBSETS = ("base", "novel", "all")


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
    """Accuracies of a teacher with one way to embed objects and one set of prompts, in [0, 1]."""

    view: str
    teacher: str
    fingerprint: str
    templates: tuple[str, ...]
    classes: tuple[ClassAccuracy, ...]
    ways: int  # classes that compete

    def mean(self, which: str, subset: str = "all") -> float | None:
        """Mean of "top1" or "top5" over the classes of a subset ("base", "novel", "all") that have objects."""
        values = [getattr(each, which) for each in self.of(subset) if each.objects]
        return sum(values) / len(values) if values else None

    def over_objects(self, which: str, subset: str = "all") -> float | None:
        """The share of a subset's objects that are right by "top1" or "top5"."""
        classes = [each for each in self.of(subset) if each.objects]
        objects = sum(each.objects for each in classes)
        return sum(getattr(each, which) * each.objects for each in classes) / objects if objects else None

    def of(self, subset: str) -> tuple[ClassAccuracy, ...]:
        """The classes of "base", "novel" or "all"."""
        return tuple(each for each in self.classes if subset in ("all", each.subset))

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the means by subset, and each class."""
        means = {
            subset: {
                "top1": self.mean("top1", subset),
                "top5": self.mean("top5", subset),
                "top1_over_objects": self.over_objects("top1", subset),
                "top5_over_objects": self.over_objects("top5", subset),
                "classes": sum(each.objects > 0 for each in self.of(subset)),
                "objects": sum(each.objects for each in self.of(subset)),
            }
            for subset in SUBSETS
        }
        return {
            "view": self.view,
            "teacher": self.teacher,
            "fingerprint": self.fingerprint,
            "templates": list(self.templates),
            "ways": self.ways,
            **means,
            "per_class": [asdict(each) for each in self.classes],
        }


def rank_of_truth(similarities: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class: similarities (R, K), labels (R,) -> (R,) int64, 0 is best; after others in a tie."""
    true = similarities.gather(1, labels[:, None])
    return (similarities >= true).sum(1) - 1


def class_accuracies(
    ranks: Tensor, labels: Tensor, names: Sequence[str], novel: frozenset[str] = frozenset()
) -> tuple[ClassAccuracy, ...]:
    """Accuracies by class.

    Args:
        ranks: (R,) of the true class, see `rank_of_truth`.
        labels: (R,) the true class.
        names: of the K classes.
        novel: those of them that a split calls novel.
    """
    accuracies = []
    for index, name in enumerate(names):
        mine, subset = ranks[labels == index], "novel" if name in novel else "base"
        top1, top5 = ((float((mine < best).float().mean()) if len(mine) else None) for best in (1, 5))
        accuracies.append(ClassAccuracy(name, subset, len(mine), top1, top5))
    return tuple(accuracies)


def classify(
    teacher: Teacher,
    data: LabeledSet,
    templates: Sequence[str | Sequence[str]] = ("a",),
    *,
    vocabulary: Vocabulary | None = None,
    views: Views | None = None,
) -> tuple[ZeroShotReport, ...]:
    """Classify each object of a set by its nearest class embedding, and report accuracies.

    All classes compete, base and novel.

    Args:
        teacher: on whose device this runs.
        data: with one object at least.
        templates: sets of prompts to compare, see text/prompts.py.
        vocabulary: the names that compete, with synonyms; the set's are among them. None: the set's own.
        views: ways to embed objects; None for all that the teacher has.

    Returns:
        A report for each way and set of prompts: crops first, the most accurate way last.

    Raises:
        InputError: there is but one class, a name of the set is not in the vocabulary, or a photo cannot be read.
    """
    prompts = [resolve_templates(each) for each in templates]
    vocabulary = vocabulary or Vocabulary(data.names)
    labels = data.labels if vocabulary.names == data.names else _places(data.names, vocabulary)[data.labels]
    if len(vocabulary) < 2:
        raise InputError(f"expected two classes or more to tell apart, got {len(vocabulary)}: {vocabulary.names[0]!r}")
    class_embeddings = [embed_vocabulary(vocabulary, teacher, each).matrix.cpu() for each in prompts]
    embedded = embed_objects(data, all_views(teacher, data) if views is None else views, teacher.input_size)
    return tuple(
        zero_shot_report(view, teacher, each, rank_of_truth(embeddings @ matrix.T, labels), data, ways=len(vocabulary))
        for view, embeddings in embedded.items()
        for each, matrix in zip(prompts, class_embeddings, strict=True)
    )


def zero_shot_report(
    view: str, teacher: Teacher, templates: tuple[str, ...], ranks: Tensor, data: LabeledSet, *, ways: int
) -> ZeroShotReport:
    """A report from the ranks (R,) of the true classes among `ways`."""
    classes = class_accuracies(ranks, data.labels, data.names, data.novel)
    return ZeroShotReport(view, teacher.name, teacher.fingerprint, templates, classes, ways)


def _places(names: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """The places of names in a vocabulary, as names or as synonyms."""
    spoken: Mapping[str, int] = {
        normalize_class_name(each): index
        for index, name in reversed(list(enumerate(vocabulary.names)))
        for each in (*vocabulary.synonyms.get(name, ()), name)
    }
    places = [spoken.get(normalize_class_name(name)) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if place is None]
    if missing:
        near = nearest_name(missing[0], spoken)
        raise InputError(f"expected a vocabulary with the set's {len(names)} classes, it lacks {missing[0]!r}{near}")
    return torch.tensor(places)
