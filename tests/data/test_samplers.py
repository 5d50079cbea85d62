"""Repeat factors by the formula, through the training loader; class frequencies against pycocotools."""

import itertools
import json
from collections import Counter

import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from ovdet.data.dataset import register_coco_subsets
from ovdet.data.samplers import frequency_weights, repeat_factor_sampler
from ovdet.errors import InputError


def records(*classes_of_photos):
    return [{"annotations": [{"category_id": c} for c in classes]} for classes in classes_of_photos]


def test_rare_classes_photos_come_more_often():
    """Class 1 is on one photo of 100; at a threshold of 1/25 it is shown sqrt(4) times as often."""
    dicts = records(*[[0]] * 98, [0, 1, 1], [])
    sampler = repeat_factor_sampler(0.04)(dicts)
    drawn = Counter(itertools.islice(iter(sampler), 101 * 20))  # 99 + 2 a round
    assert drawn[98] == 40 and drawn[0] == 20 and drawn[99] == 20


def test_nothing_is_repeated_at_threshold_0():
    drawn = Counter(itertools.islice(iter(repeat_factor_sampler(0.0)(records([0], [0], [1]))), 30))
    assert drawn == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize("threshold", [-0.1, 2])
def test_thresholds_that_are_no_shares(threshold):
    with pytest.raises(InputError, match="between 0 and 1"):
        repeat_factor_sampler(threshold)


def test_weights_are_numbers_of_photos_to_a_power(tmp_path):
    boxes = [(1, 7), (1, 7), (1, 3), (2, 7), (3, 7), (4, 7), (4, 9)]  # photo, class; class 7 twice on the first
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in range(1, 5)],
        "categories": [{"id": i, "name": f"class {i}"} for i in (9, 7, 3, 5)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
            for number, (image, category) in enumerate(boxes, start=1)
        ],
    }
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    for image in content["images"]:
        Image.new("RGB", (64, 48)).save(tmp_path / image["file_name"])
    weights = frequency_weights("sampling_test", power=0.5)  # before the data set is there
    register_coco_subsets("sampling_test", file, tmp_path, is_train=True)
    judge = COCO(str(file))
    expected = [len(judge.getImgIds(catIds=[category])) for category in (3, 5, 7, 9)]
    assert expected == [1, 0, 4, 1] and MetadataCatalog.get("sampling_test").thing_classes[1] == "class 5"
    assert torch.allclose(weights(), torch.tensor(expected).float().sqrt())
