"""A program that was written for transformers' pipeline gets what it expects."""

import numpy as np
import pytest
import torch
from transformers.pipelines.zero_shot_object_detection import ZeroShotObjectDetectionPipeline

from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.integrations.transformers import ZeroShotObjectDetection, to_pipeline

BOXES = np.float32([[1.9, 2.2, 30.7, 40.99], [0, 0, 5, 5]])


class Spy:
    def __init__(self):
        self.calls = []

    def __call__(self, image, names, threshold):
        self.calls.append((image, names, threshold))
        scores = np.float32([0.75, 0.25])
        return Detections(BOXES, scores, np.array([1, 0]), (names[-1], names[0]), (50, 60))


@pytest.fixture
def spy():
    return Spy()


def test_shape_of_an_answer():
    found = to_pipeline(Detections(BOXES, np.float32([0.75, 0.25]), np.array([1, 0]), ("dog", "cat"), (50, 60)))
    boxes = [ZeroShotObjectDetectionPipeline._get_bounding_box(None, box) for box in torch.tensor(BOXES)]
    assert found == [{"score": 0.75, "label": "dog", "box": boxes[0]}, {"score": 0.25, "label": "cat", "box": boxes[1]}]
    assert all(type(value) is int for value in found[0]["box"].values())
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), (), (50, 60))
    assert to_pipeline(empty) == []


def test_ways_to_call(spy):
    detector = ZeroShotObjectDetection(spy)
    one = detector("a.jpg", candidate_labels=["cat", "dog"])
    assert [each["label"] for each in one] == ["dog", "cat"] and spy.calls.pop() == ("a.jpg", ["cat", "dog"], 0.1)
    assert detector("a.jpg", candidate_labels="cat, dog", threshold=0.2, top_k=1) == one[:1]
    assert spy.calls.pop() == ("a.jpg", ["cat", "dog"], 0.2)
    assert detector({"image": "a.jpg", "candidate_labels": ["cat", "dog"]}) == one
    assert detector(["a.jpg", "b.jpg"], candidate_labels=["cat", "dog"]) == [one, one]
    spy.calls.clear()
    detector(["a.jpg", "b.jpg"], candidate_labels=[["cat"], ["dog"]])
    detector([{"image": "c.jpg", "candidate_labels": ["bus"]}])
    assert [call[:2] for call in spy.calls] == [("a.jpg", ["cat"]), ("b.jpg", ["dog"]), ("c.jpg", ["bus"])]


def test_mistakes(spy):
    detector = ZeroShotObjectDetection(spy)
    for call in (
        lambda: detector("a.jpg"),
        lambda: detector("a.jpg", candidate_labels=" , "),
        lambda: detector(["a.jpg", "b.jpg"], candidate_labels=[["cat"]]),
    ):
        with pytest.raises(InputError):
            call()
    assert not spy.calls
