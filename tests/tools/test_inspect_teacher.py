"""tools/inspect_teacher.py as a user runs it."""

from __future__ import annotations

import json

import pytest
from PIL import Image


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


def test_the_embedded_teacher_knows_a_cat_and_a_cup_of_coffee(run_tool, data, tmp_path):
    output = tmp_path / "figures.json"
    code, out, err = run_tool(
        "inspect_teacher.py", "conse", *data, "--split", tmp_path / "split.json", "--device", "cpu", "--output", output
    )
    assert code == 0, err
    by_view = {figures["view"]: figures for figures in json.loads(output.read_text())}
    assert list(by_view) == ["crops", "RoI features", "both"]
    for figures in by_view.values():
        assert figures["teacher"] == "conse" and len(figures["fingerprint"]) == 16
        assert figures["base"]["top1"] == figures["novel"]["top1"] == figures["all"]["top1"] == 1
    assert "mean of 1 classes" in out and "4-way" in out


def test_mistakes_are_told_in_one_line(run_tool, data, tmp_path, tiny_clip):
    (tmp_path / "broken.json").write_text("{")
    tiny = f"open_clip:{tiny_clip}/random"
    for arguments, message in (
        (["clip", *data], "expected a teacher"),
        (["hf:", *data], "expected hf: and the hub id or folder"),
        ([tiny, "--annotations", tmp_path / "none.json", "--images", tmp_path], "none.json"),
        ([tiny, "--annotations", tmp_path / "broken.json", "--images", tmp_path], "broken.json"),
        ([tiny, *data[:3], tmp_path / "nowhere"], "expected a folder of photos"),
        ([tiny, *data, "--split", tmp_path / "none.json"], "expected a split json"),
        ([tiny, *data, "--max-objects", 0], "expected at least 1 object, got 0"),
        ([tiny, *data, "--templates", "foto"], "expected templates"),
        ([tiny, *data, "--device", "cuda:99"], "CUDA devices here"),
        ([tiny, *data, "--output", "/proc/none/f.json"], "expected a place to write to, got /proc/none/f.json"),
    ):
        code, _, err = run_tool("inspect_teacher.py", "--output", tmp_path / "f.json", *arguments)
        assert code == 2 and message in err and err.count("\n") == 1, (arguments, err)
        assert not (tmp_path / "f.json").exists()


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
