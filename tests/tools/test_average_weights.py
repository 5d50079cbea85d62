"""Averaging weights as a user would: a file, and bad input in a line."""

import json

import pytest
import torch
from detectron2.config import LazyConfig

from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.inference.averaging import Share, choose_share
from ovdet.inference.predictor import OpenVocabPredictor


def test_a_file_is_written(run_tool, tmp_path):
    for name, value in (("a", 0.0), ("b", 1.0)):
        torch.save({"model": {"weight": torch.full((2,), value)}}, tmp_path / f"{name}.pth")
    files = ["--before", tmp_path / "a.pth", "--after", tmp_path / "b.pth", "--output", tmp_path / "c.pth"]
    code, out, err = run_tool("average_weights.py", *files, "--share", "0.7")
    assert code == 0, err
    assert torch.load(tmp_path / "c.pth", weights_only=True)["model"]["weight"].tolist() == [0.699999988079071] * 2


def test_bad_input_is_one_line_and_exit_code_2(run_tool, tmp_path):
    files = ["--before", tmp_path / "a.pth", "--after", tmp_path / "b.pth", "--output", tmp_path / "c.pth"]
    code, _, err = run_tool("average_weights.py", *files)
    assert code == 2 and "a.pth does not exist" in err.strip().splitlines()[-1]
    for more, message in (
        (("--share", "2"), "share between 0 and 1, got 2"),
        (("--output", tmp_path / "c.safetensors"), "expected a .pth file to write to, got"),
    ):
        code, _, err = run_tool("average_weights.py", *files, *more)
        assert code == 2 and message in err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_the_best_share_that_keeps_the_control_is_chosen():
    tried = [Share(0, 5, 20), Share(0.3, 10, 19.8), Share(0.5, 14, 19.2), Share(1, 16, 17)]
    assert choose_share(tried, 1).share == 0.5 and choose_share(tried, 0.5).share == 0.3
    assert choose_share(tried, 5).share == 1
    with pytest.raises(InputError, match="1: 3.0"):
        choose_share(tried, -1)


def test_shares_are_tried_on_photos(tiny_files, run_tool, striped, tmp_path, monkeypatch):
    """The tiny detector and another one; both jsons are the same photos."""
    embed, embedded = OpenVocabPredictor.embed, []
    monkeypatch.setattr(
        OpenVocabPredictor, "embed", lambda self, *given, **more: embedded.append(1) or embed(self, *given, **more)
    )
    _, config, _, before = tiny_files.arguments
    content = torch.load(before, weights_only=True)
    content["model"]["roi_heads.box_predictor.bbox_pred.bias"] += 0.1
    torch.save(content, tmp_path / "after.pth")
    run = tmp_path / "config.yaml"
    LazyConfig.save(load_config(config, tiny_files.overrides), str(run))
    files = ["--before", before, "--after", tmp_path / "after.pth", "--output", tmp_path / "averaged.pth"]
    own = ["--annotations", striped / "my.json", "--images", striped, "--config-file", run, "--max-photos", "2"]
    control = ["--control-annotations", striped / "my.json", "--control-images", striped, "--max-loss", "100"]
    code, out, err = run_tool("average_weights.py", *files, *own, *control, "--shares", "0.5,1", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert [each["share"] for each in told["tried"]] == [0, 0.5, 1] and (tmp_path / "averaged.pth").is_file()
    assert all(each["own"] == each["control"] for each in told["tried"])
    best = max(told["tried"][1:], key=lambda each: each["own"])
    assert told["share"] == best["share"]
    assert len(embedded) == 4  # names of both jsons: by the detector before, and once for all averages
    for more, message in (
        (["--shares", "0.5"], "--config-file"),
        (["--shares", "0.5", "--share", "1", *own, *control], "got both"),
        (["--shares", "half", *own, *control], "half"),
        (["--shares", "0", *own, *control], "above 0"),
    ):
        code, _, err = run_tool("average_weights.py", *files, *more)
        assert code == 2 and message in err.strip().splitlines()[-1]
