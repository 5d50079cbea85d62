"""Pictures of an evaluation: precision over recall, and a bar for each class.

Shapes: K classes, R = 101 recall levels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ovdet.evaluation.average_precision import PerClass
from ovdet.evaluation.report import subset_of, summarize_subsets

# told apart without red and green (Paul Tol's "bright")
COLORS = {"base": "#4477AA", "novel": "#EE6677", "rare": "#AA3377", "common": "#CCBB44", "frequent": "#66CCEE"}
OTHER = "#888888"  # classes of no subset
ALL = "#222222"
MOST_BARS = 80  # with more classes the best and the worst half of it
DPI = 110


def draw_precision_recall(
    per_class: PerClass, names: Sequence[str], subsets: Mapping[str, Sequence[str]], title: str
) -> bytes:
    """Precision over recall at IoU 0.5: thin lines are classes, thick ones the means over subsets and over all classes.

    Args:
        per_class: of K classes.
        names: the K class names.
        subsets: {"base": class names, "novel": ...}; a class has the color of the first that has it.
        title: above the picture.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="recall", ylabel="precision at IoU 0.50", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title, fontsize=10)
    recall = np.linspace(0, 1, len(per_class.curves))
    counted = ~np.isnan(per_class.curves[0])  # (K,)
    faint = float(np.clip(20 / max(counted.sum(), 1), 0.04, 0.4))
    for k in np.flatnonzero(counted):
        axes.plot(recall, per_class.curves[:, k], color=_color(names[k], subsets), linewidth=0.8, alpha=faint)
    summaries = summarize_subsets(per_class, names, subsets)
    for subset, members in {**_distinct(subsets), "all": names}.items():
        chosen = counted & np.isin(names, list(members))
        if not chosen.any():
            continue
        label = f"{subset} ({chosen.sum()} classes): AP50 {summaries[subset]['AP50']:.1f}"
        style = {"color": ALL, "linestyle": "--"} if subset == "all" else {"color": COLORS.get(subset, OTHER)}
        axes.plot(recall, per_class.curves[:, chosen].mean(axis=1), linewidth=2.5, label=label, **style)
    axes.grid(alpha=0.25)
    if counted.any():
        axes.plot([], [], color=OTHER, linewidth=0.8, label="thin: one class each")
        axes.legend(loc="upper right", framealpha=0.9)
    return figure_png(figure)


def _distinct(subsets: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Without those that have the same classes as an earlier one (LVIS's rare classes are the novel ones)."""
    by_members = {frozenset(members): subset for subset, members in reversed(subsets.items())}
    return {subset: members for subset, members in subsets.items() if by_members[frozenset(members)] == subset}


def draw_per_class(
    per_class: PerClass, names: Sequence[str], subsets: Mapping[str, Sequence[str]], title: str
) -> bytes:
    """A bar for each class with objects, best first: AP50 light, AP dark; of very many the best and the worst.

    Behind the name stands the number of objects.

    Args:
        per_class: of K classes.
        names: the K class names.
        subsets: see `draw_precision_recall`.
        title: above the picture.

    Returns:
        A PNG.
    """
    scores = per_class.figures["AP50"]
    counted = np.flatnonzero(~np.isnan(scores))
    order = counted[np.lexsort((-per_class.objects[counted], -scores[counted]))]  # of equal ones the frequent first
    at_zero = int((scores[order] == 0).sum())
    note = f"{len(order)} classes with objects" + (f", {at_zero} of them at 0" if at_zero else "")
    shown = order
    if len(order) > MOST_BARS:
        half = MOST_BARS // 2
        best, rest = order[:half], order[half:]
        worst = rest[np.lexsort((-per_class.objects[rest], scores[rest]))][:half]
        shown = np.concatenate([best, rest[np.isin(rest, worst)]])
        note = f"the best and the worst {half} of {note}"
    figure = Figure(figsize=(9, 1.6 + 0.19 * max(len(shown), 1)), layout="constrained")
    axes = figure.add_subplot(xlabel="AP50 (light) and AP (dark), percent")
    axes.set_title(f"{title}\n{note}", fontsize=10)
    _draw_bars(axes, per_class, names, subsets, shown)
    if len(shown) < len(order):
        axes.axhline(len(shown) / 2 - 0.5, color=ALL, linestyle=":", linewidth=1)
    return figure_png(figure)


def _draw_bars(
    axes: Axes, per_class: PerClass, names: Sequence[str], subsets: Mapping[str, Sequence[str]], shown: np.ndarray
) -> None:
    colors = [_color(names[k], subsets) for k in shown]
    places = np.arange(len(shown))
    axes.barh(places, per_class.figures["AP50"][shown], color=colors, alpha=0.4, height=0.82)
    axes.barh(places, per_class.figures["AP"][shown], color=colors, height=0.45)
    for place, k in zip(places, shown, strict=True):
        value = per_class.figures["AP50"][k]
        axes.text(value, place, f" {value:.1f}", va="center", fontsize=7, color=ALL)
    labels = axes.set_yticks(places, [f"{_short(names[k])} ({per_class.objects[k]})" for k in shown], fontsize=7)
    for label, color in zip(labels, colors, strict=True):  # a bar of length 0 has no color to be seen
        label.label1.set_color(color)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, 1.07 * max(float(per_class.figures["AP50"][shown].max(initial=0)), 5))
    axes.grid(axis="x", alpha=0.25)
    found = dict.fromkeys(subset_of(names[k], subsets) for k in shown)
    handles = [Patch(color=COLORS.get(subset, OTHER), label=subset) for subset in subsets if subset in found]
    if handles:
        axes.legend(handles=handles, loc="lower right", framealpha=0.9)


def _short(name: str, longest: int = 32) -> str:
    text = name.replace("_", " ").replace("$", r"\$")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _color(name: str, subsets: Mapping[str, Sequence[str]]) -> str:
    return COLORS.get(subset_of(name, subsets) or "", OTHER)


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG, 110 dots an inch."""
    stream = io.BytesIO()
    with warnings.catch_warnings():  # one for each letter of a script that the font lacks; a box stands in its place
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()
