"""Learned classes with the tiny detector: other scores stay to the bit; files; what is refused; the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet.class_embeddings import NEGATIVE
from ovdet.errors import InputError
from ovdet.inference.load import load_predictor
from ovdet.inference.predictor import OpenVocabPredictor
from ovdet.learning.classes_file import join_learned, load_classes, save_classes
from ovdet.learning.examples import label_regions
from ovdet.learning.learn import detector_fingerprint
from ovdet.learning.probe import BACKGROUND, IGNORED

ASKED = ["red circle", "wheel"]
ALL = dict(threshold=0, class_agnostic_iou=1, max_containment=1)


@pytest.fixture(scope="module")
def predictor(tiny_files) -> OpenVocabPredictor:
    _, config, _, weights = tiny_files.arguments
    return load_predictor(None, config, weights, overrides=tiny_files.overrides, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six photos of a striped square each, on noise, and their json."""
    folder = tmp_path_factory.mktemp("photos")
    random, images, annotations = np.random.default_rng(0), [], []
    for number in range(6):
        pixels = random.integers(90, 160, (160, 200, 3), dtype=np.uint8)
        x, y = random.integers(5, 90, 2).tolist()
        pixels[y : y + 60, x : x + 80] = np.where(np.arange(80)[None, :, None] // 8 % 2, 255, 0)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 160, "width": 200})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 80, 60], "area": 4800, "iscrowd": 0}
        annotations.append(box)
    categories = [{"id": 1, "name": "zebra crossing"}, {"id": 2, "name": "wheel"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "my.json").write_text(json.dumps(content))
    return folder


def examples(data) -> list:
    found = json.loads((data / "my.json").read_text())["annotations"]
    return [(data / f"{a['image_id']}.png", [[x, y, x + w, y + h]]) for a in found for x, y, w, h in [a["bbox"]]]


@pytest.fixture(scope="module")
def learned(predictor, data):
    return predictor.learn("zebra crossing", examples(data)[:4])


def of_names(found, names):
    kept = [index for index, label in enumerate(found.labels) if label in names]
    return found.boxes[kept], found.scores[kept], [found.labels[index] for index in kept]


def test_a_learned_class_is_found_and_other_scores_stay_to_the_bit(predictor, data, learned):
    before = predictor.embed(ASKED)
    both = before.with_learned(learned)
    weights = {key: value.clone() for key, value in predictor.model.state_dict().items()}
    for photo, (box,) in examples(data)[4:]:
        alone, together = predictor(photo, classes=before, **ALL), predictor(photo, classes=both, **ALL)
        for expected, found in zip(of_names(alone, ASKED), of_names(together, ASKED), strict=True):
            assert np.array_equal(expected, found) and len(found)
        assert list(together.scores) == sorted(together.scores, reverse=True)
        own = predictor(photo, classes=learned, **ALL)
        assert np.array_equal(own.scores, of_names(together, ["zebra crossing"])[1])
        x, y = (own.boxes[0, :2] + own.boxes[0, 2:]) / 2
        assert box[0] < x < box[2] and box[1] < y < box[3]
    assert all(torch.equal(value, weights[key]) for key, value in predictor.model.state_dict().items())


def test_a_learned_name_that_was_asked_for_goes_on_as_a_negative(predictor, data):
    wheel = predictor.learn("wheel", examples(data)[:2])
    before = predictor.embed(ASKED, negatives=())
    both = before.with_learned(wheel)
    assert both.names == tuple(ASKED) and both.class_ids.tolist() == [0, NEGATIVE]
    photo = data / "5.png"
    alone, together = predictor(photo, classes=before, **ALL), predictor(photo, classes=both, **ALL)
    circles = [of_names(found, ["red circle"])[1] for found in (alone, together)]
    assert np.array_equal(circles[0], circles[1][: len(circles[0])])
    with pytest.raises(InputError, match="learned"):
        both.with_learned(wheel)


def test_learning_is_repeatable(predictor, data, learned):
    again = predictor.learn("zebra crossing", examples(data)[:4])
    assert torch.equal(again.learned.weights, learned.learned.weights)


def test_a_file_gives_the_same_and_another_detector_refuses_it(predictor, data, learned, tmp_path):
    save_classes(tmp_path / "my.safetensors", learned)
    loaded = load_classes(tmp_path / "my.safetensors")
    assert loaded.names == learned.names and torch.equal(loaded.learned.weights, learned.learned.weights)
    first, second = (predictor(data / "5.png", classes=each, **ALL) for each in (learned, loaded))
    assert np.array_equal(first.scores, second.scores)
    lite = OpenVocabPredictor.from_pretrained("ovdet-lite-base48", device="cpu")
    with pytest.raises(InputError, match=f"{lite.fingerprint}.*{predictor.fingerprint}"):
        lite(data / "5.png", classes=loaded)
    with pytest.raises(InputError, match="zebra crossing"):
        join_learned([learned, loaded])  # the same name twice
    with pytest.raises(InputError, match="no file"):
        load_classes(tmp_path / "none.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    with pytest.raises(InputError, match="odd.safetensors"):
        load_classes(tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="learned rows alone"):
        save_classes(tmp_path / "names.safetensors", predictor.embed(ASKED))


def test_joined_files_score_as_alone(predictor, data, learned):
    other = predictor.learn("wheel", examples(data)[2:4])
    joined = join_learned([other, learned])
    found = predictor(data / "5.png", classes=joined, **ALL)
    alone = predictor(data / "5.png", classes=learned, **ALL)
    scores = of_names(found, ["zebra crossing"])[1]
    assert len(scores) and np.allclose(scores, alone.scores[: len(scores)], atol=1e-5)


def test_the_fingerprint_is_of_half_precision(predictor):
    before = detector_fingerprint(predictor.model)
    bias = predictor.model.roi_heads.box_predictor.bbox_pred.bias.data
    kept = bias.clone()
    bias.copy_(bias.half())
    assert detector_fingerprint(predictor.model) == before
    bias += 1
    assert detector_fingerprint(predictor.model) != before
    bias.copy_(kept)


def test_labels_of_regions():
    objects = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [50, 50, 60, 60], [80, 80, 90, 90]])
    labels, weights = label_regions(boxes, objects, torch.tensor([1, IGNORED]))
    assert labels.tolist() == [1, 1, IGNORED, IGNORED, BACKGROUND]
    assert weights.tolist() == [0.5, 0.5, 1, 1, 1]
    labels, weights = label_regions(boxes, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert set(labels.tolist()) == {BACKGROUND} and weights.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 10, 10, 40]], r"10.0, 10.0, 10.0, 40.0"),
        ([[300, 10, 350, 40]], "200 x 160"),
        ([], "zebra crossing"),
    ],
)
def test_boxes_that_are_none(predictor, data, boxes, message):
    with pytest.raises(InputError, match=message):
        predictor.learn("zebra crossing", [(data / "0.png", boxes)])


