"""The benchmark of post-processing as a user runs it, small."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.ops import box_iou

from ovdet.benchmarks.postprocess import draw_cases


@pytest.mark.slow
def test_rows(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    sizes = ("--regions", 100, "--classes", 30, "--detections", 20, "--rounds", 1)
    code, out, err = run_tool("benchmark.py", "postprocess", *sizes, "--output", output)
    assert code == 0, out + err
    rows = json.loads(output.read_text())
    assert [row["case"] for row in rows] == [f"100 x 30, {name}" for name in draw_cases(100, 30)]
    assert all(row["peer"] == "fast_rcnn_inference" and row["speedup"] > 0 and row["of_limit"] > 0 for row in rows)


def test_drawn_scores_are_as_awkward_as_they_say():
    (_, softmax), _, (_, equal), (one_box, one_order) = draw_cases(50, 40).values()
    assert softmax.sum(dim=1).max() <= 1.001 and (softmax > 1e-4).float().mean() > 0.1
    assert len(equal.unique()) == 1
    assert box_iou(one_box, one_box).min() == 1 and torch.equal(one_order, one_order[:1].expand(50, -1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--regions", 0), "at least 1, got (0, 1203, 300)"),
        (("--rounds", 0), "--rounds of at least 1"),
        (("--device", "cuda:99"), "got 'cuda:99'"),
    ],
)
def test_bad_input(run_tool, arguments, message):
    code, _, err = run_tool("benchmark.py", "postprocess", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1
