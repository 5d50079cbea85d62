"""A training run with the federated loss and repeated photos, by the engine."""

import json
from pathlib import Path

import torch
from detectron2.config import LazyCall, LazyConfig

from ovdet.data.samplers import repeat_factor_sampler
from ovdet.engine.config import load_config
from ovdet.engine.train import do_train

QUICK = "configs/quick/vild.py"
ROOT = Path(__file__).parents[2]


def test_two_steps(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides = [f"train.output_dir={tmp_path}", "train.max_iter=2", "train.device=cpu", "train.log_period=1"]
    config = load_config(QUICK, [*trained.overrides, *overrides])
    config.model = LazyConfig.load("configs/common/federated.py", "federated")(config.model)
    config.dataloader.train.sampler = LazyCall(repeat_factor_sampler)(threshold=0.5)
    results = do_train(config)
    assert "AP50-novel" in results["bbox"]
    losses = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(0 < row["loss_cls"] < 100 for row in losses if "loss_cls" in row)
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    begin = torch.tensor(0.01).logit()
    assert state["roi_heads.box_predictor.classifier.bias"] != begin  # it learns
    assert not [key for key in state if "background" in key or "fed_loss" in key]
