"""What CVAT, SAHI and FiftyOne get, with stand-ins that have the classes and fields of theirs that are used.

test_label_tools.py asks the packages themselves, where they are installed.
"""

from __future__ import annotations

import abc
import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ovdet.integrations
from ovdet.errors import InputError
from ovdet.inference.detections import Detections
from ovdet.inference.predictor import OpenVocabPredictor

BOXES = np.float32([[10, 20, 40, 60], [-5, 0, 110, 50]])


class Finder:
    """Finds two things in whatever it is shown; its names are those that it was given."""

    def __init__(self, names=("dog", "red kite"), boxes=BOXES):
        self.names, self.boxes, self.asked, self.batches = names, boxes, [], []

    def set_vocabulary(self, vocabulary):
        self.names = vocabulary.names

    def embed(self, names):
        return SimpleNamespace(names=tuple(names))

    def __call__(self, image, **options):
        self.asked.append(options)
        size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
        number = len(self.boxes)
        scores, ids = np.float32([0.9, 0.4])[:number], np.array([1, 0])[:number]
        return Detections(self.boxes, scores, ids, ("red kite", "dog")[:number], size)

    def detect_batch(self, images, **options):
        self.batches.append(len(images))
        return [self(image, **options) for image in images]


NOTHING = np.zeros((0, 4), np.float32)


@pytest.fixture
def stand_in(monkeypatch):
    """`stand_in("cvat", {module: its contents})` -> ovdet.integrations.cvat, imported with these modules."""
    paths = [f"ovdet.integrations.{name}" for name in ("cvat", "sahi", "fiftyone")]
    before = {path: sys.modules.pop(path) for path in paths if path in sys.modules}

    def put(name, modules):
        for path, contents in modules.items():
            module = ModuleType(path)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, path, module)
            parent, _, child = path.rpartition(".")
            if parent:
                monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
        monkeypatch.setattr(ovdet.integrations, name, None, raising=False)
        return importlib.import_module(f"ovdet.integrations.{name}")

    yield put
    for path in paths:  # whoever comes next has the packages, or has none
        sys.modules.pop(path, None)
    sys.modules.update(before)


@pytest.fixture
def cvat(stand_in):
    @dataclass(frozen=True, kw_only=True)
    class DetectionFunctionSpec:
        labels: list

    @dataclass
    class Label:
        name: str
        id: int
        type: str

    @dataclass
    class Shape:
        label_id: int
        points: list
        type: str = "rectangle"
        frame: int = 0

    auto = dict(
        DetectionFunctionSpec=DetectionFunctionSpec,
        DetectionFunctionContext=abc.ABC,
        label_spec=lambda name, id, **more: Label(name, id, **more),
        rectangle=lambda label_id, points, **more: Shape(label_id, points, **more),
    )
    models = dict(LabeledShapeRequest=Shape)
    return stand_in("cvat", {"cvat_sdk": {}, "cvat_sdk.models": models, "cvat_sdk.auto_annotation": auto})


def test_cvat_gets_rectangles_of_its_own_labels(cvat):
    function = cvat.DetectionFunction(Finder(), threshold=0.2)
    assert [(label.id, label.name, label.type) for label in function.spec.labels] == [
        (0, "dog", "rectangle"),
        (1, "red kite", "rectangle"),
    ]
    for asked, used in ((None, 0.2), (0.6, 0.6), (0.0, 0.0)):
        shapes = function.detect(SimpleNamespace(conf_threshold=asked, frame_name="a"), Image.new("RGB", (120, 90)))
        assert [(shape.label_id, shape.points) for shape in shapes] == [(1, [10, 20, 40, 60]), (0, [-5, 0, 110, 50])]
        assert function.predictor.asked[-1] == {"threshold": used}
    nobody = cvat.DetectionFunction(Finder(boxes=NOTHING))
    assert nobody.detect(SimpleNamespace(conf_threshold=None), Image.new("RGB", (9, 9))) == []
    with pytest.raises(InputError, match="expected a predictor with names"):
        cvat.DetectionFunction(Finder(names=()))


def test_cvats_command_line_makes_one(cvat, monkeypatch):
    """Arguments come as text: names with commas, synonyms with semicolons."""
    asked = []
    monkeypatch.setattr(
        OpenVocabPredictor,
        "from_pretrained",
        lambda model, **options: asked.append((model, options)) or Finder(names=()),
    )
    function = cvat.create("dog; puppy,red kite", threshold=0.3, device="cpu")
    assert [label.name for label in function.spec.labels] == ["dog", "red kite"] and function.threshold == 0.3
    assert asked == [("ovdet-lite", {"device": "cpu"})]


