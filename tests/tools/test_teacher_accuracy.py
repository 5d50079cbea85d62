"""Zero-shot accuracy of teachers: the arithmetic beside scikit-learn's, and a teacher that knows the answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from teacher_accuracy import ClassAccuracy, ZeroShotReport, inspect_teacher, print_reports, rank_of_truth

from ovdet.errors import InputError

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "gray": (90, 90, 90)}


class ColorTeacher:
    """Crops by their mean color, names by the color they name."""

    name, width, input_size, temperature = "colors", 3, (8, 8), 0.01
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    device = torch.device("cpu")
    fingerprint = "0" * 16

    def encode_image(self, pixels):
        return F.normalize(pixels.mean((2, 3)), dim=1)

    def encode_text(self, texts):
        return F.normalize(torch.tensor([COLORS[text.split()[-1]] for text in texts]).float(), dim=1)


@pytest.fixture
def data(tmp_path):
    """One photo with a box of each color but gray, a green one that is called red, and a crowd of blue."""
    pixels = np.zeros((40, 90, 3), np.uint8)
    for index, color in enumerate(("red", "green", "blue", "green", "blue")):
        pixels[:, 18 * index : 18 * index + 18] = COLORS[color]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    names = list(COLORS)
    truth = ("red", "green", "blue", "red", "red")
    content = {
        "images": [{"id": 7, "file_name": "photo.png", "height": 40, "width": 90}],
        "categories": [{"id": 10 + index, "name": name} for index, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 10 + names.index(name), "bbox": [18 * i + 4, 4, 10, 30]}
            for i, name in enumerate(truth)
        ],
    }
    content["annotations"][-1]["iscrowd"] = 1
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"base": ["red", "gray"], "novel": ["green", "blue"]}))
    return tmp_path


def inspect(data, **options):
    (report,) = inspect_teacher(ColorTeacher(), data / "truth.json", data, split=data / "split.json", **options)
    return report


def test_ranks_give_scikit_learns_top_k_accuracy():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn(200, 12, generator=generator)
    labels = torch.randint(0, 12, (200,), generator=generator)
    ranks = rank_of_truth(similarities, labels)
    for k in (1, 5):
        expected = metrics.top_k_accuracy_score(labels, similarities, k=k, labels=range(12))
        assert (ranks < k).float().mean().item() == pytest.approx(expected)
    assert rank_of_truth(torch.zeros(1, 4), torch.tensor([0])).tolist() == [3]  # a teacher that says nothing
    assert rank_of_truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_each_class_by_its_own_objects(data):
    report = inspect(data)
    assert {each.name: (each.subset, each.objects, each.top1, each.top5) for each in report.classes} == {
        "red": ("base", 2, 0.5, 1.0),  # of the crowd nothing is seen
        "green": ("novel", 1, 1.0, 1.0),
        "blue": ("novel", 1, 1.0, 1.0),
        "gray": ("base", 0, None, None),
    }
    assert (report.mean("top1", "base"), report.mean("top1", "novel")) == (0.5, 1.0)
    assert report.mean("top1") == pytest.approx(2.5 / 3)  # of the three that have objects
    written = report.as_dict()
    assert written["base"] == {"top1": 0.5, "top5": 1.0, "classes": 1, "objects": 2}  # gray has none
    assert written["templates"] == ["a {}"] and len(written["per_class"]) == 4


def test_some_objects_are_the_same_each_time(data):
    drawn = [inspect(data, max_objects=2) for _ in range(2)]
    assert drawn[0] == drawn[1] and sum(each.objects for each in drawn[0].classes) == 2
    assert inspect(data, max_objects=100) == inspect(data)


def test_a_file_that_the_json_names_twice(data):
    """Each object counts for its own class, though the two photos of one file have another between them."""
    Image.new("RGB", (90, 40), COLORS["green"]).save(data / "green.png")
    content = json.loads((data / "truth.json").read_text())
    files, truth, places = (
        ("photo.png", "green.png", "photo.png"),
        (10, 13, 12),
        (4, 4, 40),
    )  # the green one called gray
    content["images"] = [{"id": i, "file_name": file, "height": 40, "width": 90} for i, file in enumerate(files)]
    content["annotations"] = [
        {"id": i, "image_id": i, "category_id": category, "bbox": [x, 4, 10, 30]}
        for i, (category, x) in enumerate(zip(truth, places, strict=True))
    ]
    (data / "truth.json").write_text(json.dumps(content))
    found = {each.name: each.top1 for each in inspect(data).classes}
    assert found == {"red": 1.0, "green": None, "blue": 1.0, "gray": 0.0}


def test_both_ways_to_look_are_summed(data, monkeypatch):
    """Of a teacher that sees whole photos too: each way is wrong about one object, both together about none."""
    in_photo = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [1, -0.5, 0]])
    monkeypatch.setattr("teacher_accuracy.ConseTeacher", ColorTeacher)
    monkeypatch.setattr("teacher_accuracy.RoIFeatureEmbedder", lambda **_: lambda photo, boxes: in_photo)
    reports = inspect_teacher(ColorTeacher(), data / "truth.json", data, split=data / "split.json")
    found = {report.view: {each.name: each.top1 for each in report.classes if each.objects} for report in reports}
    assert found == {
        "crops": {"red": 0.5, "green": 1.0, "blue": 1.0},
        "RoI features": {"red": 1.0, "green": 0.0, "blue": 1.0},
        "both": {"red": 1.0, "green": 1.0, "blue": 1.0},
    }


def test_without_a_split_all_classes_are_base(data):
    (report,) = inspect_teacher(ColorTeacher(), data / "truth.json", data)
    assert report.mean("top1", "novel") is None
    assert report.mean("top1", "base") == report.mean("top1", "all")


def test_a_table_of_classes_and_means(capsys):
    classes = (ClassAccuracy("cat", "base", 4, 0.25, 0.75), ClassAccuracy("dog", "base", 0, None, None))
    first = ZeroShotReport("crops", "conse", "0" * 16, ("a {}",), classes)
    print_reports([first])
    shown = capsys.readouterr().out
    assert "25.0" in shown and "mean of 1 classes" in shown and "novel" not in shown and "crops" not in shown
    better = ClassAccuracy("cat", "base", 4, 0.5, 1.0)
    print_reports([first, ZeroShotReport("both", "conse", "0" * 16, ("a {}",), (better, classes[1]))])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("crops", "both", "25.0", "50.0", "100.0"))


def test_what_is_refused(data):
    with pytest.raises(InputError, match="expected at least 1 object, got 0"):
        inspect(data, max_objects=0)
    with pytest.raises(InputError, match="expected templates"):
        inspect(data, templates="foto")
    Image.new("RGB", (90, 41)).save(data / "photo.png")
    with pytest.raises(InputError, match=r"photo.png of \(height, width\) \(40, 90\) as annotated, got \(41, 90\)"):
        inspect(data)
