"""The leak report of a training run: novel classes and test photos that would reach it; novel classes are refused."""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from tabulate import tabulate

from ovdet.data.coco import listed
from ovdet.data.mixture import common_name, load_synonyms
from ovdet.errors import InputError
from ovdet.training_fields import SET_KEY


class SetReport(NamedTuple):
    """The photos and boxes that reach a training run from one data set of several."""

    num_photos: int
    boxes: dict[str, dict[str, int]]  # numbers of boxes by class, for "base", "novel" and "other" classes
    shared_photos: list[str]  # test photos that are in this set too


class LeakReport(NamedTuple):
    """The classes and photos that reach a training run. Names that mean the same count as one, see `same_meaning`."""

    boxes: dict[str, dict[str, int]]  # numbers of boxes by class, for "base", "novel" and "other" classes
    vocabulary: dict[str, list[str]]  # the names that the classifier is trained on, likewise
    proposal_source: str
    proposal_classes: dict[str, list[str]]  # what that source was trained on, likewise
    weights_source: str
    weights_classes: dict[str, list[str]]  # what the initial weights were trained on, likewise
    num_photos: int
    num_test_photos: int
    shared_photos: list[str]  # test photos that are in the training set too
    sets: dict[str, SetReport] = {}  # of a mixture of data sets

    @property
    def leaks(self) -> bool:
        """Whether novel classes reach the run in any way."""
        sources = (self.boxes, self.vocabulary, self.proposal_classes, self.weights_classes)
        return any(found["novel"] for found in sources)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        sets = {name: each._asdict() for name, each in self.sets.items()}
        return {"leaks": self.leaks, **self._asdict(), "sets": sets}

    def table(self) -> str:
        """The report in a few lines."""
        groups = ("base", "novel", "other")
        rows = [
            ("boxes", *(sum(self.boxes[group].values()) for group in groups)),
            ("classes with boxes", *(len(self.boxes[group]) for group in groups)),
            ("training vocabulary", *(len(self.vocabulary[group]) for group in groups)),
            ("classes known to the proposals", *(len(self.proposal_classes[group]) for group in groups)),
            ("classes known to the initial weights", *(len(self.weights_classes[group]) for group in groups)),
        ]
        of_sets = [
            (name, each.num_photos, *(sum(each.boxes[group].values()) for group in groups), len(each.shared_photos))
            for name, each in self.sets.items()
        ]
        headers = ("data set", "photos", *(f"{group} boxes" for group in groups), "test photos in it")
        by_set = f"{tabulate(of_sets, headers=headers, intfmt=',')}\n" if of_sets else ""
        return (
            f"{tabulate(rows, headers=('', *groups), intfmt=',')}\n{by_set}"
            f"proposals: {self.proposal_source}\n"
            f"initial weights: {self.weights_source}\n"
            f"photos: {self.num_photos:,} for training, {self.num_test_photos:,} for testing, "
            f"{len(self.shared_photos):,} in both"
        )


