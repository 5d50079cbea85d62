"""The drawn dataset: what its json says is what the photos show, and drawing is repeatable."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from ovdet.data.images import read_image
from ovdet.data.splits import load_split
from ovdet.data.synthetic import (
    BASE,
    CLASS_NAMES,
    COLORS,
    NOVEL,
    SHAPES,
    Shape,
    build_synthetic,
    draw_dataset,
    draw_scene,
)
from ovdet.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    draw_dataset(root, 30, 10, seed=3)
    return root


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_split():
    assert set(BASE) | set(NOVEL) == set(CLASS_NAMES) and not set(BASE) & set(NOVEL)
    assert len(CLASS_NAMES) == len(COLORS) * len(SHAPES) and len(COLORS) >= 6 and len(SHAPES) >= 5
    assert "red square" in NOVEL and len(BASE) > 3 * len(NOVEL)
    assert {name.split()[0] for name in BASE} == set(COLORS) == {name.split()[0] for name in NOVEL}
    assert {name.split()[1] for name in BASE} == set(SHAPES)


def test_layout_and_split_file(root):
    assert len(list((root / "images").glob("*.jpg"))) == 40
    assert load_split(root / "ov_split.json") == {"base": list(BASE), "novel": list(NOVEL), "ignored": []}
    ids = [json.loads((root / f"instances_{part}.json").read_text()) for part in ("train", "val")]
    assert not {image["id"] for image in ids[0]["images"]} & {image["id"] for image in ids[1]["images"]}
    for content in ids:
        annotation_ids = [annotation["id"] for annotation in content["annotations"]]
        assert len(set(annotation_ids)) == len(annotation_ids) and 0 not in annotation_ids


def test_photos_show_what_the_json_says(root):
    content = json.loads((root / "instances_train.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    counts = {image_id: 0 for image_id in images}
    for annotation in content["annotations"]:
        counts[annotation["image_id"]] += 1
        image = images[annotation["image_id"]]
        pixels = read_image(root / "images" / image["file_name"])
        assert pixels.shape[:2] == (image["height"], image["width"])
        x, y, width, height = annotation["bbox"]
        assert min(width, height) >= 24 and x >= 0 and y >= 0
        assert x + width <= image["width"] and y + height <= image["height"]
        rle = mask_util.frPyObjects(annotation["segmentation"], *pixels.shape[:2])[0]
        mask = mask_util.decode(rle)
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.05)
        np.testing.assert_allclose(mask_util.toBbox(rle), annotation["bbox"], atol=2.5)  # corners end between pixels
        inside = cv2.erode(mask, np.ones((5, 5), np.uint8)).astype(bool)
        color = COLORS[CLASS_NAMES[annotation["category_id"] - 1].split()[0]]
        assert np.abs(np.median(pixels[inside], axis=0) - color).max() < 30
    assert 1 <= min(counts.values()) and max(counts.values()) <= 5


def test_outlines_meet_their_boxes():
    for name in CLASS_NAMES:
        shape = Shape(name, (60.0, 50.0), 30.0, 10.0)
        x1, y1, x2, y2 = shape.box()
        dark = np.abs(draw_scene([shape], (100, 120), seed=1).astype(int) - 225).max(axis=2) > 60
        rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
        drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(drawn, (x1, y1, x2, y2), atol=2.0)


def test_equal_seeds_draw_equal_files(root, tmp_path):
    for seed in (3, 4):
        draw_dataset(tmp_path / str(seed), 30, 10, seed=seed)
    assert digest(tmp_path / "3") == digest(root)
    assert digest(tmp_path / "4") != digest(root)


def test_build_draws_once_and_whole(tmp_path, monkeypatch):
    root = tmp_path / "data" / "drawn"
    assert build_synthetic(root, 2, 1, size=(64, 96)) == root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    build_synthetic(root, 2, 1, size=(64, 96))
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(InputError, match="'seed': 5.*'seed': 0"):
        build_synthetic(root, 2, 1, seed=5, size=(64, 96))

    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        build_synthetic(tmp_path / "data" / "other", 2, 1, size=(64, 96))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["drawn"]


def test_a_place_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file/below", tmp_path / "file/far/below", "/proc/nowhere"):
        with pytest.raises(InputError, match=f"expected a place to write a drawn dataset to, got {root}: "):
            build_synthetic(root, 2, 1, size=(64, 96))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(InputError, match="drawn: No space left on device"):
        build_synthetic(tmp_path / "drawn", 2, 1, size=(64, 96))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_bytes", full)  # a photo's
    with pytest.raises(InputError, match="drawn: No space left on device"):
        build_synthetic(tmp_path / "drawn", 2, 1, size=(64, 96))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_build_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="something else"):
        build_synthetic(tmp_path, 2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="48 pixels"):
        draw_dataset(tmp_path / "small", 2, 1, size=(20, 20))