def test_the_commands(tiny_files, run_tool, data, tmp_path):
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    file, annotated = tmp_path / "my.safetensors", ["--annotations", data / "my.json", "--images", data]
    code, told, _ = run_tool("learn.py", *annotated, "--output", file, *detector)
    assert code == 0 and "1 learned from 6 photos" in told
    seen = ["--input", data / "5.png", "--output", tmp_path / "demo", "--threshold", "0", *detector]
    assert run_tool("demo.py", *seen, "--classes", file, "--vocabulary", "red circle")[0] == 0
    found = json.loads((tmp_path / "demo/detections.json").read_text())[0]["detections"]
    assert {each["label"] for each in found} == {"zebra crossing", "red circle"}
    assert run_tool("demo.py", *seen, "--classes", file)[0] == 0
    found = json.loads((tmp_path / "demo/detections.json").read_text())[0]["detections"]
    assert {each["label"] for each in found} == {"zebra crossing"}
    figures = []
    for number, more in enumerate(([], ["--classes", file])):
        output = tmp_path / f"evaluation{number}"
        assert run_tool("evaluate.py", *annotated, "--output", output, *detector, *more)[0] == 0
        figures.append((output / "metrics.json").read_text())
    assert figures[0] != figures[1]
    # what is refused
    for name, arguments, message in (
        ("learn.py", [*annotated, "--output", file, "--name", "cat"], "cat"),
        ("learn.py", [*annotated, "--output", tmp_path / "my.txt"], "my.txt"),
        ("demo.py", [*seen], "neither"),
        ("demo.py", ["--input", data / "5.png", "--output", tmp_path / "demo", "--classes", file], "another's"),
    ):
        code, _, error = run_tool(name, *arguments, *(detector if name == "learn.py" else []))
        assert code == 2 and message in error and len(error.strip().splitlines()) == 1


def test_photos_of_another_json_are_background(tiny_files, run_tool, data, tmp_path):
    content = json.loads((data / "my.json").read_text())
    content["annotations"] = content["annotations"][:2]  # the other four show none
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ["--annotations", data / "my.json", "--images", data, "--negatives-from", tmp_path / "other.json"]
    file = tmp_path / "my.safetensors"
    code, told, _ = run_tool("learn.py", *arguments, "--output", file, *tiny_files.arguments, *tiny_files.overrides)
    assert code == 0 and "from 10 photos" in told
