"""Results of the teacher laboratory as tables of rich."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Column, Table

from ovdet.teacher_lab.bands import Band
from ovdet.teacher_lab.probe import ProbeRow
from ovdet.teacher_lab.robustness import RobustnessRow
from ovdet.teacher_lab.zero_shot import SUBSETS, ZeroShotReport
from ovdet.text.coverage import IN_IMAGENET, NEAR_TRAINED, UNKNOWN, VERDICTS, NameCoverage, Nearest


def percent(value: float | None, sign: bool = False) -> str:
    """0.123 -> "12.3"; "-" for None."""
    return "-" if value is None else f"{100 * value:{'+' if sign else ''}.1f}"


def zero_shot_table(reports: Sequence[ZeroShotReport]) -> Table:
    """Classes, best first, and means: top-1 of each report, and top-5 of the last."""
    best = reports[-1]
    titles = _titles(reports)
    columns = [(f"{title}\ntop-1 %".strip(), each, "top1") for title, each in zip(titles, reports, strict=True)]
    columns.append((f"{titles[-1]}\ntop-5 %".strip(), best, "top5"))
    has_split = any(each.subset != "base" for each in best.classes)
    head = [Column("class", no_wrap=True), *(["subset"] if has_split else []), "objects"]
    table = Table(*head, *(title for title, _, _ in columns))

    def add(name: str, subset: str, objects: int, cells: list[str]) -> None:
        table.add_row(name, *([subset] if has_split else []), str(objects), *cells)

    for index in sorted(range(len(best.classes)), key=lambda index: -(best.classes[index].top1 or 0)):
        each = best.classes[index]
        cells = [percent(getattr(report.classes[index], which)) for _, report, which in columns]
        add(each.name, each.subset, each.objects, cells)
    table.add_section()
    for subset in SUBSETS if has_split else ("all",):
        seen = [each for each in best.of(subset) if each.objects]
        if seen:
            means = [percent(report.mean(which, subset)) for _, report, which in columns]
            add(f"mean of {len(seen)} classes", subset, sum(each.objects for each in seen), means)
    shares = [percent(report.over_objects(which)) for _, report, which in columns]
    add("share of all objects", "all", sum(each.objects for each in best.classes), shares)
    return table


def _titles(reports: Sequence[ZeroShotReport]) -> list[str]:
    """The settings that tell reports apart: the way to embed, the number of prompts."""
    views, prompts = ({getattr(each, which) for each in reports} for which in ("view", "templates"))
    titles = []
    for each in reports:
        parts = [each.view] if len(views) > 1 else []
        if len(prompts) > 1:
            parts.append(each.templates[0] if len(each.templates) == 1 else f"{len(each.templates)} prompts")
        titles.append(", ".join(parts))
    return titles


def probe_table(rows: Sequence[ProbeRow]) -> Table:
    """Zero-shot and probes by the number of objects that they learned from."""
    table = Table("objects of a class", "in the mean", "top-1 %", "± of draws", "of all objects %", "C")
    for row in rows:
        over_objects = percent(sum(row.top1_over_objects) / len(row.top1_over_objects))
        spread = percent(row.spread) if len(row.top1) > 1 else ""
        strengths = " ".join(f"{each:.3g}" for each in row.strengths)
        learned = f"{row.objects:.1f}" if row.shots != 0 else ""
        table.add_row(shots_title(row.shots), learned, percent(row.mean), spread, over_objects, strengths)
    return table


def shots_title(shots: int | None) -> str:
    """ "zero-shot", "4", "all"."""
    return "all" if shots is None else str(shots) if shots else "zero-shot"


def robustness_table(rows: Sequence[RobustnessRow]) -> Table:
    """Accuracy of each set, that of the first set on the same classes, and the drop in points."""
    classifiers = list(rows[0].by_classifier)
    heads = [f"{name}\n{what}" for name in classifiers for what in ("top-1 %", "the first's", "drop")]
    table = Table("set", "classes", "objects", *heads)
    for number, row in enumerate(rows):
        cells = []
        for name in classifiers:
            each = row.by_classifier[name]
            compared = [percent(each.reference), percent(each.drop, sign=True)] if number else ["", ""]
            cells += [percent(each.accuracy), *compared]
        table.add_row(row.title, str(row.classes), str(row.objects), *cells)
    return table


def coverage_table(found: Sequence[NameCoverage]) -> Table:
    """Each name with the concepts that are nearest to it, the best covered first."""
    has_trained = any(each.trained is not None for each in found)
    table = Table(
        Column("name", no_wrap=True),
        "known as",
        *(["nearest trained name"] if has_trained else []),
        "nearest in ImageNet",
    )
    for each in sorted(found, key=_order):
        cells = [_concept(each.trained)] if has_trained else []
        table.add_row(each.name, each.verdict, *cells, _concept(each.imagenet))
    return table


def coverage_line(found: Sequence[NameCoverage]) -> str:
    """ "65 names: 48 trained, 3 near a trained name, 10 in ImageNet, 4 unknown"."""
    counts = Counter(each.verdict for each in found)
    return f"{len(found)} names: " + ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]
    )


def band_table(bands: Sequence[Band]) -> Table:
    """Zero-shot accuracy by the cosine of the nearest concept."""
    table = Table("nearest in ImageNet", "classes", "top-1 %", "below 10 %")
    for number, band in enumerate(bands):
        title = f"under {band.high:.1f}" if not number else f"{band.low:.1f} and more"
        if 0 < number < len(bands) - 1:
            title = f"{band.low:.1f} to {band.high:.1f}"
        table.add_row(title, str(band.classes), percent(band.top1), percent(band.failing))
    return table


def warnings_of(found: Sequence[NameCoverage], *, near: float) -> list[str]:
    """A line for each name whose scores should be checked before they are trusted, the worst first."""
    lines = []
    for each in sorted(found, key=_order, reverse=True):
        nearest = (
            each.imagenet if each.trained is None else max(each.trained, each.imagenet, key=lambda one: one.similarity)
        )
        told = f"{each.name}: {each.verdict}, nearest is {nearest.name} (cosine {nearest.similarity:.3f})"
        if each.verdict == UNKNOWN:
            lines.append(f"{told}, below {near:g}")
        elif each.verdict in (NEAR_TRAINED, IN_IMAGENET) and _shares_nearest(each, found):
            lines.append(f"{told}, as of another of the names: they may be taken for each other")
    return lines


def _shares_nearest(each: NameCoverage, found: Sequence[NameCoverage]) -> bool:
    """Whether another name that is not trained has the same nearest concept."""

    def key(one: NameCoverage) -> str:
        return one.trained.name if one.verdict == NEAR_TRAINED and one.trained else one.imagenet.name

    others = [one for one in found if one is not each and one.verdict in (NEAR_TRAINED, IN_IMAGENET)]
    return any(key(one) == key(each) for one in others)


def _order(each: NameCoverage) -> tuple[int, float]:
    best = max(one.similarity for one in (each.trained, each.imagenet) if one is not None)
    return VERDICTS.index(each.verdict), -best


def _concept(nearest: Nearest | None) -> str:
    return "-" if nearest is None else f"{nearest.name} ({nearest.similarity:.2f})"
