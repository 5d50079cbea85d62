"""Summaries of per-class figures by subset, as tables, csv and json.

Shapes: K classes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from ovdet.evaluation.average_precision import METRICS, PerClass

MAIN = ("AP", "AP50", "AP75")  # what is said of each class, and of each subset in the logs of a training run
Summary = dict[str, dict[str, float]]


def summarize_subsets(per_class: PerClass, names: Sequence[str], subsets: Mapping[str, Iterable[str]]) -> Summary:
    """Means over subsets of the classes; the same numbers as an evaluation of the subset's classes alone.

    Args:
        per_class: of K classes.
        names: the K class names.
        subsets: {"base": class names, "novel": ...}; names that are not among the K are passed over.

    Returns:
        {"all": {each of METRICS, "classes": number that counted}, "base": ...} in percent, nan for the mean of nothing.
    """
    members = {"all": names, **subsets}
    return {subset: _mean(per_class, names, set(of_subset)) for subset, of_subset in members.items()}


def _mean(per_class: PerClass, names: Sequence[str], of_subset: set[str]) -> dict[str, float]:
    chosen = np.array([name in of_subset for name in names], dtype=bool)
    means: dict[str, float] = {}
    for metric, values in per_class.figures.items():
        found = values[chosen & ~np.isnan(values)]
        means[metric] = float(found.mean()) if found.size else math.nan
    means["classes"] = int((chosen & ~np.isnan(per_class.figures["AP"])).sum())
    return means


def subset_of(name: str, subsets: Mapping[str, Iterable[str]]) -> str | None:
    """The first subset that has the name."""
    return next((subset for subset, names in subsets.items() if name in names), None)


def describe_classes(
    per_class: PerClass, names: Sequence[str], subsets: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Any]]:
    """Figures by class name: {"cat": {"AP": 12.3, "AP50": ..., "AP75": ..., "subset": "novel", "objects": 41}, ...}."""
    members = {subset: set(of_subset) for subset, of_subset in subsets.items()}
    return {
        name: {
            **{metric: float(per_class.figures[metric][k]) for metric in MAIN},
            "subset": subset_of(name, members),
            "objects": int(per_class.objects[k]),
        }
        for k, name in enumerate(names)
    }


def flatten(summary: Summary) -> dict[str, float]:
    """A summary as one flat dict for training logs: {"AP": 1.0, ..., "AP-all": 1.0, "AP-base": ...}."""
    flat = {key: value for key, value in summary["all"].items() if key != "classes"}
    for subset, values in summary.items():
        flat.update({f"{metric}-{subset}": values[metric] for metric in MAIN})
    return flat


def plain_figures(value: Any) -> Any:
    """Figures rounded to four decimals for json, at any depth; NaN, of classes without objects, becomes None."""
    if isinstance(value, Mapping):
        return {key: plain_figures(entry) for key, entry in value.items()}
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, 4)


def summary_table(summary: Summary) -> str:
    """A table with a row for each subset that has classes, "all" last."""
    rows = [
        [subset, *(values[metric] for metric in METRICS), values["classes"]]
        for subset, values in [*((s, v) for s, v in summary.items() if s != "all" and v["classes"]),
                               ("all", summary["all"])]
    ]  # fmt: skip
    return tabulate(rows, headers=["", *METRICS, "classes"], floatfmt=".2f", tablefmt="simple")


def class_csv(classes_by_type: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A csv with a line for each class: class, subset, objects, AP, AP50, AP75; a second iou type's as "segm AP", ...

    Args:
        classes_by_type: iou type -> what `describe_classes` gives.
    """
    first, *others = classes_by_type
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["class", "subset", "objects", *MAIN, *(f"{other} {metric}" for other in others for metric in MAIN)]
    )
    for name, entry in classes_by_type[first].items():
        figures = [classes_by_type[iou_type][name][metric] for iou_type in classes_by_type for metric in MAIN]
        cells = ["" if math.isnan(value) else f"{value:.4f}" for value in figures]
        writer.writerow([name, entry["subset"] or "", entry["objects"], *cells])
    return stream.getvalue()
