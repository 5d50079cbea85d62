"""The map of embeddings and the accuracy of probes as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ovdet.evaluation.plots import figure_png
from ovdet.teacher_lab.maps import EmbeddingMap, class_color
from ovdet.teacher_lab.probe import ProbeRow
from ovdet.teacher_lab.tables import percent, shots_title

_ZERO_SHOT, _PROBE = "#EE6677", "#4477AA"  # told apart without red and green


def draw_map(drawn: EmbeddingMap, title: str) -> bytes:
    """The map as a PNG: a name at the place of its text, a dot for a region, hollow where another text is nearer."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.add_subplot(xticks=[], yticks=[])
    colors = np.array([class_color(index) for index in range(len(drawn.names))])
    is_right = (drawn.nearest == drawn.labels).numpy()
    places, of_region = drawn.regions.numpy(), colors[drawn.labels.numpy()]
    axes.scatter(*places[is_right].T, s=14, c=of_region[is_right], alpha=0.75, linewidths=0)
    axes.scatter(*places[~is_right].T, s=14, facecolors="none", edgecolors=of_region[~is_right], alpha=0.75)
    texts = drawn.texts.numpy()
    axes.scatter(*texts.T, s=26, c=colors, marker="D", edgecolors="black", linewidths=0.6)
    for name, place, color in zip(drawn.names, texts, colors, strict=True):
        label = axes.annotate(
            name.replace("_", " ").replace("$", r"\$"), place, xytext=(4, 3), textcoords="offset points", fontsize=7.5
        )
        label.set(color=color, path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)])
    note = "diamonds: texts"
    if len(places):
        note += f"; dots: regions, hollow where another text is nearer ({(~is_right).sum()} of {len(places)})"
    axes.set_title(f"{title}\n{note}", fontsize=10)
    return figure_png(figure)


def draw_probe(rows: Sequence[ProbeRow], title: str) -> bytes:
    """Accuracy over the number of objects that probes learned from, beside zero-shot, as a PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="labeled objects of a class", ylabel="top-1, mean over classes (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    learned = [row for row in rows if row.shots != 0]
    places = range(len(learned))
    values, spreads = (
        [100 * each for each in column] for column in zip(*((row.mean, row.spread) for row in learned), strict=True)
    )
    axes.errorbar(places, values, yerr=spreads, color=_PROBE, marker="o", capsize=3, label="linear probe")
    for row in rows:
        if row.shots == 0:
            axes.axhline(100 * row.mean, color=_ZERO_SHOT, linestyle="--", label=f"zero-shot: {percent(row.mean)}")
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.1f}", (place, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xticks(places, [_shots_label(row) for row in learned])
    axes.set_ylim(0, min(max([*values, *(100 * row.mean for row in rows)]) * 1.15 + 3, 104))
    axes.legend(loc="lower right")
    return figure_png(figure)


def _shots_label(row: ProbeRow) -> str:
    """ "4", and the mean where some classes have less: "4 (3.2)"; "all (12)"."""
    title, mean = shots_title(row.shots), f"{row.objects:.3g}"
    return title if title == mean else f"{title} ({mean})"
