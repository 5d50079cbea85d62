"""`ovdet calibrate` as a user runs it, and what it makes of detections that are right as often as they say."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.cli.arguments import parse_set
from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.inference import calibrate
from ovdet.inference.calibrate import Measured, PhotoDetections, fit_calibration
from ovdet.inference.predictor import OpenVocabPredictor

NAMES = ["chair", "bottle", "tabby cat"]  # two were trained


def measured(number=200, hit=lambda score, random: random.random() < score):
    """Photos with one detection of each of two names, of which the first was trained."""
    random, into = np.random.default_rng(0), Measured(["dog", "red kite"], [True, False])
    for _ in range(number):
        scores, box = random.uniform(0.05, 0.95, 2), [10.0, 10, 20, 20]
        boxes = torch.tensor([[10.0, 10, 30, 30]] * 2) + 50 * torch.arange(2)[:, None]
        truth = [
            {"category_id": place, "bbox": [box[0] + 50 * place, box[1] + 50 * place, 20, 20], "iscrowd": 0}
            for place in range(2)
            if hit(scores[place] * (1, 0.3)[place], random)
        ]
        into.photos.append(PhotoDetections(boxes, scores, np.arange(2), truth))
    return into


def test_scores_become_shares_and_the_threshold_is_precise_enough():
    calibration, kinds = fit_calibration(measured(), precision=0.6)
    assert kinds["trained"].precision >= 0.6 and kinds["trained"].names == kinds["other"].names == 1
    assert kinds["trained"].threshold == calibration.threshold < 0.6
    assert calibration.trained_slope == pytest.approx(1, abs=0.35) and abs(calibration.trained_offset) < 0.4
    assert calibration.other_offset < -1  # three in ten of what its scores say
    stricter, _ = fit_calibration(measured(), precision=0.8)
    assert stricter.threshold > calibration.threshold


@pytest.mark.parametrize(
    ("change", "precision", "expected"),
    [
        ({"is_trained": [True, True]}, 0.5, "were not trained on"),
        ({"is_trained": [False, False]}, 0.5, "were trained on"),
        ({}, 1.01, "within (0, 1]"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change, precision, expected):
    into = measured()
    for key, value in change.items():
        setattr(into, key, value)
    with pytest.raises(InputError, match=re.escape(expected)):
        fit_calibration(into, precision)


def test_scores_that_tell_nothing_are_refused():
    with pytest.raises(InputError, match="higher where they find an object|precise|is none"):
        fit_calibration(measured(hit=lambda score, random: random.random() < 0.95 - score), 0.9)


def test_a_precision_that_no_threshold_has_is_refused():
    into = measured(hit=lambda score, random: random.random() < score / 2)
    with pytest.raises(InputError, match="from which on 0.95 of trained names are right, there is none"):
        fit_calibration(into, 0.95)


@pytest.fixture
def photo_set(tmp_path):
    """A folder with two photos and a json of the names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate((data.chelsea(), data.coffee())):
        Image.fromarray(pixels).resize((320, 240)).save(folder / f"{number}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 320, "height": 240} for n in range(2)]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    cat = {"id": 1, "image_id": 0, "category_id": 2, "bbox": [60, 20, 200, 200], "iscrowd": 0, "area": 40000}
    chair = {**cat, "id": 2, "image_id": 1, "category_id": 0}
    file = tmp_path / "set.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": [cat, chair]}))
    return file, folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "nothing"], "--set X.json=DIR"),
        (["--set", "gone.json=photos"], "gone.json"),
        (["--set", "gone.json=photos", "--card", "gone.md"], "model card"),
        (["--set", "gone.json=photos", "--precision", "0"], "--precision within (0, 1], got 0.0"),
        (["--set", "gone.json=photos", "--precision", "1.5"], "--precision within (0, 1], got 1.5"),
    ],
)
def test_bad_input_is_one_line(ovdet, tmp_path, words, expected):
    code, _, err = ovdet("calibrate", "--model", "ovdet-lite-base48", "--output", tmp_path / "out", *words)
    assert code == 2 and expected in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my.json=photos", ("my.json", "photos")),
        ("a=b.json=photos", ("a=b.json", "photos")),
        ("my.JSON=date=2024/photos", ("my.JSON", "date=2024/photos")),
        ("my=photos", ("my", "photos")),
    ],
)
def test_a_set_is_a_json_and_a_folder(text, expected):
    assert parse_set(text) == expected


