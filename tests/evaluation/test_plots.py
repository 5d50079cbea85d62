"""The pictures are there and show what they should; that they look well was seen by eye."""

import io

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from ovdet.evaluation.average_precision import METRICS, PerClass
from ovdet.evaluation.plots import draw_per_class, draw_precision_recall


def make_per_class(num_classes, seed=0):
    """Falling curves; every fifth class without objects, every seventh at 0."""
    rng = np.random.default_rng(seed)
    curves = np.sort(rng.random((101, num_classes)), axis=0)[::-1].copy()
    curves[:, ::7] = 0
    curves[:, ::5] = np.nan
    return PerClass({m: curves.mean(axis=0) * 100 for m in METRICS}, curves, rng.integers(1, 99, num_classes))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look into."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k))[1])
    return figures


def subsets_of(names):
    return {"base": names[::2], "novel": names[1::2], "rare": names[1::2], "common": []}


def test_precision_recall(drawn):
    names = [f"class {k}" for k in range(65)]
    per_class = make_per_class(65)
    picture = Image.open(io.BytesIO(draw_precision_recall(per_class, names, subsets_of(names), "title")))
    assert picture.format == "PNG" and picture.size == (880, 660)
    axes = drawn[0].axes[0]
    labeled = {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}
    counted = ~np.isnan(per_class.figures["AP50"])
    subsets = [label.split(" (")[0] for label in labeled]
    assert subsets == ["base", "novel", "all", "thin: one class each"]  # rare is novel, common is empty
    assert f"all ({counted.sum()} classes): AP50 {np.nanmean(per_class.figures['AP50']):.1f}" in labeled
    novel = per_class.curves[:, 1::2][:, counted[1::2]].mean(axis=1)
    line = next(line for label, line in labeled.items() if label.startswith("novel"))
    np.testing.assert_allclose(line.get_ydata(), novel)
    assert len(axes.get_lines()) == counted.sum() + len(labeled)
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("num_classes", [3, pytest.param(65, marks=pytest.mark.slow), 1203])
def test_bars(drawn, num_classes):
    names = [f"class_{k}" for k in range(num_classes)]
    per_class = make_per_class(num_classes)
    draw_per_class(per_class, names, subsets_of(names), "title")
    axes = drawn[0].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    counted = {k: value for k, value in enumerate(per_class.figures["AP50"]) if not np.isnan(value)}
    assert len(labels) == min(len(counted), 80) == len(set(labels))
    order = sorted(counted, key=lambda k: (-counted[k], -per_class.objects[k]))
    assert labels[0] == f"class {order[0]} ({per_class.objects[order[0]]})"
    assert (counted[int(labels[-1].split()[1])] == 0) == (0 in counted.values())
    assert ("the best and the worst 40" in axes.get_title()) == (len(counted) > 80)
    if num_classes == 1203:  # of the many at 0 those with most objects are shown
        zeros = sorted((k for k in counted if counted[k] == 0), key=lambda k: -per_class.objects[k])
        assert sum(per_class.objects[int(label.split()[1])] for label in labels[40:]) == sum(
            per_class.objects[k] for k in zeros[:40]
        )
    assert not pyplot.get_fignums()


@pytest.mark.slow
def test_bars_of_many_classes_at_0_are_drawn_once_each(drawn):
    scores, objects = np.zeros(120), np.arange(120)
    scores[:10] = np.arange(10, 0, -1)
    per_class = PerClass({m: scores for m in METRICS}, np.zeros((101, 120)), objects)
    draw_per_class(per_class, [f"class {k}" for k in range(120)], {}, "title")
    shown = [int(label.get_text().split()[1]) for label in drawn[0].axes[0].get_yticklabels()]
    assert shown == [*range(10), *range(119, 49, -1)]  # of those at 0 the 70 with most objects


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_nothing_to_show_and_names_that_mean_something_to_matplotlib():
    nothing = PerClass({m: np.full(2, np.nan) for m in METRICS}, np.full((101, 2), np.nan), np.zeros(2, dtype=int))
    for names in (["a", "b"], ["$x", "_hidden^$ " * 9], ["猫", "ch\u00e2teau"]):
        for draw in (draw_precision_recall, draw_per_class):
            assert draw(nothing, names, {}, "title").startswith(b"\x89PNG")
            assert draw(make_per_class(2, 1), names, {"base": []}, "title").startswith(b"\x89PNG")
