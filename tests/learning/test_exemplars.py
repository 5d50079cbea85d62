"""Exemplars: in Python and on the command line, alone and beside names, and what is none."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ovdet.errors import InputError
from ovdet.inference.load import load_predictor
from ovdet.learning.exemplars import exemplar_photos, parse_exemplars

ALL = dict(threshold=0, class_agnostic_iou=1, max_containment=1)


@pytest.fixture(scope="module")
def predictor(tiny_files):
    _, config, _, weights = tiny_files.arguments
    return load_predictor(None, config, weights, overrides=tiny_files.overrides, device="cpu")


@pytest.fixture(scope="module")
def boxes(striped):
    """The box x1, y1, x2, y2 on each photo."""
    found = json.loads((striped / "my.json").read_text())["annotations"]
    return [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in found)]


def test_boxes_in_photos_find_the_thing(predictor, striped, boxes):
    shown = {"zebra crossing": [(striped / f"{n}.png", boxes[n]) for n in range(2)]}
    found = predictor(striped / "5.png", exemplars=shown, **ALL)
    assert set(found.labels) == {"zebra crossing"}
    x, y = (found.boxes[0, :2] + found.boxes[0, 2:]) / 2
    x1, y1, x2, y2 = boxes[5]
    assert x1 < x < x2 and y1 < y < y2
    # beside names, whose scores stay; and as a value for many photos
    alone = predictor(striped / "5.png", ["red circle"], **ALL)
    both = predictor(striped / "5.png", ["red circle"], exemplars=shown, **ALL)
    assert set(both.labels) == {"red circle", "zebra crossing"}
    assert np.array_equal(both.scores[np.array(both.labels) == "red circle"], alone.scores)
    kept = predictor.embed_exemplars(shown)
    assert np.array_equal(predictor(striped / "5.png", classes=kept, **ALL).scores, found.scores)


def test_a_crop_is_the_thing_as_a_whole(predictor, striped, boxes):
    crop = Image.open(striped / "0.png").crop(boxes[0])
    names, (photo,) = exemplar_photos({"zebra crossing": [crop]})
    assert names == ["zebra crossing"] and photo.boxes.tolist() == [[0, 0, 1e9, 1e9]]
    assert len(predictor(striped / "5.png", exemplars={"zebra crossing": [crop]}, **ALL))


def test_boxes_of_one_file_are_of_one_photo():
    names, photos = exemplar_photos({"a": [("x.jpg", [0, 0, 5, 5]), "y.jpg"], "b": [("x.jpg", [5, 5, 9, 9])]})
    assert names == ["a", "b"] and [photo.class_ids.tolist() for photo in photos] == [[0, 1], [0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "mapping"),
        ({"a": "x.jpg"}, "list of photos"),
        ({"a": []}, "list of photos"),
        ({"a": [("x.jpg", [1, 2, 3])]}, r"\[1, 2, 3\]"),
        ({"a": [("x.jpg", 7)]}, "'a', got 7"),
        ({"a": [("x.jpg", ["1", "2", "3", "x"])]}, "'a', got"),
        ({"a": [("x.jpg", [1, 2, 3, torch.nan])]}, "finite.*3.0, nan"),
        ({"a": [("x.jpg", [1, 2, torch.inf, 4])]}, "finite.*inf, 4.0"),
        ({"a": [("x.jpg", [[1, 2, 3, 4], [1, 2, 3, 4]])]}, "one box.*got 2"),
    ],
)
def test_what_is_no_exemplar(given, message):
    with pytest.raises(InputError, match=message):
        exemplar_photos(given)


def test_what_a_command_line_takes(striped):
    first, second = striped / "0.png", striped / "1.png"
    got = parse_exemplars([f"my mug={first}, {second}[1,2, 30,40.5]", f"my mug={first}"])
    assert got == {"my mug": [(str(first), None), (str(second), (1, 2, 30, 40.5)), (str(first), None)]}
    for box in ("nan,1,2,3", "1,2,3,inf", "1,2,3"):
        with pytest.raises(InputError, match=re.escape(f"got [{box}]")):
            parse_exemplars([f"my mug={first}[{box}]"])


def test_each_file_of_an_exemplar_may_be_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"photo")
    found = parse_exemplars(["my mug=~/a.jpg, ~/b.jpg[1,2,3,4]"])
    assert found == {"my mug": [(str(tmp_path / "a.jpg"), None), (str(tmp_path / "b.jpg"), (1, 2, 3, 4))]}


def test_the_command(tiny_files, run_tool, striped, boxes, tmp_path):
    exemplar = f"zebra crossing={striped / '0.png'}[{','.join(map(str, boxes[0]))}]"
    seen = ["--input", striped / "5.png", "--output", tmp_path, "--threshold", "0"]
    detector = [*tiny_files.arguments, *tiny_files.overrides]
    assert run_tool("demo.py", *seen, "--exemplar", exemplar, "--vocabulary", "red circle", *detector)[0] == 0
    found = json.loads((tmp_path / "detections.json").read_text())[0]["detections"]
    assert {each["label"] for each in found} == {"zebra crossing", "red circle"}
    for text, message in (
        ("mug", "name=photo.jpg"),
        (f"mug={striped / 'none.png'}", "none.png"),
        (f"mug={striped / '0.png'}[1,2,3]", "[1,2,3]"),
        (f"mug={striped / '0.png'}[50,50,50,90]", "50.0, 50.0, 50.0, 90.0"),
    ):
        code, _, error = run_tool("demo.py", *seen, "--exemplar", text, *detector)
        assert code == 2 and message in error and len(error.strip().splitlines()) == 1