@pytest.fixture
def sahi(stand_in):
    @dataclass
    class ObjectPrediction:
        bbox: list
        category_id: int
        category_name: str
        score: float
        shift_amount: list = field(default_factory=lambda: [0, 0])
        full_shape: list | None = None

    class DetectionModel:
        def __init__(self, model_path=None, model=None, device=None, confidence_threshold=0.3, load_at_init=True):
            self.model_path, self.device, self.confidence_threshold = model_path, device, confidence_threshold
            if load_at_init:
                self.set_model(model) if model else self.load_model()

    parts = {"sahi.models.base": dict(DetectionModel=DetectionModel)}
    parts["sahi.prediction"] = dict(ObjectPrediction=ObjectPrediction)
    return stand_in("sahi", {"sahi": {}, "sahi.models": {}, **parts})


def predictions_of(model, *given):
    model._create_object_prediction_list_from_original_predictions(*given)
    return model._object_prediction_list_per_image


def test_sahi_gets_boxes_within_the_slice(sahi):
    model = sahi.OvdetDetectionModel(text_labels=["dog", "red kite"], model=Finder(), confidence_threshold=0.25)
    assert model.category_mapping == {"0": "dog", "1": "red kite"}
    model.perform_inference(np.zeros((45, 100, 3), np.uint8))
    ((kite, dog),) = predictions_of(model)
    assert (kite.category_id, kite.category_name, kite.bbox) == (1, "red kite", [10, 20, 40, 45])
    assert dog.bbox == [0, 0, 100, 45] and dog.score == pytest.approx(0.4)
    assert kite.shift_amount == [0, 0] and kite.full_shape == [45, 100]
    (asked,) = model.model.asked
    assert (asked["threshold"], asked["channel_order"]) == (0.25, "RGB") and asked["classes"].names[0] == "dog"
    model.perform_inference(np.zeros((20, 100, 3), np.uint8))  # the kite begins where this slice ends
    assert [[each.category_name for each in found] for found in predictions_of(model)] == [["dog"]]


def test_sahi_shifts_each_slice_by_its_own(sahi):
    model = sahi.OvdetDetectionModel(text_labels=["dog"], model=Finder())
    model.perform_batch_inference([np.zeros((80, 120, 3), np.uint8)] * 2)
    assert model.model.batches == [2], "one pass of the network"
    first, second = predictions_of(model, [[0, 0], [120, 0]], [[80, 240], [80, 240]])
    assert [each[0].shift_amount for each in (first, second)] == [[0, 0], [120, 0]]
    assert second[0].full_shape == [80, 240]
    first, second = predictions_of(model, [7, 8], [90, 300])  # one for all
    assert first[1].shift_amount == second[1].shift_amount == [7, 8] and second[1].full_shape == [90, 300]
    model.model.boxes = NOTHING
    model.perform_inference(np.zeros((80, 120, 3), np.uint8))
    assert predictions_of(model) == [[]]


def test_sahi_loads_by_name(sahi, monkeypatch):
    asked = []
    monkeypatch.setattr(
        OpenVocabPredictor, "from_pretrained", lambda *words, **options: asked.append((words, options)) or Finder()
    )
    later = sahi.OvdetDetectionModel(text_labels=["dog"], device="cpu", load_at_init=False)
    assert not asked
    later.load_model()
    assert asked == [(("ovdet-lite",), {"device": "cpu"})] and later.category_mapping == {"0": "dog"}


@pytest.fixture
def fiftyone(stand_in):
    class Fields:
        def __init__(self, **given):
            vars(self).update(given)

    own = dict(Detection=type("Detection", (Fields,), {}), Detections=type("Detections", (Fields,), {}))
    modules = {"fiftyone": own, "fiftyone.core": {}, "fiftyone.core.models": dict(Model=type("Model", (), {}))}
    return stand_in("fiftyone", modules)


def test_fiftyone_gets_boxes_relative_to_the_photo(fiftyone):
    model = fiftyone.OvdetModel(Finder(), ["dog", "red kite"], threshold=0.1)
    assert (model.media_type, model.ragged_batches, model.transforms) == ("image", True, None)
    assert not model.preprocess
    model.preprocess = True  # FiftyOne sets it
    assert model.preprocess
    small, large = model.predict_all([np.zeros((100, 200, 3), np.uint8), np.zeros((200, 400, 3), np.uint8)])
    kite, dog = small.detections
    assert (kite.label, dog.label) == ("red kite", "dog") and kite.confidence == pytest.approx(0.9)
    assert kite.bounding_box == pytest.approx([0.05, 0.2, 0.15, 0.4])
    assert large.detections[0].bounding_box == pytest.approx([0.025, 0.1, 0.075, 0.2])
    asked = model.predictor.asked[0]
    assert (asked["threshold"], asked["channel_order"]) == (0.1, "RGB")
    model.predictor.boxes = NOTHING
    assert model.predict(np.zeros((10, 10, 3), np.uint8)).detections == []
