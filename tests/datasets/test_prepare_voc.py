"""VOC 2007's test set: xml in, COCO json out, boxes as detectron2 reads them, difficult objects out of count."""

from __future__ import annotations

import contextlib
import io
import json
import re

import numpy as np
import pytest
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances
from detectron2.structures import BoxMode
from preparing import voc
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

COUNTS = {"photos": 2, "objects": 3, "difficult objects": 1, "classes": 2}
OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""
OBJECTS = {
    "000001": [("dog", 0, (48, 240, 195, 371)), ("person", 1, (8, 12, 352, 498))],
    "000012": [("person", 0, (1, 1, 353, 500))],
}


def make_xml(stem, objects):
    entries = "".join(OBJECT.format(name=name, difficult=difficult, box=box) for name, difficult, box in objects)
    return (
        f"<annotation><folder>VOC2007</folder><filename>{stem}.jpg</filename>"
        f"<size><width>353</width><height>500</height><depth>3</depth></size>{entries}</annotation>"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """VOC2007 with two photos; its counts are the known ones."""
    monkeypatch.setattr(voc, "COUNTS", COUNTS)
    folder = tmp_path / "VOC2007"
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(OBJECTS) + "\n")
    (folder / "Annotations").mkdir()
    for stem, objects in OBJECTS.items():
        (folder / f"Annotations/{stem}.xml").write_text(make_xml(stem, objects))
    return folder


def test_equal_to_detectron2s_reader(folder, run_script):
    code, out, _ = run_script("prepare_voc.py", "--root", folder.parent)
    assert code == 0 and "difficult objects" in out
    content = json.loads((folder / "voc_2007_test.json").read_text())
    expected = load_voc_instances(str(folder), "test", CLASS_NAMES)
    assert [f"{image['id']:06}" for image in content["images"]] == [record["image_id"] for record in expected]
    for image, record in zip(content["images"], expected, strict=True):
        assert (image["height"], image["width"]) == (record["height"], record["width"])
        assert record["file_name"].endswith(image["file_name"])
        mine = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in mine]
        assert np.array_equal(boxes, [a["bbox"] for a in record["annotations"]])
        assert [a["category_id"] - 1 for a in mine] == [a["category_id"] for a in record["annotations"]]
        assert [a["area"] for a in mine] == [a["bbox"][2] * a["bbox"][3] for a in mine]
    assert content["annotations"][2]["bbox"] == [0, 0, 353, 500]  # the whole photo
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0]
    names = [category["name"] for category in content["categories"]]
    assert [name.replace(" ", "") for name in names] == list(CLASS_NAMES) and "potted plant" in names


def test_registered_as_prepared(folder, run_script, registered):
    assert run_script("prepare_voc.py", "--root", folder.parent)[0] == 0
    dicts, metadata = registered("voc_2007_test", folder.parent)
    assert len(dicts) == 2 and len(metadata.thing_classes) == 20 and metadata.novel_classes == []


def test_difficult_objects_are_neither_missed_nor_false(folder, run_script):
    assert run_script("prepare_voc.py", "--root", folder.parent)[0] == 0
    person, dog = 15, 12
    found = [
        {"image_id": 1, "category_id": dog, "bbox": [47, 239, 148, 132], "score": 0.9},
        {"image_id": 12, "category_id": person, "bbox": [0, 0, 353, 500], "score": 0.8},
    ]
    difficult = {"image_id": 1, "category_id": person, "bbox": [7, 11, 345, 487], "score": 0.95}
    for detections in (found, [*found, difficult]):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(folder / "voc_2007_test.json"))
            judge = COCOeval(truth, truth.loadRes(detections), "bbox")
            judge.evaluate(), judge.accumulate(), judge.summarize()
        assert judge.stats[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("stem", "text", "message"),
    [
        ("000001", "<annotation>", "expected an annotation file of VOC.*000001.xml"),
        ("000001", "<annotation/>", "expected an annotation file of VOC.*000001.xml"),
        ("000012", make_xml("000012", [("unicorn", 0, (1, 2, 3, 4))]), "000012.xml.*'unicorn'"),
        ("000012", make_xml("000012", [("dog", 0, ("a", 2, 3, 4))]), "000012.xml.*'a'"),
        ("000012", make_xml("000012", []), "3 objects .got 2"),
        ("000012", None, "000012.xml cannot be read"),
        ("000001", None, "000001.xml, not there: get them from http://host.robots"),
    ],
)
def test_what_is_wrong_with_the_files(folder, run_script, refused, stem, text, message):
    file = folder / f"Annotations/{stem}.xml"
    file.unlink() if text is None else file.write_text(text)
    line = refused(run_script("prepare_voc.py", "--voc", folder, "--output", folder / "out.json"))
    assert re.search(message, line)
    assert not (folder / "out.json").exists()


def test_other_folders_and_names(folder, run_script, refused, write):
    assert "test.txt, not there" in refused(run_script("prepare_voc.py", "--root", folder))
    for content in ([], {"classes": "dog"}, {"classes": ["dog"], "corrections": {"cat": "kitten"}}, {"classes": [3]}):
        names = write("names.json", content)
        refused(run_script("prepare_voc.py", "--root", folder.parent, "--names", names))
    write("names.json", {"classes": ["dog"]})
    assert "'person'" in refused(run_script("prepare_voc.py", "--root", folder.parent, "--names", names))


def test_the_known_counts_are_the_protocols():
    assert voc.COUNTS == {"photos": 4952, "objects": 14976, "difficult objects": 2944, "classes": 20}
