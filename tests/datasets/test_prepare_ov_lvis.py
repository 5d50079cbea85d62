"""OV-LVIS from files in LVIS's format: training without the annotations of rare classes, evaluation with everything."""

from __future__ import annotations

import json
import re

import pytest
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from preparing import ov_lvis

from ovdet.data.splits import load_split
from ovdet.text.vocabulary import Vocabulary

CATEGORIES = [
    {"id": i, "name": name, "frequency": frequency, "synonyms": synonyms, "image_count": 3, "def": "", "synset": ""}
    for i, name, frequency, synonyms in (
        (1, "aerosol_can", "c", ["aerosol_can", "Aerosol can", "spray_can"]),
        (2, "bat_(animal)", "r", ["bat_(animal)"]),
        (3, "cat", "f", ["cat"]),
    )
]
SPLIT = {"base": ["cat", "aerosol_can"], "novel": ["bat_(animal)"], "source": "a test"}
COUNTS = {"split": {"base classes": 2, "novel classes": 1}, "val": {"photos": 3}, "train": {"photos": 3}}


def make_content():
    """Photo 1 shows a can and a bat, photo 2 a bat alone, photo 3 a cat."""
    images = [
        {
            "id": i, "height": 48, "width": 64, "coco_url": f"http://images.cocodataset.org/val2017/{i:012}.jpg",
            "neg_category_ids": [3], "not_exhaustive_category_ids": [1],
        }
        for i in (1, 2, 3)
    ]  # fmt: skip
    annotations = [
        {"id": number, "image_id": i, "category_id": c, "bbox": [1, 2, 3, 4], "area": 12, "segmentation": []}
        for number, (i, c) in enumerate(((1, 1), (1, 2), (2, 2), (3, 3)), start=1)
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def official(write, tmp_path, monkeypatch):
    monkeypatch.setattr(ov_lvis, "COUNTS", COUNTS)
    for part in ("train", "val"):
        write(f"lvis/lvis_v1_{part}.json", make_content())
    write("split.json", SPLIT)
    return tmp_path


@pytest.fixture
def run(official, run_script):
    return lambda *more: run_script("prepare_ov_lvis.py", "--split", official / "split.json", *more)


def test_rare_annotations_leave_training_alone(official, run):
    code, out, _ = run("--root", official)
    assert code == 0 and "novel classes" in out and "annotations kept" in out
    train, val = (json.loads((official / f"lvis/ov_lvis_v1_{part}.json").read_text()) for part in ("train", "val"))
    assert [a["id"] for a in train["annotations"]] == [1, 4]
    assert val["annotations"] == make_content()["annotations"]
    for content in (train, val):
        assert content["categories"] == CATEGORIES
        for image, original in zip(content["images"], make_content()["images"], strict=True):
            assert image == {**original, "file_name": f"val2017/{image['id']:012}.jpg"}
    split = load_split(official / "lvis/ov_lvis_v1_split.json")
    assert split == {"base": ["cat", "aerosol_can"], "novel": ["bat_(animal)"], "ignored": []}
    vocabulary = Vocabulary.load(official / "lvis/ov_lvis_v1_vocabulary.json")
    assert vocabulary.names == ("aerosol_can", "bat_(animal)", "cat")
    assert vocabulary.synonyms == {"aerosol_can": ("spray_can",)}


def test_lvis_s_own_names_and_synonyms_are_a_vocabulary():
    found = ov_lvis.with_synonyms([{"name": each["synonyms"][0], **each} for each in LVIS_CATEGORIES])
    assert len(found) == 1203 and found.synonyms["baby_buggy"] == ("baby_carriage", "perambulator", "pram", "stroller")


def test_registered_as_prepared(official, run, registered):
    assert run("--root", official)[0] == 0
    dicts, metadata = registered("ov_lvis_v1_train", official)
    assert [record["image_id"] for record in dicts] == [1, 3] and metadata.thing_classes == ["aerosol_can", "cat"]
    dicts, metadata = registered("ov_lvis_v1_val", official)
    assert [record["image_id"] for record in dicts] == [1, 2, 3] and metadata.novel_classes == ["bat_(animal)"]
    assert dicts[0]["file_name"] == str(official / "coco/val2017/000000000001.jpg")


def test_the_environment_names_the_folder(official, run, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(official))
    assert run("--output", official / "elsewhere")[0] == 0
    assert len(list((official / "elsewhere").iterdir())) == 4


def edit(content, path, value):
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("part", "path", "value", "message"),
    [
        ("val", ("categories", 1, "frequency"), None, "frequency f, c or r of each category.*bat"),
        ("val", ("categories", 1, "frequency"), "f", "bat_.animal. of .* to be novel, its frequency makes it base"),
        ("train", ("images",), make_content()["images"][:2], "image_ids"),
        ("val", ("annotations", 0, "category_id"), 7, "category_ids.*7"),
        ("train", ("categories",), [], "categories"),
        ("val", ("categories", 0, "name"), "kite", "kite of .* to be absent, its frequency makes it base"),
        ("val", ("categories",), [*CATEGORIES, {"id": 9, "name": "pen", "frequency": "r"}], "pen of .* to be absent"),
    ],
)
def test_what_is_wrong_with_the_files(official, write, run, refused, part, path, value, message):
    write(f"lvis/lvis_v1_{part}.json", edit(json.loads(json.dumps(make_content())), path, value))
    line = refused(run("--root", official))
    assert re.search(message, line) and f"lvis_v1_{part}.json" in line
    assert not (official / f"lvis/ov_lvis_v1_{part}.json").exists()
    assert not (official / "lvis/ov_lvis_v1_split.json").exists()


def test_other_counts_and_missing_files(official, run, refused, monkeypatch):
    monkeypatch.setattr(ov_lvis, "COUNTS", {**COUNTS, "train": {"photos": 100170}})
    assert "100170 photos (got 3)" in refused(run("--root", official))
    (official / "lvis/lvis_v1_val.json").unlink()
    assert "lvisdataset.org" in refused(run("--root", official))


def test_other_splits(official, write, run, refused):
    write("split.json", {**SPLIT, "novel": ["bat_(animal)", "pen"]})
    assert "1 novel classes (got 2)" in refused(run("--root", official))
    write("split.json", {**SPLIT, "novel": ["pen"]})
    assert "bat_(animal)" in refused(run("--root", official))


def test_the_split_is_the_protocols(run_script, official, refused):
    """Without --split the one of datasets/metadata; its numbers are the known ones."""
    assert ov_lvis.COUNTS["split"] == {"base classes": 2, "novel classes": 1}  # the fixture's
    assert "2 base classes (got 866), 1 novel classes (got 337)" in refused(
        run_script("prepare_ov_lvis.py", "--root", official)
    )


def test_the_known_counts_are_the_protocols():
    assert ov_lvis.COUNTS["split"] == {"base classes": 866, "novel classes": 337}
    assert ov_lvis.COUNTS["train"] == {"photos": 100170} and ov_lvis.COUNTS["val"] == {"photos": 19809}
