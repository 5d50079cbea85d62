"""OV-COCO from files in COCO's format: base annotations for training, base and novel ones for evaluation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from preparing import ov_coco
from pycocotools.coco import COCO

from ovdet.data.splits import load_split

SPLIT = {"base2": ["person", "cat"], "novel": ["dog"], "ignored": ["kite"], "source": "a test"}
CATEGORIES = [
    {"supercategory": "x", "id": i, "name": n} for i, n in ((1, "person"), (38, "kite"), (17, "cat"), (18, "dog"))
]
COUNTS = {
    "split": {"base classes": 2, "novel classes": 1},
    "val": {"photos": 6, "photos kept": 5},
    "train": {"photos": 6, "photos kept": 4},
}


def make_instances():
    """Photos 1 to 6: a person and a dog, a dog, a kite and a cat, a crowd of people, a cat without area, a kite."""
    objects = ((1, 1), (1, 18), (2, 18), (3, 38), (3, 17), (4, 1), (5, 17), (6, 38))
    return {
        "info": {"description": "COCO 2017 Dataset"},
        "licenses": [],
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": 48, "width": 64} for i in (6, 3, 1, 2, 4, 5)],
        "annotations": [
            {
                "id": 100 + number, "image_id": image_id, "category_id": category_id, "area": 12.5,
                "bbox": [1.25, 2.5, 0 if image_id == 5 else 10.75, 20], "iscrowd": int(image_id == 4),
                "segmentation": [[1.1, 2.2, 3.3, 4.4, 5.5, 6.6]],
            }
            for number, (image_id, category_id) in enumerate(objects)
        ],
        "categories": CATEGORIES,
    }  # fmt: skip


def make_captions():
    images = [{"id": i, "file_name": f"{i:012}.jpg"} for i in range(1, 7)]
    captions = [
        {"id": 10 * i + k, "image_id": i, "caption": f"photo {i}, once more"} for i in range(1, 7) for k in (0, 1)
    ]
    return {"images": images, "annotations": captions}


@pytest.fixture
def official(write, tmp_path, monkeypatch):
    """A folder of data sets with small files in COCO's format; their counts are the known ones."""
    monkeypatch.setattr(ov_coco, "COUNTS", COUNTS)
    for part in ("train", "val"):
        write(f"coco/annotations/instances_{part}2017.json", make_instances())
        write(f"coco/annotations/captions_{part}2017.json", make_captions())
    write("split.json", SPLIT)
    return tmp_path


@pytest.fixture
def run(official, run_script):
    return lambda *more: run_script("prepare_ov_coco.py", "--root", official, "--split", official / "split.json", *more)


def written(folder: Path) -> dict[str, dict]:
    return {file.name: json.loads(file.read_text()) for file in sorted(folder.glob("ov_coco_2017_*.json"))}


def test_base_for_training_base_and_novel_for_evaluation(official, run):
    code, out, _ = run()
    assert code == 0
    folder = official / "coco/annotations"
    files = written(folder)
    train, val = files["ov_coco_2017_train.json"], files["ov_coco_2017_val.json"]
    judge = COCO(str(folder / "instances_train2017.json"))
    for content, classes in ((train, ["person", "cat"]), (val, ["person", "cat", "dog"])):
        annotation_ids = judge.getAnnIds(catIds=judge.getCatIds(catNms=classes), iscrowd=None)
        annotations = judge.loadAnns(annotation_ids)
        assert sorted(a["id"] for a in content["annotations"]) == sorted(annotation_ids)
        assert {image["id"] for image in content["images"]} == {a["image_id"] for a in annotations}
        assert content["categories"] == [c for c in CATEGORIES if c["name"] != "kite"]  # old ids, old order
        original = {a["id"]: a for a in make_instances()["annotations"]}
        assert all(a == original[a["id"]] for a in content["annotations"])
        assert content["info"] == make_instances()["info"]
    assert [image["id"] for image in train["images"]] == [3, 1, 4, 5]  # in their order; a crowd's photo counts
    assert load_split(folder / "ov_coco_2017_split.json") == {
        "base": ["person", "cat"],
        "novel": ["dog"],
        "ignored": [],
    }
    assert files["ov_coco_2017_split.json"]["source"] == "a test"
    for text in ("expected", "found", "photos kept", "base classes"):
        assert text in out
    assert not [file for file in folder.iterdir() if file.suffix == ".part"]


