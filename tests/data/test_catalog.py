"""The protocols' data sets by name: where their files are, what their metadata says, what is said of missing files."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ovdet.data import catalog as builtin
from ovdet.data.catalog import register_builtin
from ovdet.errors import InputError

NAMES = (
    "ov_coco_2017_train", "ov_coco_2017_val", "ov_lvis_v1_train", "ov_lvis_v1_val", "voc_2007_test",
    "objects365_v1_val", "objects365_v2_val", "coco80_2017_val",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_catalogs():
    """As after the first import: every name known, none read."""
    importlib.reload(builtin)
    yield
    importlib.reload(builtin)


@pytest.fixture
def root(tmp_path):
    """Each data set with a cat on its first photo and a cow on its second; the third is empty."""
    categories = [{"id": 9, "name": "cow"}, {"id": 1, "name": "cat"}]
    annotations = [
        {"id": number, "image_id": number, "category_id": category_id, "bbox": [1, 2, 10, 20], "iscrowd": 0}
        for number, category_id in ((1, 1), (2, 9))
    ]
    for entry in builtin.BUILTIN.values():
        prefix = "train2017/" if entry.images == "coco" else ""  # LVIS
        images = [{"id": i, "file_name": f"{prefix}{i}.png", "height": 48, "width": 64} for i in (1, 2, 3)]
        (tmp_path / entry.images / prefix).mkdir(parents=True, exist_ok=True)
        for image in images:
            Image.new("RGB", (64, 48)).save(tmp_path / entry.images / image["file_name"])
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / entry.json_file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / entry.json_file).write_text(json.dumps(content))
        if entry.split:
            (tmp_path / entry.split).write_text(json.dumps({"base": ["cat"], "novel": ["cow"]}))
    return tmp_path


def test_all_names_are_known_before_anything_is_read():
    assert set(NAMES) == set(builtin.BUILTIN) <= set(DatasetCatalog)


@pytest.mark.parametrize(
    ("name", "image_ids", "classes"),
    [
        ("ov_coco_2017_train", [1], ["cat"]),
        ("ov_coco_2017_val", [1, 2], ["cat", "cow"]),
        ("ov_lvis_v1_train", [1], ["cat"]),
        ("ov_lvis_v1_val", [1, 2, 3], ["cat", "cow"]),
        ("voc_2007_test", [1, 2, 3], ["cat", "cow"]),
        ("objects365_v1_val", [1, 2, 3], ["cat", "cow"]),
        ("objects365_v2_val", [1, 2, 3], ["cat", "cow"]),
        ("coco80_2017_val", [1, 2, 3], ["cat", "cow"]),
    ],
)
def test_from_the_catalog(root, monkeypatch, name, image_ids, classes):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == image_ids
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == classes
    assert metadata.novel_classes == (["cow"] if name.startswith("ov_") else [])
    assert metadata.json_file == str(root / builtin.BUILTIN[name].json_file)
    assert metadata.evaluator_type == ("ovdet_lvis" if "lvis" in name else "ovdet_coco")


def test_root_is_given_or_looked_up_when_called(root, monkeypatch):
    assert register_builtin("voc_2007_test", root) == register_builtin("voc_2007_test", str(root)) == "voc_2007_test"
    assert len(DatasetCatalog.get("voc_2007_test")) == len(DatasetCatalog.get("voc_2007_test")) == 3
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert register_builtin("voc_2007_test") == "voc_2007_test"
    assert register_builtin("ov_coco_2017_val") == "ov_coco_2017_val"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(root.parent)
    root.rename(root.parent / "datasets")
    assert len(DatasetCatalog.get("ov_lvis_v1_val")) == 3


def test_missing_files_name_the_command(root):
    (root / "coco/annotations/ov_coco_2017_split.json").unlink()
    with pytest.raises(InputError, match=r"ov_coco_2017_split.json, not there.*datasets/prepare_ov_coco.py") as caught:
        register_builtin("ov_coco_2017_val", root)
    assert "\n" not in str(caught.value) and "ov_coco_2017_val.json" not in str(caught.value)
    with pytest.raises(InputError, match=r"ov_lvis_v1_val.json and .*split.json, .*datasets/prepare_ov_lvis.py"):
        register_builtin("ov_lvis_v1_val", root / "nowhere")
    with pytest.raises(InputError, match="out of ov_coco_2017_train, .*got 'ov_coco'"):
        register_builtin("ov_coco", root)


def test_after_a_failure_the_name_is_still_known(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    (root / "VOC2007/JPEGImages/2.png").rename(root / "2.png")
    for _ in range(2):
        with pytest.raises(InputError, match="1 are missing"):
            DatasetCatalog.get("voc_2007_test")
    (root / "2.png").rename(root / "VOC2007/JPEGImages/2.png")
    assert len(DatasetCatalog.get("voc_2007_test")) == 3


def test_another_root_is_refused(root, tmp_path_factory):
    register_builtin("voc_2007_test", root)
    other = tmp_path_factory.mktemp("other") / "datasets"
    other.symlink_to(root)
    with pytest.raises(InputError, match="already registered"):
        register_builtin("voc_2007_test", other)


def test_the_readme_names_them_all():
    folder = Path(__file__).parents[2] / "datasets"
    readme = (folder / "README.md").read_text()
    for name, entry in builtin.BUILTIN.items():
        assert f"`{name}`" in readme
        script = re.search(r"datasets/(\w+\.py)", entry.remedy)
        assert script is None or (script[1] in readme and (folder / script[1]).is_file())
    for count in (118287, 107761, 5000, 4836, 100170, 19809, 4952, 14976, 2944, 30000, 80000):
        assert f"{count:,}" in readme
