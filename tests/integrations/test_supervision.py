"""Detections as supervision's type: its own functions find there what was detected."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.integrations.supervision import to_supervision


def detections(masks=None):
    boxes = np.float32([[10, 20, 60, 80], [0, 0, 30, 40], [50, 50, 90, 70]])
    return Detections(boxes, np.float32([0.9, 0.6, 0.3]), np.int64([1, 0, 1]), ("cat", "dog", "cat"), (90, 120), masks)


def test_what_was_detected_is_found_by_supervisions_own_functions():
    found, result = detections(), to_supervision(detections())
    assert np.array_equal(result.xyxy, found.boxes) and np.array_equal(result.confidence, found.scores)
    assert result.class_id.tolist() == [1, 0, 1] and result["class_name"].tolist() == ["cat", "dog", "cat"]
    assert result.mask is None and result.area.tolist() == [3000, 1200, 800]
    cats = result[result["class_name"] == "cat"]
    assert len(cats) == 2 and cats.confidence.tolist() == found.scores[[0, 2]].tolist()
    result.xyxy[:] = 0
    assert found.boxes.any()  # arrays of its own


def test_masks_come_along():
    masks = np.zeros((3, 90, 120), dtype=bool)
    masks[0, 20:80, 10:60] = True
    result = to_supervision(detections(masks))
    assert result.mask.dtype == bool and np.array_equal(result.mask, masks)
    assert result.area.tolist() == [3000, 0, 0]


def test_classes_of_another_list():
    assert to_supervision(detections(), ["bird", "dog", "cat"]).class_id.tolist() == [2, 1, 2]
    with pytest.raises(InputError, match="'cat'"):
        to_supervision(detections(), ["bird", "dog"])


@pytest.mark.parametrize("masks", [None, np.zeros((0, 90, 120), dtype=bool)])
def test_an_image_with_nothing_on_it(masks):
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), (90, 120), masks
    )
    result = to_supervision(nothing)
    assert len(result) == 0 and result.xyxy.shape == (0, 4) and result.class_id.shape == (0,)
    both = type(result).merge([result, to_supervision(detections())])
    assert len(both) == 3 and both["class_name"].tolist() == ["cat", "dog", "cat"]


def test_supervision_is_not_imported_before_it_is_needed(monkeypatch):
    """That takes most of a second. (That the predictor does not import it: tests/inference/test_start.py.)"""
    monkeypatch.setitem(sys.modules, "supervision", None)  # to import it fails
    again = importlib.util.module_from_spec(importlib.util.find_spec("ovdet.integrations.supervision"))
    again.__spec__.loader.exec_module(again)
    with pytest.raises(ImportError):
        again.to_supervision(detections())
