"""The timings of the whole detector and of the training step, as a user runs them but for the sizes."""

import json

import pytest
import torch
from torch import nn

from ovdet.benchmarks.inference import share_proposals
from ovdet.benchmarks.profile import PARTS
from ovdet.errors import InputError

SMALL = ("--photos", "1", "--rounds", "1", "--size", "64", "96", "--device", "cpu")


@pytest.mark.slow
def test_inference(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    code, out, err = run_tool("benchmark.py", "inference", *SMALL, "--crops", "2", "--half", "--output", output)
    assert code == 0, err
    rows = json.loads(output.read_text())
    assert [row["case"].split(", ")[1] for row in rows] == ["1 names", "65 names", "1203 names", "65 names", "65 names"]
    assert rows[3]["peer"] == "ovdet, eager, float32"
    for row in rows:
        assert row["ours_s"] > row["limit_s"] * 0.5 and row["peer_s"] > 0 and row["speedup"] > 0
    assert "Faster R-CNN" in out


def test_training_step(run_tool, tmp_path):
    output = tmp_path / "rows.json"
    code, _, err = run_tool(
        "benchmark.py", "train", *SMALL, "--regions", "3", "--classes", "5", "--profile", "--output", output
    )
    assert code == 0, err
    row, *parts = json.loads(output.read_text())
    assert row["peer"] == "Faster R-CNN" and 0 < row["limit_s"]
    assert all(0 < part["ours_s"] < 5 * row["ours_s"] for part in parts)
    named = {part["case"].partition(",")[0].removeprefix("of it ") for part in parts}
    assert named == {*PARTS, "the rest"} - {"image branch"}


def test_bad_input(run_tool):
    code, _, err = run_tool("benchmark.py", "inference", "--photos", "0")
    assert (code, err) == (2, "error: expected --photos and --size of at least 1, got (0, 320, 427)\n")
    code, _, err = run_tool("benchmark.py", "inference", "--size", "0", "96")
    assert (code, err) == (2, "error: expected --photos and --size of at least 1, got (4, 0, 96)\n")
    code, _, err = run_tool("benchmark.py", "train", "--regions", "0")
    assert (code, err) == (2, "error: expected --regions of at least 1, got 0\n")
    code, _, err = run_tool("benchmark.py", "train", "--trace", "trace.json")
    assert code == 2 and "--trace with --profile" in err
    code, _, err = run_tool("benchmark.py", "train", "--size", "64", "0")
    assert (code, err) == (2, "error: expected --size of at least 1 x 1, got 64 x 0\n")
    code, _, err = run_tool("benchmark.py", "inference", *SMALL, "--yolox", "/nowhere.onnx")
    assert code == 2 and "/nowhere.onnx does not exist" in err


@pytest.mark.slow  # a large detector is built
def test_a_peer_with_another_backbone(run_tool):
    code, _, err = run_tool("benchmark.py", "inference", *SMALL, "--config-file", "configs/ov_coco/vild_text.py")
    assert code == 2 and "--peer-config with the backbone" in err


def test_a_peer_has_our_backbone_without_what_stands_beside_it():
    def detector(width: int, beside: bool) -> nn.Module:
        backbone = nn.ModuleDict({"bottom_up": nn.Linear(2, width), **({"beside": nn.Linear(5, 5)} if beside else {})})
        model = nn.Module()
        model.backbone, model.proposal_generator = backbone, nn.Linear(3, 1)
        return model

    ours, peer = detector(4, beside=True), detector(4, beside=False)
    share_proposals(peer, ours)
    assert torch.equal(peer.backbone["bottom_up"].weight, ours.backbone["bottom_up"].weight)
    assert torch.equal(peer.proposal_generator.weight, ours.proposal_generator.weight)
    with pytest.raises(InputError, match="the backbone and RPN of --config-file"):
        share_proposals(detector(6, beside=False), ours)
