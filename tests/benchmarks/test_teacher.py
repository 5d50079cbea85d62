"""The teacher benchmark as a user runs it, small."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ovdet.benchmarks.teacher import embed_one_by_one
from ovdet.teachers.crops import embed_regions

SMALL = ("--photos", 2, "--regions", 3, "--rounds", 1, "--device", "cpu")


@pytest.fixture
def teacher(tiny_clip):
    return f"open_clip:{tiny_clip}/random"


def test_drawn_photos(run_tool, teacher, tmp_path):
    output = tmp_path / "rows.json"
    code, out, err = run_tool("benchmark.py", "teacher", "--teacher", teacher, *SMALL, "--output", output)
    assert code == 0, out + err
    together, each = json.loads(output.read_text())
    assert together["case"] == f"{teacher}, 2 photos x 3 regions x 2 crops, together"
    assert together["speedup"] > 0 and together["of_limit"] > 0 and each["of_limit"] > 0
    assert each["peer"] == "" and each["case"].endswith("photo by photo")
    code, out, err = run_tool(
        "benchmark.py", "teacher", "--teacher", teacher, *SMALL, "--photos", 1, "--output", output
    )
    assert code == 0 and len(json.loads(output.read_text())) == 1, "one photo is the same by itself and together"


@pytest.mark.slow
def test_photos_of_ones_own(run_tool, teacher, tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 40 + i} for i in range(2)]
    for image in images:
        Image.new("RGB", (image["width"], image["height"]), (image["id"] * 90, 10, 20)).save(
            tmp_path / image["file_name"]
        )
    box = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [3, 4, 20, 30]}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    own = ("--images", tmp_path, "--annotations", tmp_path / "truth.json")
    code, out, err = run_tool("benchmark.py", "teacher", "--teacher", teacher, *SMALL, *own)
    assert code == 0 and "threads" in out, err
    for arguments, message in (
        ((*own, "--photos", 3), "expected 3 photos"),
        (own[:2], "expected --images and --annotations together, got one of them"),
        (("--regions", 0), "expected --regions of at least 1, got 0"),
        (("--teacher", "clip"), "expected a teacher"),
        (("--rounds", 0), "expected --rounds of at least 1, got 0"),
    ):
        code, _, err = run_tool("benchmark.py", "teacher", "--teacher", teacher, *SMALL, *arguments)
        assert code == 2 and message in err and err.count("\n") == 1


def test_both_ways_give_the_same_embeddings(conse_teacher):
    photo = torch.from_numpy(pytest.importorskip("skimage.data").chelsea()).permute(2, 0, 1)
    boxes = torch.tensor([[60.0, 5, 390, 295], [10, 10, 90, 60]])
    usual = embed_one_by_one(conse_teacher, photo, boxes, (1.0, 1.5))
    assert F.cosine_similarity(usual, embed_regions(conse_teacher, photo, boxes)).min() > 0.999
