"""Objects365's validation sets: class names put right, photos found wherever the archives were unpacked to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from preparing import objects365
from preparing.class_names import load_class_names
from preparing.objects365 import find_photos

METADATA = Path(__file__).parents[2] / "datasets/metadata"
PHOTOS = ("images/v1/patch8/objects365_v1_00420917.jpg", "images/v2/patch16/objects365_v2_00908726.jpg")
COUNTS = {"photos": 2, "classes": 365}


def make_content(version):
    """The official names with a space here and there; annotation ids repeat."""
    names = load_class_names(METADATA / "objects365_v2.json").classes
    if version == 1:
        names = [{"Pineapple": "pine apple"}.get(name, name.lower()) for name in names]
    categories = [{"id": number, "name": f"{name} "} for number, name in enumerate(names, start=1)]
    files = PHOTOS if version == 2 else [f"obj365_val_{i:012}.jpg" for i in (1, 2)]
    images = [{"id": 420917 + i, "file_name": f, "height": 48, "width": 64, "license": 5} for i, f in enumerate(files)]
    annotations = [
        {"id": 0, "image_id": 420917 + i, "category_id": 53, "bbox": [1.5, 2, 30, 20], "area": 600, "iscrowd": i % 2}
        for i in (0, 1, 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories[::-1], "licenses": []}


@pytest.fixture
def official(write, tmp_path, monkeypatch):
    """Both versions, the photos of v2 in patch folders right below val/."""
    monkeypatch.setattr(objects365, "COUNTS", {1: COUNTS, 2: COUNTS})
    for version, name in ((1, "objects365_val.json"), (2, "zhiyuan_objv2_val.json")):
        content = make_content(version)
        write(f"objects365_v{version}/annotations/{name}", content)
        for image in content["images"]:
            photo = tmp_path / f"objects365_v{version}/val" / Path(*Path(image["file_name"]).parts[-2:])
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.touch()
    return tmp_path


@pytest.fixture
def run(official, run_script):
    return lambda version, *more: run_script("prepare_objects365.py", "--version", version, "--root", official, *more)


def read(root, version):
    return json.loads((root / f"objects365_v{version}/annotations/objects365_v{version}_val.json").read_text())


def test_names_photos_and_ids_of_v2(official, run):
    code, out, _ = run(2)
    assert code == 0 and "365" in out
    content, original = read(official, 2), make_content(2)
    assert [image["file_name"] for image in content["images"]] == [
        "patch8/objects365_v1_00420917.jpg", "patch16/objects365_v2_00908726.jpg"
    ]  # fmt: skip
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    for mine, theirs in zip(content["annotations"], original["annotations"], strict=True):
        assert {**mine, "id": 0} == theirs
    by_id = {category["id"]: category["name"] for category in content["categories"]}
    assert list(by_id) == list(range(1, 366))
    assert (by_id[38], by_id[53], by_id[308], by_id[365]) == ("Monitor/TV", "Basket", "Camel", "Table Tennis")


def test_names_and_photos_of_v1(official, run):
    assert run(1)[0] == 0
    content = read(official, 1)
    assert content["images"][0]["file_name"] == "obj365_val_000000000001.jpg"
    names = [category["name"] for category in content["categories"]]
    assert "pineapple" in names and "pine apple" not in names and "hami melon" in names and names[0] == "person"


@pytest.mark.parametrize("version", [1, 2])
def test_registered_as_prepared(official, run, registered, version):
    assert run(version)[0] == 0
    dicts, metadata = registered(f"objects365_v{version}_val", official)
    assert len(dicts) == 2 and len(metadata.thing_classes) == 365 and "Bakset" not in metadata.thing_classes


def test_corrections_are_detics(shared_data):
    with (shared_data / "clip_text_embeddings/Objects365_names_fix.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    names = load_class_names(METADATA / "objects365_v2.json")
    assert names.classes == [row[1].strip() for row in rows]
    assert [names.correct(name) for name in names.classes] == [row[2].strip() for row in rows]


def test_a_photo_is_found_by_its_name_and_the_folders_that_agree(tmp_path):
    for file in ("a/patch1/x.jpg", "b/patch2/x.jpg", "y.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    names = ["images/v1/patch2/x.jpg", "patch1/x.jpg", "images/v2/patch3/y.jpg", "patch1/z.jpg"]
    assert find_photos(names, tmp_path) == ["b/patch2/x.jpg", "a/patch1/x.jpg", "y.jpg", None]
    assert find_photos([], tmp_path) == [] and find_photos(["x.jpg"], tmp_path / "nowhere") == [None]


def test_photos_in_linked_folders_are_found(tmp_path):
    """Patches often lie on another disk; a link that leads back is followed once."""
    (tmp_path / "disk/patch1").mkdir(parents=True)
    (tmp_path / "disk/patch1/x.jpg").touch()
    (tmp_path / "val").mkdir()
    (tmp_path / "val/patch1").symlink_to(tmp_path / "disk/patch1")
    for name in ("again", "once more"):
        (tmp_path / "disk/patch1" / name).symlink_to(tmp_path / "val")
    assert find_photos(["images/v1/patch1/x.jpg"], tmp_path / "val") == ["patch1/x.jpg"]


def test_missing_photos_are_refused_or_left_out(official, run, refused):
    (official / "objects365_v2/val/patch8/objects365_v1_00420917.jpg").unlink()
    message = refused(run(2))
    assert "2 photos" in message and "1 are missing: objects365_v1_00420917.jpg" in message
    assert run(2, "--skip-missing")[0] == 0
    content = read(official, 2)
    assert [image["id"] for image in content["images"]] == [420918]
    assert {a["image_id"] for a in content["annotations"]} == {420918}
    assert "2 are missing" in refused(run(2, "--skip-missing", "--photos", official / "objects365_v1"))
    assert "nowhere does not exist" in refused(run(2, "--skip-missing", "--photos", official / "nowhere"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["categories"].pop(0), "category_ids|365 classes (got 364)"),
        (lambda c: c["categories"][5].update(name="unicorn"), "got 'unicorn'"),
        (lambda c: c["images"].append({**c["images"][0], "id": 9}), "2 photos (got 3)"),
        (lambda c: c["images"].append(c["images"][0]), "image id once"),
        (lambda c: c["annotations"][0].update(category_id=999), "category_ids"),
        (lambda c: c.update(annotations={}), "$.annotations"),
    ],
)
def test_what_is_wrong_with_the_json(official, run, refused, write, edit, message):
    content = make_content(2)
    edit(content)
    write("objects365_v2/annotations/zhiyuan_objv2_val.json", content)
    line = refused(run(2))
    assert any(part in line for part in message.split("|"))
    assert not (official / "objects365_v2/annotations/objects365_v2_val.json").exists()


def test_which_version(run_script):
    code, _, err = run_script("prepare_objects365.py", "--version", 3)
    assert code == 2 and "--version" in err


def test_the_known_counts_are_the_protocols():
    assert objects365.COUNTS == {1: {"photos": 30000, "classes": 365}, 2: {"photos": 80000, "classes": 365}}