def test_both_parts_of_a_set_may_be_in_the_home_folder(monkeypatch):
    """A shell leaves "~" behind "=" as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    expected = ("/home/me/kitchen/my.json", "/home/me/kitchen/photos")
    assert parse_set("~/kitchen/my.json=~/kitchen/photos") == parse_set("/home/me/kitchen/my.json=~/kitchen/photos")
    assert parse_set("~/kitchen/my.json=~/kitchen/photos") == expected


@pytest.mark.parametrize("text", ["my.json", "my.json=", "=photos", ""])
def test_what_is_no_set(text):
    with pytest.raises(InputError, match="expected --set X.json=DIR"):
        parse_set(text)


def test_what_is_measured(tiny_files, tmp_path):
    """All that a detector finds of all names of a set, with their places among the names of all sets."""
    _, config, _, weights = tiny_files.arguments
    predictor = OpenVocabPredictor.from_config(config, weights, overrides=tiny_files.overrides)
    rows = torch.randn(2, 384)  # of any text encoder
    predictor.embed = lambda names: ClassEmbeddings.of(rows, names, [name == "Red_Circle" for name in names])
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    Image.new("RGB", (48, 64), "blue").save(tmp_path / "b.png")
    images = [{"id": n, "file_name": f"{name}.png", "width": 64, "height": 48} for n, name in enumerate("ab")]
    images[1].update(width=48, height=64)
    box = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [2, 3, 20, 20], "iscrowd": 0, "area": 400}

    def read(names, annotations):
        categories = [{"id": number, "name": name} for number, name in names.items()]
        file = tmp_path / "set.json"
        file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
        return calibrate.read_set(file, tmp_path)

    first, second = read({3: "lynx", 9: "wheel"}, []), read({5: "Red_Circle", 9: "wheel"}, [box])
    trained = read({5: "Red_Circle", 9: "wheel"}, [{**box, "category_id": 5}])
    into = calibrate.measure(predictor, [first, second, trained])
    assert into.names == ["lynx", "wheel", "red circle"] and into.is_trained == [False, False, True]
    assert [[each["category_id"] for each in photo.truth] for photo in into.photos] == [[], [], [], [1], [], [2]]
    for photo, size in zip(into.photos, ((64, 48), (48, 64)) * 3, strict=True):
        assert len(photo.boxes) == len(photo.scores) == len(photo.class_ids) > 0
        assert (photo.boxes.amax(0)[2:] <= torch.tensor(size) + 1e-3).all()
    assert set(into.photos[0].class_ids.tolist()) <= {0, 1} and set(into.photos[2].class_ids.tolist()) <= {1, 2}
    everything = dict(threshold=0, class_agnostic_iou=1, max_containment=1)
    raw = predictor(tmp_path / "a.png", classes=predictor.embed(["red circle", "wheel"]), **everything)
    np.testing.assert_allclose(np.sort(into.photos[2].scores), np.sort(raw.scores), atol=1e-5)
    # what is known before a photo is looked at
    predictor.embed_photo = lambda _: pytest.fail("looked at a photo")
    for sets, message in (
        ([first, second], "boxes of names that were trained on among all sets"),
        ([first, trained], "boxes of names that were not trained on among all sets"),
        (
            [read({5: "Red_Circle", 9: "wheel"}, [box, {**box, "id": 2, "category_id": 5, "iscrowd": 1}])],
            "were trained",
        ),
    ):
        with pytest.raises(InputError, match=message):
            calibrate.measure(predictor, sets)
    predictor.embed = lambda names: ClassEmbeddings.of(rows, names)
    with pytest.raises(InputError, match="says which names it was trained on, this one does not"):
        calibrate.measure(predictor, [second])


def test_the_command_writes_a_folder_and_says_its_figures(ovdet, tmp_path, monkeypatch):
    """Of figures that stand for what is measured; the folder has them in its config."""
    asked = []
    monkeypatch.setattr(calibrate, "read_set", lambda *given: given)
    monkeypatch.setattr(calibrate, "measure", lambda predictor, sets: asked.extend(sets) or measured())
    words = ["--model", "ovdet-lite-base48", "--set", "a=b.json=photos", "--set", "c.json=more"]
    code, out, err = ovdet("calibrate", *words, "--output", tmp_path / "out", "--precision", "0.6", "--json")
    assert code == 0, err
    assert asked == [("a=b.json", "photos"), ("c.json", "more")]
    said = json.loads(out)
    expected, kinds = fit_calibration(measured(), 0.6)
    assert said["calibration"] == dataclasses.asdict(expected) and said["trained"] == kinds["trained"]._asdict()
    assert said["output"] == str(tmp_path / "out")
    written = open_config(find_model(tmp_path / "out").config_file).model.roi_heads.calibration
    assert written.threshold == kinds["trained"].threshold and written.other_threshold == kinds["other"].threshold


@pytest.mark.slow
def test_a_calibrated_folder_finds_the_same_with_other_scores(ovdet, photo_set, tmp_path, monkeypatch):
    file, folder = photo_set
    before = OpenVocabPredictor.from_pretrained("ovdet-lite-base48", device="cpu")
    into = calibrate.measure(before, [calibrate.read_set(file, folder)])
    assert into.names == ["chair", "bottle", "tabby cat"] and into.is_trained == [True, True, False]
    everything = dict(threshold=0, class_agnostic_iou=1, max_containment=1)
    raw = before(str(folder / "0.png"), names=NAMES, **everything)
    np.testing.assert_allclose(into.photos[0].scores, raw.scores, atol=1e-5)
    assert [into.names[index] for index in into.photos[0].class_ids] == list(raw.labels)
    assert into.photos[0].truth[0]["category_id"] == 2 and len(into.photos[1].truth) == 1
    # a folder that other photos calibrated
    monkeypatch.setattr(calibrate, "measure", lambda *_: measured())
    words = ["--model", "ovdet-lite-base48", "--set", f"{file}={folder}"]
    code, out, err = ovdet("calibrate", *words, "--output", tmp_path / "out", "--json")
    assert code == 0, err
    said = json.loads(out)
    after = OpenVocabPredictor.from_pretrained(tmp_path / "out", device="cpu")
    assert after.model.default_thresholds == (said["trained"]["threshold"], said["other"]["threshold"])
    again = after(str(folder / "0.png"), names=NAMES, **everything)
    for label in NAMES:
        boxes = [one.boxes[[each == label for each in one.labels]] for one in (raw, again)]
        np.testing.assert_allclose(*boxes, atol=0.5)
    assert not np.allclose(np.sort(again.scores), np.sort(raw.scores), atol=0.01)
