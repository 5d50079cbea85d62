"""Zero-shot accuracy: the arithmetic beside scikit-learn's, open_clip's own way, a teacher that knows."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn import metrics

from ovdet.errors import InputError
from ovdet.teacher_lab.embed import central_box, crop_view, embed_objects
from ovdet.teacher_lab.labeled import draw_objects, read_class_folders, read_coco_boxes
from ovdet.teacher_lab.tables import zero_shot_table
from ovdet.teacher_lab.zero_shot import ClassAccuracy, ZeroShotReport, classify, rank_of_truth
from ovdet.teachers.registry import load_teacher
from ovdet.text.vocabulary import Vocabulary


@pytest.fixture
def data(tmp_path, colors):
    """One photo with a box of each color but gray, a green one that is called red, and a crowd of blue."""
    pixels = np.zeros((40, 90, 3), np.uint8)
    for index, color in enumerate(("red", "green", "blue", "green", "blue")):
        pixels[:, 18 * index : 18 * index + 18] = colors[color]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    names = list(colors)
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


@pytest.fixture
def inspect(data, color_teacher):
    """The report of that photo's boxes."""

    def inspect(*, split="split.json", max_objects=None, **options):
        boxes = read_coco_boxes(data / "truth.json", data, split and data / split)
        (report,) = classify(color_teacher, draw_objects(boxes, max_objects), **options)
        return report

    return inspect


def test_ranks_give_scikit_learns_top_k_accuracy():
    generator = torch.Generator().manual_seed(0)
    similarities = torch.randn(200, 12, generator=generator)
    labels = torch.randint(0, 12, (200,), generator=generator)
    ranks = rank_of_truth(similarities, labels)
    for k in (1, 5):
        expected = metrics.top_k_accuracy_score(labels, similarities, k=k, labels=range(12))
        assert (ranks < k).float().mean().item() == pytest.approx(expected)
    assert rank_of_truth(torch.zeros(1, 4), torch.tensor([0])).tolist() == [3]  # a teacher that says nothing
    assert rank_of_truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_each_class_by_its_own_objects(inspect):
    report = inspect()
    assert {each.name: (each.subset, each.objects, each.top1, each.top5) for each in report.classes} == {
        "red": ("base", 2, 0.5, 1.0),  # of the crowd nothing is seen
        "green": ("novel", 1, 1.0, 1.0),
        "blue": ("novel", 1, 1.0, 1.0),
        "gray": ("base", 0, None, None),
    }
    assert (report.mean("top1", "base"), report.mean("top1", "novel")) == (0.5, 1.0)
    assert report.mean("top1") == pytest.approx(2.5 / 3)  # of the three that have objects
    written = report.as_dict()
    base = {"top1": 0.5, "top5": 1.0, "top1_over_objects": 0.5, "top5_over_objects": 1.0, "classes": 1, "objects": 2}
    assert written["base"] == base  # gray has none
    assert report.over_objects("top1") == 0.75 and written["ways"] == 4
    assert written["templates"] == ["a {}"] and len(written["per_class"]) == 4


def test_some_objects_are_the_same_each_time(inspect):
    drawn = [inspect(max_objects=2) for _ in range(2)]
    assert drawn[0] == drawn[1] and sum(each.objects for each in drawn[0].classes) == 2
    assert inspect(max_objects=100) == inspect()


def test_a_file_that_the_json_names_twice(data, colors, inspect):
    """Each object counts for its own class, though the two photos of one file have another between them."""
    Image.new("RGB", (90, 40), colors["green"]).save(data / "green.png")
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
    found = {each.name: each.top1 for each in inspect().classes}
    assert found == {"red": 1.0, "green": None, "blue": 1.0, "gray": 0.0}


def test_both_ways_to_look_are_summed(data, color_teacher, monkeypatch):
    """Of a teacher that sees whole photos too: each way is wrong about one object, both together about none."""
    in_photo = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [1, -0.5, 0]])
    monkeypatch.setattr("ovdet.teacher_lab.embed.ConseTeacher", type(color_teacher))
    monkeypatch.setattr("ovdet.teacher_lab.embed.RoIFeatureEmbedder", lambda **_: lambda photo, boxes: in_photo)
    reports = classify(color_teacher, read_coco_boxes(data / "truth.json", data))
    found = {report.view: {each.name: each.top1 for each in report.classes if each.objects} for report in reports}
    assert found == {
        "crops": {"red": 0.5, "green": 1.0, "blue": 1.0},
        "RoI features": {"red": 1.0, "green": 0.0, "blue": 1.0},
        "both": {"red": 1.0, "green": 1.0, "blue": 1.0},
    }


def test_without_a_split_all_classes_are_base(inspect):
    report = inspect(split=None)
    assert report.mean("top1", "novel") is None
    assert report.mean("top1", "base") == report.mean("top1", "all")