def find_leaks(
    dicts: Sequence[Mapping[str, Any]],
    metadata: Any,
    *,
    vocabulary: Sequence[str],
    proposals: Mapping[str, Any] | None = None,
    weights_source: str = "",
    weights_classes: Sequence[str] = (),
    test_dicts: Sequence[Mapping[str, Any]] = (),
    test_novel: Sequence[str] = (),
) -> LeakReport:
    """Look at what a training run is about to see. Novel is what the training set's split calls so, or the test set's.

    Args:
        dicts: detectron2 dataset dicts of the training set, `category_id` indexing `metadata.thing_classes`.
        metadata: with `thing_classes`, `base_classes` and `novel_classes` (lists of names).
        vocabulary: the names that the classifier is trained on.
        proposals: of stored regions, `proposal_source` and the `training_classes` of that source; None where the
            detector in training makes its own.
        weights_source: what training begins with, a file or an address; "" for none.
        weights_classes: the classes that these weights were trained to detect, as far as they say.
        test_dicts: of the test set.
        test_novel: its novel classes.
    """
    novel = [*metadata.novel_classes, *test_novel]
    group = partial(_by_group, base_classes=metadata.base_classes, novel_classes=novel)

    def count_boxes(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
        found = (annotation["category_id"] for record in records for annotation in record.get("annotations", ()))
        counts = Counter(metadata.thing_classes[index] for index in found)
        return {which: {name: counts[name] for name in names} for which, names in group(counts).items()}

    test_files = [record["file_name"] for record in test_dicts]
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for record in dicts:
        if SET_KEY in record:  # of data/mixture.py
            by_set.setdefault(metadata.mixture.sets[record[SET_KEY]].name, []).append(record)
    own = {"proposal_source": "the detector in training itself", "training_classes": vocabulary}
    proposals = own if proposals is None else proposals
    return LeakReport(
        boxes=count_boxes(dicts),
        vocabulary=group(vocabulary),
        proposal_source=proposals["proposal_source"],
        proposal_classes=group(proposals["training_classes"]),
        weights_source=weights_source or "those of the parts themselves",
        weights_classes=group(weights_classes),
        num_photos=len(dicts),
        num_test_photos=len(test_dicts),
        shared_photos=_shared(dicts, test_files),
        sets={
            name: SetReport(len(records), count_boxes(records), _shared(records, test_files))
            for name, records in by_set.items()
        },
    )


def _shared(records: Sequence[Mapping[str, Any]], test: Sequence[str]) -> list[str]:
    return shared_photos([record["file_name"] for record in records], test)


def _by_group(
    names: Iterable[str], *, base_classes: Iterable[str], novel_classes: Iterable[str]
) -> dict[str, list[str]]:
    synonyms = load_synonyms()
    novel = {common_name(name, synonyms) for name in novel_classes}
    base = {common_name(name, synonyms) for name in base_classes} - novel
    groups: dict[str, list[str]] = {"base": [], "novel": [], "other": []}
    for name in names:
        plain = common_name(name, synonyms)
        groups["novel" if plain in novel else "base" if plain in base else "other"].append(name)
    return groups


def same_meaning(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names that mean the same as one of the others, by the rule that joins data sets: "sofa" and "couch"."""
    return _by_group(names, base_classes=(), novel_classes=others)["novel"]


def shared_photos(training: Collection[str], test: Collection[str]) -> list[str]:
    """Test photos that are training photos too: the same path, or the same name with the same content.

    Copies under another name, and photos that are not there, are not found.

    Args:
        training: paths.
        test: paths.

    Returns:
        Those of `test`, in their order.
    """
    same_path = set(training) & set(test)
    names = {os.path.basename(file) for file in test}
    candidates = defaultdict(list)
    for file in training:
        if os.path.basename(file) in names and file not in same_path and os.path.isfile(file):
            candidates[os.path.basename(file), os.path.getsize(file)].append(file)
    return [file for file in test if file in same_path or _has_copy(file, candidates)]


def _has_copy(file: str, candidates: Mapping[tuple[str, int], Sequence[str]]) -> bool:
    if not candidates or not os.path.isfile(file):
        return False
    alike = candidates.get((os.path.basename(file), os.path.getsize(file)), ())
    return any(filecmp.cmp(file, other, shallow=False) for other in alike)


def check_no_leak(report: LeakReport) -> None:
    """Stop a training run that would see novel classes.

    Raises:
        InputError: naming the novel classes with their numbers of annotations, or those in the vocabulary or among
            the classes that the source of the proposals or the initial weights were trained on.
    """
    counts = sorted(report.boxes["novel"].items(), key=lambda item: -item[1])
    proposals, weights = f"{report.proposal_source} was trained on", f"{report.weights_source} was trained on"
    for expected, told, names in (
        (
            "no annotations of novel classes in training",
            "got",
            ", ".join(f"{name} ({count})" for name, count in counts),
        ),
        ("a training vocabulary without novel classes", "it has", listed(report.vocabulary["novel"])),
        ("region proposals that know no novel class", proposals, listed(report.proposal_classes["novel"])),
        ("initial weights that know no novel class", weights, listed(report.weights_classes["novel"])),
    ):
        if names:
            raise InputError(f"expected {expected}, {told} {names}")
