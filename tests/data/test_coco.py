"""Json files read and written: the same with and without the bar of large files."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from rich.console import Console

from ovdet.data import coco as coco_json
from ovdet.data.coco import (
    check_coco,
    is_rle_of,
    read_coco_json,
    read_json,
    refuse_missing_photos,
    usable_segmentation,
    write_json,
)
from ovdet.errors import InputError

CONTENT = {
    "info": {"year": 2017, "url": "http://x/ä"},
    "images": [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in range(1, 10)],
    "annotations": [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.30000000000000004, 1e-7, 3], "segmentation": [[1.5]]}
        for i in range(1, 30)
    ],
    "categories": [{"id": 1, "name": "{cat}"}],
    "empty": [],
    "note": None,
}


@pytest.fixture
def stderr(monkeypatch):
    """What the bars draw, on a terminal of 200 columns."""
    stream = io.StringIO()
    monkeypatch.setattr("ovdet.progress.Console", lambda stderr: Console(file=stream, force_terminal=True, width=200))
    return stream


@pytest.mark.parametrize("piece", [1, 7, 29, 1000])
def test_written_in_pieces_read_as_a_whole(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(coco_json, "PIECE", piece)
    write_json(tmp_path / "a.json", CONTENT)
    assert json.loads((tmp_path / "a.json").read_text()) == CONTENT
    assert list(json.loads((tmp_path / "a.json").read_text())) == list(CONTENT)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    write_json(tmp_path / "b.json", {"only": []})
    assert (tmp_path / "b.json").read_text() == '{"only":[]}\n'


def test_a_large_file_shows_a_bar_and_reads_the_same(tmp_path, monkeypatch, stderr):
    write_json(tmp_path / "a.json", CONTENT)
    assert read_json(tmp_path / "a.json", "a json", progress=True) == CONTENT and not stderr.getvalue()
    monkeypatch.setattr(coco_json, "LARGE", 10)
    assert read_json(tmp_path / "a.json", "a json") == CONTENT and not stderr.getvalue()
    assert read_json(tmp_path / "a.json", "a json", progress=True) == CONTENT
    assert "reading a.json" in stderr.getvalue()
    monkeypatch.setattr(coco_json, "MANY", 10)
    write_json(tmp_path / "c.json", CONTENT)
    assert "writing c.json" in stderr.getvalue() and read_json(tmp_path / "c.json", "a json") == CONTENT
    assert len(read_coco_json(tmp_path / "a.json", progress=True).annotations) == 29
    (tmp_path / "b.json").write_text('{"images": [{"id": 1}')
    with pytest.raises(InputError, match="b.json is not json"):
        read_json(tmp_path / "b.json", "a json", progress=True)


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"images": [1, object()]})
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with pytest.raises(InputError, match="place to write to"):
        write_json(tmp_path / "a.json" / "b.json", {})


def test_missing_photos(tmp_path, caplog):
    refuse_missing_photos([], 3, tmp_path)
    missing = [str(tmp_path / f"{i}.jpg") for i in range(7)]
    with pytest.raises(InputError, match=r"expected 9 photos .* 7 are missing: .*0.jpg, .*\(7 in all\)"):
        refuse_missing_photos(missing, 9, tmp_path)
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [f"missing photo: {f}" for f in missing]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("images", {"height": float("inf")}, r"x.json is not: .*images\[0\].height. .'inf'"),
        ("images", {"width": float("nan")}, r"x.json is not: .*images\[0\].width. .'nan'"),
        ("images", {"file_name": None}, "file_name or a coco_url of image 1 in x.json"),
        ("images", {"file_name": 3}, r"x.json is not: .*images\[0\].file_name. .'3'"),
        ("images", {"height": 8.5}, "whole height of image 1 in x.json, got 8.5"),
        ("annotations", {"iscrowd": "no"}, r"x.json is not: .*annotations\[0\].iscrowd. .'no'"),
        ("annotations", {"area": "large"}, r"x.json is not: .*annotations\[0\].area. .'large'"),
        ("annotations", {"bbox": [0, 0, 1]}, r"x.json is not: .*annotations\[0\].bbox. .'\[0, 0, 1\]'"),
    ],
)
def test_entries_that_are_refused(kind, change, message):
    content = {**CONTENT, kind: [{**CONTENT[kind][0], **change}, *CONTENT[kind][1:]]}
    with pytest.raises(InputError, match=message):
        check_coco(content, "x.json")


def test_null_says_nothing():
    content = {**CONTENT, "annotations": [{**CONTENT["annotations"][0], "iscrowd": None, "area": None}]}
    assert check_coco(content, "x.json").annotations == CONTENT["annotations"][:1]


@pytest.mark.parametrize("size", [[8], [8, 0], "88", [8.5, 8]])
def test_run_lengths_of_no_size(size):
    assert usable_segmentation({"counts": [3, 5], "size": size}, {"height": 8, "width": 1}) == []


PHOTO = {"height": 40, "width": 30}
FULL = mask_util.encode(np.asfortranarray(np.random.default_rng(0).integers(0, 2, (40, 30), dtype=np.uint8)))
COUNTS = FULL["counts"].decode()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [40, 30], "counts": COUNTS},
        {"size": [40, 30], "counts": [1200]},
        {"size": [40, 30], "counts": [0, 7, 1193]},
        [[0, 0, 5, 0, 5, 5]],
        [[-3.5, 0, 35, 0, 5, 45.5]],
    ],
)
def test_segmentations_that_fit_their_photo(segmentation):
    found = usable_segmentation(segmentation, PHOTO)
    rle = mask_util.merge(mask_util.frPyObjects(found, 40, 30)) if isinstance(found, list) else found
    assert mask_util.decode(rle).shape == (40, 30)


def test_run_lengths_are_read_as_pycocotools_writes_them():
    draw = np.random.default_rng(0)
    for fill in (0.0, 0.01, 0.5, 0.99, 1.0):
        mask = (draw.random((draw.integers(1, 300), draw.integers(1, 300))) < fill).astype(np.uint8)
        rle = mask_util.encode(np.asfortranarray(mask))
        assert is_rle_of({"size": list(mask.shape), "counts": rle["counts"].decode()}, *mask.shape)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4000, 3000], "counts": COUNTS},
        {"size": [30, 40], "counts": COUNTS},
        {"size": [40, 30], "counts": COUNTS[:-2]},
        {"size": [40, 30], "counts": COUNTS + "5"},
        {"size": [40, 30], "counts": "o" * 200},
        {"size": [40, 30], "counts": "ooooooo0"},
        {"size": [40, 30], "counts": ""},
        {"size": [40, 30], "counts": "\x00\u732b"},
        {"size": [40, 30], "counts": [1201]},
        {"size": [40, 30], "counts": [-1, 1201]},
        {"size": [40, 30], "counts": [1e3, 200]},
        {"size": [40, 30], "counts": None},
        {"size": [40, 30]},
        {"counts": COUNTS},
        [[0, 0, 5, 0, 1e9, 5]],
        [[0, 0, 5, 0, -1e9, 5]],
        [[0, 0, 5, 0, "5", 5]],
        [[0, 0, 5, 0, 5]],
        [[0, 0, 5, 5]],
        [{"counts": COUNTS, "size": [40, 30]}],
        "polygon",
    ],
)
def test_segmentations_that_would_crash_the_process(segmentation):
    assert usable_segmentation(segmentation, PHOTO) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["first", "last", "beside a good one", "run lengths", "size"])
def test_numbers_that_are_not_finite_are_refused(value, place):
    """As in boxes; other values that do not fit are none."""
    good = [0, 0, 5, 0, 5, 5]
    segmentation = {
        "first": [[value, 0, 5, 0, 5, 5]],
        "last": [[0, 0, 5, 0, 5, value]],
        "beside a good one": [good, [0, 0, value, 0, 5, 5]],
        "run lengths": {"size": [40, 30], "counts": [value, 1200]},
        "size": {"size": [value, 30], "counts": [1200]},
    }[place]
    with pytest.raises(InputError, match=f"finite numbers in the segmentation of annotation 7, got {value}"):
        usable_segmentation(segmentation, PHOTO, "annotation 7")


def test_areas_below_zero_are_unknown():
    content = {**CONTENT, "annotations": [{**CONTENT["annotations"][0], "area": -1}]}
    assert "area" not in check_coco(content, "x.json").annotations[0]


@pytest.mark.parametrize("other", ["person ", "Person", "per_son", "person.", "per\u200bson", "\uff50erson"])
def test_classes_that_read_alike_are_told_by_name_of_the_json(other):
    name = "per son" if "_" in other else "person"
    content = {**CONTENT, "categories": [{"id": 1, "name": name}, {"id": 7, "name": other}]}
    with pytest.raises(InputError) as caught:
        check_coco(content, "x.json")
    for told in ("x.json", repr(name), "category 1", repr(other), "category 7"):
        assert told in str(caught.value)


@pytest.mark.parametrize("name", ["", "  ", "\u200b", "_."])
def test_a_class_without_a_name(name):
    with pytest.raises(InputError, match="expected a name of category 1 in x.json"):
        check_coco({**CONTENT, "categories": [{"id": 1, "name": name}]}, "x.json")


def test_a_heading_with_the_name_of_a_class(caplog):
    """Roboflow writes the project's name as category 0."""
    root = [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "Cat", "supercategory": "cat"}]
    assert check_coco({**CONTENT, "categories": root}, "x.json").names == {1: "Cat"} and "category 0" in caplog.text
    used = {**CONTENT, "annotations": [{**CONTENT["annotations"][0], "category_id": 0}, *CONTENT["annotations"][1:]]}
    with pytest.raises(InputError, match="category 0.*category 1"):
        check_coco({**used, "categories": root}, "x.json")
