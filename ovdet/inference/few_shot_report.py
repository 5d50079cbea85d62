"""Results of the few-shot protocol as table, csv and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from tabulate import tabulate

TEXT = "text"


class Result(msgspec.Struct, frozen=True):
    """Figures of one way to ask; text needs no examples and no seed: 0 and 0.

    Attributes:
        AP: percent, mean over the classes, as AP50.
        F1: percent, the best that one threshold for all classes gives.
        threshold: this one; None where nothing is found.
    """

    method: str
    shots: int
    seed: int
    AP: float
    AP50: float
    F1: float
    threshold: float | None


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Mean and spread (standard deviation over the seeds) of each method and k, text first."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.method, result.shots), []).append(result)
    rows = []
    for (method, shots), members in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        thresholds = [member.threshold for member in members if member.threshold is not None]
        row: dict[str, Any] = {"method": method, "shots": shots, "seeds": len(members)}
        for metric in ("AP50", "AP", "F1"):
            values = [getattr(member, metric) for member in members]
            row |= {metric: float(np.mean(values)), f"{metric} spread": float(np.std(values))}
        rows.append({**row, "threshold": float(np.mean(thresholds)) if thresholds else None})
    return rows


def as_table(results: Sequence[Result]) -> str:
    """The summary as a table for people."""
    columns = ("AP50", "AP", "F1")
    cells = [
        [
            row["method"],
            row["shots"] or "-",
            *(f"{row[key]:.1f} ± {row[f'{key} spread']:.1f}" for key in columns),
            "-" if row["threshold"] is None else f"{row['threshold']:.2f}",
        ]
        for row in summary(results)
    ]
    return tabulate(cells, headers=["", "boxes a class", *columns, "at threshold"])


def as_csv(results: Sequence[Result]) -> str:
    """The summary as csv."""
    stream = io.StringIO()
    rows = summary(results)
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return stream.getvalue()


def draw_few_shot(results: Sequence[Result], title: str) -> bytes:
    """AP50 over boxes a class, a line with error bars for each method; a PNG."""
    from matplotlib.figure import Figure

    from ovdet.evaluation.plots import figure_png

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="boxes a class", ylabel="AP50, percent, mean and spread over seeds", xscale="log")
    axes.set_title(title, fontsize=10)
    rows = summary(results)
    shots = sorted({row["shots"] for row in rows if row["shots"]})
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        if method == TEXT:
            axes.axhline(of_method[0]["AP50"], color="#222222", linestyle="--", label=TEXT)
            continue
        columns = ([row[key] for row in of_method] for key in ("shots", "AP50", "AP50 spread"))
        x, y, spread = columns
        axes.errorbar(x, y, yerr=spread, marker="o", capsize=3, label=method)
    axes.set_xlim(shots[0] / 1.3, shots[-1] * 1.3)
    axes.set_xticks(shots, [str(shot) for shot in shots])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend()
    return figure_png(figure)
