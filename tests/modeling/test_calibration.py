"""Calibrated scores beside the formula in NumPy, and that they change nothing but scores."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from scipy.special import expit, logit

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.errors import InputError
from ovdet.export.onnx_detector import OnnxDetector, read_description
from ovdet.export.write import FORMAT
from ovdet.modeling.calibration import ScoreCalibration

NUMBERS = dict(
    trained_slope=1.5, trained_offset=-0.5, other_slope=2.0, other_offset=0.25, threshold=0.3, other_threshold=0.1
)
OFFSETS = {"person": 0.7, "cup": -1.0}


def three_classes(is_base=(True, True, False, True), **options) -> ClassEmbeddings:
    """ "People" with the synonym "person", "cat", "red kite", and the negative "cup"; row 1 is the synonym."""
    base = None if is_base is None else torch.tensor([*is_base[:1], is_base[0], *is_base[1:]])
    ids = torch.tensor([0, 0, 1, 2, -1])
    texts = ("people", "person", "cat", "red kite", "cup")
    return ClassEmbeddings(torch.eye(5), ids, ("People", "cat", "red kite"), base, texts=texts, **options)


def test_it_is_the_formula_by_kind_and_name():
    scores, ids = torch.tensor([0.9, 0.5, 0.2, 0.05]), torch.tensor([0, 1, 2, 0])
    found = ScoreCalibration(**NUMBERS, name_offsets=OFFSETS)(scores, three_classes(), ids)
    slopes, offsets = np.array([1.5, 1.5, 2.0, 1.5]), np.array([0.2, -0.5, 0.25, 0.2])  # by the synonym "person"
    np.testing.assert_allclose(found, expit(slopes * logit(scores.double().numpy()) + offsets), rtol=1e-5)


def test_where_nobody_says_what_was_trained_all_count_as_trained():
    ids = torch.tensor([2])
    found = ScoreCalibration(**NUMBERS)(torch.tensor([0.2]), three_classes(None), ids)
    np.testing.assert_allclose(found, expit(1.5 * logit(0.2) - 0.5), rtol=1e-5)


def test_without_texts_the_names_themselves_are_looked_up():
    classes = ClassEmbeddings.of(torch.eye(2), ["person", "dog"], [True, True])
    same = ScoreCalibration(**NUMBERS, name_offsets=OFFSETS)(torch.full((2,), 0.4), classes, torch.tensor([0, 1]))
    np.testing.assert_allclose(logit(same[0].item()) - logit(same[1].item()), 0.7, rtol=1e-4)


def test_learned_classes_keep_their_scores():
    learned = LearnedRows(torch.zeros(1, 4), torch.zeros(1), torch.tensor([1]))
    classes = ClassEmbeddings(
        torch.eye(2), torch.tensor([0, -1]), ("cat", "mug"), torch.tensor([True, True]), learned, texts=("cat", "mug")
    )
    found = ScoreCalibration(**NUMBERS, name_offsets=OFFSETS)(torch.full((2,), 0.4), classes, torch.tensor([0, 1]))
    assert found[1] == 0.4 and found[0] != 0.4


def test_the_order_of_a_class_stays_and_all_are_best_first():
    generator = torch.Generator().manual_seed(0)
    found = Instances((100, 100))
    found.scores = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(60, generator=generator)]).sort(descending=True)[0]
    found.pred_classes = torch.randint(0, 3, (62,), generator=generator)
    found.pred_boxes = Boxes(torch.arange(62 * 4.0).reshape(-1, 4))
    after = ScoreCalibration(**NUMBERS, name_offsets=OFFSETS).of_instances(found, three_classes())
    assert torch.equal(after.scores, after.scores.sort(descending=True)[0])
    assert after.scores.isfinite().all()
    for index in range(3):
        pairs = [each.pred_boxes.tensor[each.pred_classes == index] for each in (found, after)]
        assert torch.equal(*pairs)
    assert after.pred_classes.tolist() != found.pred_classes.tolist()


def test_of_nothing():
    found = Instances((100, 100))
    found.scores, found.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    found.pred_boxes = Boxes(torch.zeros(0, 4))
    assert len(ScoreCalibration(**NUMBERS, name_offsets=OFFSETS).of_instances(found, three_classes())) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("trained_slope", 0.0), ("other_slope", -1.0), ("threshold", 1.5), ("other_threshold", -0.1),
     ("other_offset", float("nan")), ("trained_offset", "0"), ("name_offsets", {"cup": float("inf")})],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(key, value):
    with pytest.raises(InputError, match="calibration"):
        ScoreCalibration(**{**NUMBERS, key: value})


class _Session:
    """An exported file's stand-in: two detections of the first two rows."""

    def get_inputs(self):
        return []

    def get_overridable_initializers(self):
        return []

    def run(self, _, inputs):
        boxes = np.float32([[0, 0, 9, 9], [20, 20, 40, 40]])
        return [boxes, np.float32([0.5, 0.4]), np.int64([0, 1])]


def test_an_exported_detector_calibrates_by_its_description():
    numbers = {**NUMBERS, "name_offsets": {"dog": 2.0}}
    classes = ClassEmbeddings.of(torch.eye(2), ["cat", "dog"], [True, True])
    image = {"image": torch.zeros(3, 50, 50, dtype=torch.uint8), "height": 50, "width": 50}
    detector = OnnxDetector(_Session(), ScoreCalibration(**numbers))
    found = detector([image], classes=classes)[0]["instances"]
    assert found.pred_classes.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, expit(1.5 * logit([0.4, 0.5]) - 0.5 + np.array([2, 0])), rtol=1e-5)
    assert detector.default_thresholds == (0.3, 0.1) and OnnxDetector(_Session()).default_thresholds is None
    description = {"format": FORMAT, "teacher": "conse", "width": 2, "fingerprint": "", "templates": "a",
                   "resize": {"short_edge_length": 50, "max_size": 50}}  # fmt: skip
    read = read_description(json.dumps({**description, "calibration": numbers}), "x.onnx")
    assert read.calibration == ScoreCalibration(**numbers)
    with pytest.raises(InputError, match="trained_slope"):
        read_description(json.dumps({**description, "calibration": {"threshold": 0.3}}), "x.onnx")
    assert read_description(json.dumps(description), "x.onnx").calibration is None