def test_registered_as_prepared(official, run, registered):
    assert run()[0] == 0
    dicts, metadata = registered("ov_coco_2017_train", official)
    assert [record["image_id"] for record in dicts] == [1, 3]  # crowds and boxes without area are not trained on
    assert metadata.thing_classes == ["person", "cat"] and metadata.novel_classes == ["dog"]
    dicts, metadata = registered("ov_coco_2017_val", official)
    assert [record["image_id"] for record in dicts] == [1, 2, 3, 4, 5]
    assert metadata.thing_classes == ["person", "cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 17: 1, 18: 2}


def test_captions_of_the_same_photos(official, run):
    assert run()[0] == 0
    files = written(official / "coco/annotations")
    for part in ("train", "val"):
        photos = {image["id"] for image in files[f"ov_coco_2017_{part}.json"]["images"]}
        captions = files[f"ov_coco_2017_captions_{part}.json"]
        assert {image["id"] for image in captions["images"]} == photos
        assert captions["annotations"] == [c for c in make_captions()["annotations"] if c["image_id"] in photos]


def test_without_captions_to_another_folder(official, run, tmp_path):
    for file in (official / "coco/annotations").glob("captions*"):
        file.unlink()
    assert run("--no-captions", "--output", tmp_path / "out")[0] == 0
    assert set(written(tmp_path / "out")) == {f"ov_coco_2017_{part}.json" for part in ("train", "val", "split")}


def test_other_counts_are_refused(official, run, refused, monkeypatch):
    monkeypatch.setattr(ov_coco, "COUNTS", {**COUNTS, "val": {"photos": 5000, "photos kept": 4836}})
    message = refused(run())
    assert "instances_val2017.json" in message
    assert "5000 photos (got 6), 4836 photos kept (got 5)" in message
    assert not written(official / "coco/annotations")


def test_the_known_counts_are_the_protocols():
    assert ov_coco.COUNTS["train"] == {"photos": 118287, "photos kept": 107761}
    assert ov_coco.COUNTS["val"] == {"photos": 5000, "photos kept": 4836}
    assert ov_coco.COUNTS["split"] == {"base classes": 48, "novel classes": 17}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("instances_val2017.json", "[", "not json"),
        ("instances_val2017.json", "{}", "`images`"),
        ("instances_val2017.json", json.dumps({**make_instances(), "categories": CATEGORIES[:3]}), "category_ids.*18"),
        ("instances_val2017.json", json.dumps({**make_instances(), "images": make_instances()["images"] * 2}), "once"),
        ("instances_val2017.json", json.dumps({**make_instances(), "annotations": []}), "5 photos kept .got 0"),
        ("captions_val2017.json", "{}", "COCO's captions"),
        ("captions_val2017.json", json.dumps({"images": [], "annotations": []}), "5 photos with captions .got 0"),
        ("../../split.json", json.dumps({"base": ["person", "unicorn"], "novel": ["dog"]}), "does not have: 'unicorn'"),
        ("../../split.json", json.dumps({"base": ["person"], "novel": ["dog"]}), "2 base classes .got 1"),
    ],
)
def test_what_is_wrong_with_the_files(official, run, refused, file, content, message):
    (official / "coco/annotations" / file).write_text(content)
    assert re.search(message, refused(run()))


def test_missing_files_are_all_named_at_once(official, run, refused):
    for file in ("instances_train2017.json", "captions_val2017.json"):
        (official / "coco/annotations" / file).unlink()
    message = refused(run())
    assert "instances_train2017.json" in message and "captions_val2017.json" in message and "cocodataset.org" in message


def test_neither_torch_nor_detectron2(official):
    """As a user starts it: refused after all imports, without the heavy ones."""
    script = Path(__file__).parents[2] / "datasets/prepare_ov_coco.py"
    code = (
        "import os, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, [m for m in ('torch', 'detectron2') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, script, "--root", official]
    run = subprocess.run(command, capture_output=True, text=True, cwd=script.parents[1])
    assert run.stdout.strip() == "2 []", run.stderr
    assert "does not have: 'airplane'" in run.stderr
