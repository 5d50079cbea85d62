"""What was found in the shapes that other tools take."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from ovdet.errors import InputError
from ovdet.inference.detections import Detections

BOXES = np.float32([[10, 20, 40, 60], [0, 0, 99.5, 50.25]])


@pytest.fixture
def found() -> Detections:
    masks = np.zeros((2, 60, 100), dtype=bool)
    masks[0, 20:60, 10:40] = masks[1, :50] = True
    return Detections(BOXES, np.float32([0.9, 0.123456]), np.array([2, 0]), ("Straße", "cat"), (60, 100), masks)


@pytest.fixture
def nothing() -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), (60, 100))


def test_json(found, nothing):
    rows = [
        {"box": [10, 20, 40, 60], "score": 0.9, "label": "Straße"},
        {"box": [0, 0, 99.5, 50.25], "score": 0.1235, "label": "cat"},
    ]
    assert json.loads(found.to_json()) == {"width": 100, "height": 60, "detections": rows} == found.to_dict()
    assert json.loads(nothing.to_json())["detections"] == [] and "\n" not in found.to_json()


def test_coco_results_load_in_pycocotools(found, nothing, capsys):
    dataset = COCO()
    categories = [{"id": number, "name": name} for number, name in enumerate(["cat", "dog", "Straße"], start=1)]
    dataset.dataset = {"images": [{"id": 7, "width": 100, "height": 60}], "annotations": [], "categories": categories}
    dataset.createIndex()
    rows = json.loads(json.dumps(found.to_coco(7)))
    read = dataset.loadRes(rows)
    assert [each["category_id"] for each in read.dataset["annotations"]] == [3, 1]
    assert rows[0]["bbox"] == [10, 20, 30, 40] and rows[1]["bbox"] == [0, 0, 99.5, 50.25]
    assert np.array_equal(read.annToMask(read.dataset["annotations"][0]), found.masks[0])
    assert nothing.to_coco(7) == []


def test_coco_ids_of_the_users_own(found):
    rows = found.to_coco("a", {"cat": 17, "Straße": 90})
    assert [(row["image_id"], row["category_id"]) for row in rows] == [("a", 90), ("a", 17)]
    with pytest.raises(InputError, match="Straße"):
        found.to_coco("a", {"cat": 17})


def test_a_data_frame(found, nothing):
    pytest.importorskip("pandas")
    frame = found.to_pandas()
    assert list(frame.columns) == ["xmin", "ymin", "xmax", "ymax", "score", "label", "class_id"]
    assert frame.label.tolist() == ["Straße", "cat"] and frame.class_id.tolist() == [2, 0]
    assert np.array_equal(frame[["xmin", "ymin", "xmax", "ymax"]].to_numpy(), BOXES)
    assert len(nothing.to_pandas()) == 0
