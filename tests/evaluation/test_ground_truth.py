"""Reading the json that is evaluated against."""

import json

import pytest

from ovdet.errors import InputError
from ovdet.evaluation.ground_truth import index_ground_truth, load_ground_truth

CONTENT = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 5} for i in (9, 2)],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat", "frequency": "r"}],
}


def test_in_the_order_of_the_ids(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(CONTENT))
    truth = load_ground_truth(tmp_path / "truth.json")
    assert list(truth.images) == [2, 9] and list(truth.names.items()) == [(1, "cat"), (3, "dog")]
    assert [a["id"] for a in truth.annotations[9]] == [1, 2] and 2 not in truth.annotations
    assert truth.frequencies == {1: "r"} and not truth.is_federated
    assert truth.has_masks([1]) and not truth.has_masks([1, 3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": None}, "images"),
        ({"images": [*CONTENT["images"], CONTENT["images"][0]]}, "image id .*: 9"),
        ({"categories": [*CONTENT["categories"], {"id": 1, "name": "cow"}]}, "category id .*: 1"),
        ({"annotations": [{"id": 1, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "image_id.*: 8"),
        ({"annotations": [{"id": 1, "image_id": 9, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "category_id.*: 2"),
        ({"images": []}, "image_id.*: 9"),
        ({"annotations": [{"id": 1}]}, "`image_id`"),
        ({"annotations": [{"id": 1, "image_id": 9, "category_id": 1, "bbox": [0, 0]}]}, r"bbox.*\[0, 0\]"),
        ({"images": [{"height": 1}]}, "`id`"),
        ({"categories": ["cat"]}, "categories"),
    ],
)
def test_what_is_refused(changed, message):
    with pytest.raises(InputError, match=message):
        index_ground_truth({**CONTENT, **changed}, "truth.json")


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_ground_truth(tmp_path / "nothing.json")
    for text in ("{", "[]", "3"):
        (tmp_path / "truth.json").write_text(text)
        with pytest.raises(InputError, match="expected a COCO-format json"):
            load_ground_truth(tmp_path / "truth.json")
