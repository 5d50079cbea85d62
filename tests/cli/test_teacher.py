"""`ovdet teacher`, each command as a user runs it on a handful of photos."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

COMMANDS = ("zero-shot", "probe", "robustness", "coverage", "map")


@pytest.fixture
def data(tmp_path):
    """A cat and a cup of coffee, as arguments."""
    photos = pytest.importorskip("skimage.data")
    images, annotations = [], []
    for number, (pixels, box) in enumerate(
        ((photos.chelsea(), [60, 5, 330, 290]), (photos.coffee(), [60, 40, 400, 340]))
    ):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        height, width = pixels.shape[:2]
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        annotations.append({"id": number, "image_id": number, "category_id": number, "bbox": box})
    categories = [{"id": i, "name": name} for i, name in enumerate(("cat", "cup of coffee", "car", "tree"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"base": ["cat", "car"], "novel": ["cup of coffee", "tree"]}))
    return ["--annotations", tmp_path / "truth.json", "--images", tmp_path]


@pytest.fixture
def folders(tmp_path):
    """Makes folders of photos by class, a color with some noise for each: `folders("studio", photos=4)`."""

    def folders(name, photos=4, classes=("tabby cat", "kite", "tent")):
        generator = np.random.default_rng(len(name))
        for number, each in enumerate(classes):
            (tmp_path / name / each).mkdir(parents=True)
            for photo in range(photos):
                pixels = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8)
                pixels[..., number] += 180
                Image.fromarray(pixels).save(tmp_path / name / each / f"{photo}.png")
        return tmp_path / name

    return folders


@pytest.mark.parametrize("shim", [pytest.param("inspect_teacher.py", marks=pytest.mark.slow), "teacher.py"])
def test_the_embedded_teacher_knows_a_cat_and_a_cup_of_coffee(run_tool, data, tmp_path, shim):
    output = tmp_path / "figures.json"
    words = ["conse", *data] if shim == "inspect_teacher.py" else ["zero-shot", "conse", *data[2:], *data[:2]]
    options = ("--split", tmp_path / "split.json", "--device", "cpu", "--output", output)
    code, out, err = run_tool(shim, *words, *options)
    assert code == 0, err
    by_view = {figures["view"]: figures for figures in json.loads(output.read_text())}
    assert list(by_view) == ["crops", "RoI features", "both"]
    for figures in by_view.values():
        assert figures["teacher"] == "conse" and len(figures["fingerprint"]) == 16
        assert figures["base"]["top1"] == figures["novel"]["top1"] == figures["all"]["top1"] == 1
    assert "mean of 1 classes" in out and "4-way" in out


def test_zero_shot_of_a_folder_by_class(ovdet, folders, tiny_teacher, tmp_path):
    """Of one photo too, among more names, with prompts compared."""
    words = ("teacher", "zero-shot", tiny_teacher, "--photos", folders("one", photos=1, classes=("kite",)))
    names = ("--names", "kite; red kite, tent, owl", "--templates", "a", "--templates", "clip")
    code, out, err = ovdet(*words, *names, "--json")
    assert code == 0, err
    one, many = json.loads(out)
    assert one["ways"] == 3 and one["all"]["objects"] == 1 and [each["name"] for each in one["per_class"]] == ["kite"]
    assert (len(one["templates"]), len(many["templates"])) == (1, 80) and one["view"] == "photos"
    code, _, err = ovdet(*words)
    assert code == 2 and "two classes or more to tell apart, got 1: 'kite'" in err and err.count("\n") == 1


def test_probe(ovdet, folders, tiny_teacher, tmp_path):
    out_folder = tmp_path / "out/probe"
    photos = folders("studio", photos=7)
    folders("studio", photos=2, classes=("owl",))
    words = ("--shots", "2,1", "--draws", "1", "--output", out_folder)
    code, out, err = ovdet("teacher", "probe", tiny_teacher, "--photos", photos, *words)
    assert code == 0 and "Warning" not in err, err
    found = json.loads((out_folder / "probe.json").read_text())
    assert [row["shots"] for row in found["rows"]] == [0, 1, 2, None] and found["left_out"] == ["owl"]
    assert [len(row["top1"]) for row in found["rows"]] == [1, 1, 1, 1]
    assert found["objects"] == {"train": 12, "validation": 3, "test": 6} and len(found["classes"]) == 3
    assert found["rows"][-1]["mean"] > 0.6  # each class has its own color
    assert Image.open(out_folder / "probe.png").size == (770, 495)
    assert "zero-shot" in out and "left out, in less than 3 photos: owl" in out


def test_robustness(ovdet, folders, tiny_teacher, tmp_path):
    sets = ("--photos", folders("studio", photos=6), "--photos", folders("kitchen", classes=("tent", "Kite", "owl")))
    output = tmp_path / "drops.json"
    code, out, err = ovdet("teacher", "robustness", tiny_teacher, *sets, "--probe", "--output", output)
    assert code == 0, err
    first, second = json.loads(output.read_text())["sets"]
    assert (first["title"], first["classes"], second["classes"], second["objects"]) == ("studio", 3, 2, 8)
    assert second["left_out"] == ["owl"] and set(second["by_classifier"]) == {"zero-shot", "linear probe"}
    assert "kitchen: not in studio: owl" in out and "drop" in out
    alike = folders("second/studio", photos=1)
    code, out, err = ovdet("teacher", "robustness", tiny_teacher, *sets[:2], "--photos", alike, "--json")
    assert code == 0, err
    assert [each["title"] for each in json.loads(out)["sets"]] == [str(sets[1]), str(alike)]


def test_coverage_of_what_the_shipped_detector_knows(ovdet, tmp_path):
    output = tmp_path / "coverage.json"
    names = ("--names", "zebra, kitten, okapi, passport")
    code, out, err = ovdet("teacher", "coverage", *names, "--model", "ovdet-lite-base48", "--output", output)
    assert code == 0, err
    found = json.loads(output.read_text())
    verdicts = {each["name"]: each["verdict"] for each in found["names"]}
    assert verdicts == {"zebra": "trained", "kitten": "in ImageNet", "okapi": "unknown", "passport": "unknown"}
    assert found["training_classes"] == 48 and len(found["warnings"]) == 2
    assert all(hint in out for hint in found["hints"])
    assert "4 names: 1 trained, 1 in ImageNet, 2 unknown" in out and "warning: passport: unknown" in out
    code, out, _ = ovdet("teacher", "coverage", "conse", *names, "--json")  # without a detector
    assert code == 0 and json.loads(out)["names"][0]["verdict"] == "in ImageNet"


def test_coverage_and_what_a_cosine_is_worth(ovdet, data):
    code, out, err = ovdet("teacher", "coverage", "conse", *data, "--measure", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [each["name"] for each in found["names"]] == ["cat", "cup of coffee", "car", "tree"]
    assert sum(band["classes"] for band in found["accuracy_by_cosine"]) == 2
    code, out, _ = ovdet("teacher", "coverage", "conse", *data[:2], "--json")
    assert code == 0 and "accuracy_by_cosine" not in json.loads(out)


@pytest.mark.parametrize("how", [[], ["--pca"]])
def test_map(ovdet, folders, tiny_teacher, tmp_path, how):
    words = ("--photos", folders("studio"), "--per-class", 2, "--output", tmp_path / "map", "--json", *how)
    code, out, err = ovdet("teacher", "map", tiny_teacher, *words)
    assert code == 0, err
    assert {**json.loads(out), "nearest_is_own": 0} == {
        "output": str(tmp_path / "map"),
        "names": 3,
        "regions": 6,
        "nearest_is_own": 0,
    }
    assert Image.open(tmp_path / "map/map.png").size == (1430, 990)
    page = (tmp_path / "map/map.html").read_text()
    assert "tabby cat" in page and page.count("data:image/jpeg") == 6


def test_mistakes_are_told_in_one_line(ovdet, data, folders, tmp_path, tiny_clip):
    tiny, photos = f"open_clip:{tiny_clip}/random", folders("studio", photos=1)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "bad/kite").mkdir(parents=True)
    (tmp_path / "bad/tent").mkdir(parents=True)
    (tmp_path / "bad/kite/photo.png").write_bytes(b"\x89PNG no photo")
    Image.new("RGB", (9, 9)).save(tmp_path / "bad/tent/photo.png")
    (tmp_path / "empty/kite").mkdir(parents=True)
    out = tmp_path / "f.json"
    for arguments, message in (
        (["zero-shot", "clip", *data], "expected a teacher"),
        (["zero-shot", "hf:", *data], "expected hf: and the hub id or folder"),
        (["zero-shot", tiny], "expected one set"),
        (["zero-shot", tiny, *data, "--photos", photos], "expected one set"),
        (["zero-shot", tiny, *data[:2]], "expected --images too, got --annotations"),
        (["zero-shot", tiny, *data[2:]], "expected --annotations too, got --images"),
        (["zero-shot", tiny, "--photos", photos, "--split", photos], "expected one set"),
        (["coverage", "conse", *data[2:]], "expected the names to look for"),
        (["zero-shot", tiny, "--annotations", tmp_path / "none.json", "--images", tmp_path], "none.json"),
        (["zero-shot", tiny, "--annotations", tmp_path / "broken.json", "--images", tmp_path], "broken.json"),
        (["zero-shot", tiny, *data[:3], tmp_path / "nowhere"], "expected a folder of photos"),
        (["zero-shot", tiny, *data, "--split", tmp_path / "none.json"], "expected a split json"),
        (["zero-shot", tiny, *data, "--max-objects", 0], "expected at least 1 object, got 0"),
        (["zero-shot", tiny, *data, "--templates", "foto"], "expected templates"),
        (["zero-shot", tiny, *data, "--device", "cuda:99"], "CUDA devices here"),
        (["zero-shot", tiny, *data, "--output", "/proc/none/f.json"], "place to write to, got /proc/none/f.json"),
        (["zero-shot", tiny, *data, "--output", photos / "kite/0.png/f.json"], "expected a place to write to"),
        (["zero-shot", tiny, *data, "--output", ""], "got an empty name"),
        (["zero-shot", tiny, *data, "--names", "cat, dog"], "it lacks 'cup of coffee'"),
        (["zero-shot", tiny, "--photos", tmp_path / "nowhere"], "nowhere does not exist"),
        (["zero-shot", tiny, "--photos", tmp_path / "empty"], "empty/kite, got none"),
        (["zero-shot", tiny, "--photos", tmp_path / "bad"], "photo.png"),
        (["probe", tiny, "--photos", tmp_path / "bad"], "two classes or more with 3 photos each"),
        (["probe", tiny, "--photos", photos], "got 0 of 3 in studio"),
        (["robustness", tiny, "--photos", photos], "expected 2 sets or more"),
        (["robustness", tiny, "--photos", photos, *data], "two classes or more of studio in truth, got 0"),
        (["coverage", "conse"], "expected the names to look for"),
        (["coverage", "conse", "--names", "cat", *data[:2]], "expected the names to look for"),
        (["coverage", "--names", "cat", "--model", tmp_path / "nowhere"], "expected ovdet-lite"),
        (["coverage", "conse", "--names", "cat", "--near", 2], "a cosine from -1 to 1 as near, got 2"),
        (["coverage", "conse", "--names", "cat", "--measure"], "expected one set"),
        (["map", tiny, "--photos", tmp_path / "bad"], "photo.png"),
    ):
        code, _, err = ovdet("teacher", arguments[0], "--output", out, *arguments[1:])
        assert code == 2 and message in err and err.count("\n") == 1, (arguments, err)
        assert not out.exists()


def test_wrong_words_are_told_with_the_usage(ovdet):
    for words, message in (
        ([], "COMMAND"),
        (["zero_shot"], "zero-shot"),
        (["probe", "conse", "--shots", "1,x", "--output", "z"], "a whole number of at least 1, got 'x'"),
        (["map", "conse", "--per-class", "0", "--output", "z"], "a whole number of at least 1, got '0'"),
    ):
        code, _, err = ovdet("teacher", *words)
        assert code == 2 and message in err, (words, err)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(ovdet, command):
    code, out, _ = ovdet("teacher", command, "--help")
    assert code == 0 and "--photos" in out and "--json" in out


@pytest.mark.slow
def test_the_embedded_teacher_on_real_photos(run_tool, shared_data, tmp_path):
    pool = shared_data / "coco_pool"
    code, out, err = run_tool(
        "inspect_teacher.py", "conse", "--annotations", pool / "instances_val.json", "--images", pool / "images",
        "--split", pool / "ov_coco_split.json", "--output", tmp_path / "f.json",
    )  # fmt: skip
    assert code == 0, err
    crops, in_photo, both = json.loads((tmp_path / "f.json").read_text())
    for figures in (crops, in_photo, both):
        assert (figures["base"]["classes"], figures["novel"]["classes"]) == (48, 17)
        assert figures["base"]["top5"] > figures["base"]["top1"]
    assert both["base"]["top1"] >= 0.35 and both["novel"]["top1"] >= 0.40  # 65-way: chance is 0.015
    assert both["all"]["top1"] > max(crops["all"]["top1"], in_photo["all"]["top1"])