def test_other_names_and_synonyms_compete(inspect):
    """Another name that fits as well takes the objects; a synonym of the name speaks for it."""
    assert inspect(vocabulary=Vocabulary(("red", "green", "blue", "gray", "a blue"))).mean("top1") < 2.5 / 3
    named = Vocabulary(("gray", "deep blue", "red", "green"), {"deep blue": ("blue",)})
    assert inspect(vocabulary=named).mean("top1") == pytest.approx(2.5 / 3)
    with pytest.raises(InputError, match=r"the set's 4 classes, it lacks 'blue' \(near it: 'blues'\)"):
        inspect(vocabulary=Vocabulary(("red", "green", "blues", "gray")))


def shown(reports, capsys) -> str:
    Console(width=120).print(zero_shot_table(reports))
    return capsys.readouterr().out


def test_a_table_of_classes_and_means(capsys):
    classes = (ClassAccuracy("cat", "base", 4, 0.25, 0.75), ClassAccuracy("dog", "base", 0, None, None))
    first = ZeroShotReport("crops", "conse", "0" * 16, ("a {}",), classes, 2)
    text = shown([first], capsys)
    assert "25.0" in text and "mean of 1 classes" in text and "novel" not in text and "crops" not in text
    better = ClassAccuracy("cat", "novel", 4, 0.5, 1.0)
    text = shown([first, ZeroShotReport("both", "conse", "0" * 16, ("a {}", "{}"), (better, classes[1]), 2)], capsys)
    assert all(word in text for word in ("crops", "both", "25.0", "50.0", "100.0", "novel", "2 prompts"))


def test_what_is_refused(data, inspect):
    with pytest.raises(InputError, match="expected at least 1 object, got 0"):
        inspect(max_objects=0)
    with pytest.raises(InputError, match="expected templates"):
        inspect(templates=["foto"])
    Image.new("RGB", (90, 41)).save(data / "photo.png")
    with pytest.raises(InputError, match=r"photo.png of \(height, width\) \(40, 90\) as annotated, got \(41, 90\)"):
        inspect()


@pytest.fixture
def noise(tmp_path):
    """Square photos of noise in folders by class."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("tabby cat", "kite", "red wagon", "tent", "owl", "pear", "sofa")):
        (tmp_path / "noise" / name).mkdir(parents=True)
        for side in (32, 50, 64, 97):
            coarse = generator.integers(0, 255, (5 + number, 5 + number, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((side, side)).save(tmp_path / "noise" / name / f"{side}.png")
    return tmp_path / "noise"


@pytest.mark.parametrize("templates", ["a photo of a {}.", "clip"])
def test_folders_of_photos_give_open_clips_own_numbers(noise, tiny_teacher, templates):
    """Its preprocessing, its zero-shot classifier and its accuracy, on the files themselves."""
    architecture, _, weights = tiny_teacher.removeprefix("open_clip:").partition("@")
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=weights)
    model.eval()
    names = sorted(folder.name for folder in noise.iterdir())
    files = [(file, label) for label, name in enumerate(names) for file in sorted((noise / name).iterdir())]
    prompts = open_clip.OPENAI_IMAGENET_TEMPLATES if templates == "clip" else [lambda name: f"a photo of a {name}."]
    with torch.no_grad():
        tokenizer = open_clip.get_tokenizer(architecture)
        classifier = open_clip.build_zero_shot_classifier(model, tokenizer, names, prompts)
        pixels = torch.stack([preprocess(Image.open(file)) for file, _ in files])
        logits = model.encode_image(pixels, normalize=True) @ classifier
    labels = torch.tensor([label for _, label in files])
    (report,) = classify(load_teacher(tiny_teacher), read_class_folders(noise), [templates])
    for which, k in (("top1", 1), ("top5", 5)):
        expected = metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(len(names)))
        assert report.over_objects(which) == pytest.approx(expected), which
        assert 0 < expected < 1
    predicted = logits.argmax(1)
    assert report.mean("top1") == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (333, 500)])
def test_an_oblong_photo_is_seen_as_by_open_clip(tmp_path, tiny_teacher, size):
    architecture, _, weights = tiny_teacher.removeprefix("open_clip:").partition("@")
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=weights)
    (tmp_path / "set" / "thing").mkdir(parents=True)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)).resize(size, 3)
    photo.save(tmp_path / "set" / "thing" / "photo.png")
    with torch.no_grad():
        expected = model.eval().encode_image(preprocess(photo)[None], normalize=True)
    teacher, data = load_teacher(tiny_teacher), read_class_folders(tmp_path / "set")
    (actual,) = embed_objects(data, crop_view(teacher, data), teacher.input_size).values()
    assert (actual * expected).sum() > 0.995  # its scaled side is rounded to pixels before the middle is cut out


def test_the_central_part_of_a_photo():
    assert central_box((40, 60), (8, 8)).tolist() == [10, 0, 50, 40]
    assert central_box((60, 40), (8, 8)).tolist() == [0, 10, 40, 50]
    assert central_box((40, 60), (10, 20)).tolist() == [0, 5, 60, 35]
