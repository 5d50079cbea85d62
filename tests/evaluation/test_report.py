"""From figures of classes to tables and files; the figures themselves are held by test_average_precision."""

import csv
import io
import math

import numpy as np

from ovdet.evaluation.average_precision import METRICS, PerClass
from ovdet.evaluation.report import (
    class_csv,
    describe_classes,
    flatten,
    plain_figures,
    summarize_subsets,
    summary_table,
)

NAMES = ["cat", 'a "dog", lying', "cow"]
SUBSETS = {"base": ["cat", "yak"], "novel": NAMES[1:], "none": []}


def per_class():
    """AP50 of 40, 10 and nan; large ones of the cat alone."""
    figures = {metric: np.array([20.0, 5.0, np.nan]) for metric in METRICS}
    figures["AP50"] = 2 * figures["AP50"]
    figures["APl"] = np.array([30.0, np.nan, np.nan])
    return PerClass(figures, np.zeros((101, 3)), np.array([7, 3, 0]))


def test_means_leave_out_what_has_no_objects():
    summary = summarize_subsets(per_class(), NAMES, SUBSETS)
    assert list(summary) == ["all", "base", "novel", "none"]
    assert summary["all"]["AP50"] == 25 and summary["all"]["APl"] == 30 and summary["all"]["classes"] == 2
    assert summary["base"]["AP50"] == 40 and summary["novel"]["AP50"] == 10
    assert math.isnan(summary["novel"]["APl"]) and summary["novel"]["classes"] == 1
    assert math.isnan(summary["none"]["AP"]) and summary["none"]["classes"] == 0


def test_flat_keys():
    flat = flatten(summarize_subsets(per_class(), NAMES, SUBSETS))
    assert flat["AP50"] == flat["AP50-all"] == 25 and flat["AP50-novel"] == 10 and flat["APl"] == 30
    assert not any("classes" in key for key in flat)


def test_table_has_the_subsets_that_have_classes():
    rows = [line.split() for line in summary_table(summarize_subsets(per_class(), NAMES, SUBSETS)).splitlines()[2:]]
    assert [row[0] for row in rows] == ["base", "novel", "all"]
    assert rows[2] == ["all", "12.50", "25.00", "12.50", "12.50", "12.50", "30.00", "2"]


def test_csv_of_two_iou_types():
    classes = describe_classes(per_class(), NAMES, SUBSETS)
    mean = {"of": {"one": 99.99999999999999, "two": 12.34567}, "n": 3}
    assert plain_figures(mean) == {"of": {"one": 100.0, "two": 12.3457}, "n": 3}
    assert plain_figures(classes)["cow"] == {"AP": None, "AP50": None, "AP75": None, "subset": "novel", "objects": 0}
    lines = list(csv.DictReader(io.StringIO(class_csv({"bbox": classes, "segm": classes}))))
    assert [line["class"] for line in lines] == NAMES
    assert lines[1] == {
        "class": 'a "dog", lying', "subset": "novel", "objects": "3", "AP": "5.0000", "AP50": "10.0000",
        "AP75": "5.0000", "segm AP": "5.0000", "segm AP50": "10.0000", "segm AP75": "5.0000",
    }  # fmt: skip
    assert lines[2]["AP"] == "" and describe_classes(per_class(), NAMES, {})["cat"]["subset"] is None
