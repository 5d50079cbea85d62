"""What version 0.1 wrote opens: every old name has one of today, in configs and in weights."""

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.config.instantiate import locate
from omegaconf import OmegaConf

from ovdet.engine.checkpoint import read_checkpoint
from ovdet.engine.config import load_config
from ovdet.engine.version_0_1 import _TARGETS, upgrade_config


@pytest.mark.parametrize("target", _TARGETS.values())
def test_what_a_config_may_name_is_there(target):
    assert callable(locate(target))


def test_a_run_of_version_0_1(tmp_path):
    config = OmegaConf.to_container(LazyConfig.load("configs/quick/vild.py"))
    config["model"] = {
        "_target_": "ovdet.modeling.OpenVocabRCNN",
        "input_format": "RGB",
        "roi_heads": {
            "_target_": "ovdet.modeling.OpenVocabROIHeads",
            "quality": {"_target_": "ovdet.modeling.LocalisationQuality", "in_features": "${teacher.width}"},
            "other_names": {"weights": {"_target_": "ovdet.teachers.conse.load_conse_names"}},
            "overlap_decay": 0.5,
        },
    }
    LazyConfig.save(OmegaConf.create(config, flags={"allow_objects": True}), str(tmp_path / "run.yaml"))
    model = OmegaConf.to_container(load_config(str(tmp_path / "run.yaml"), ["train.max_iter=3"]).model)
    assert model == {
        "_target_": "ovdet.modeling.detector.OpenVocabRCNN",
        "input_format": "RGB",
        "roi_heads": {
            "_target_": "ovdet.modeling.roi_heads.OpenVocabROIHeads",
            "iou_head": {"_target_": "ovdet.modeling.iou_head.IoUHead", "in_features": "${teacher.width}"},
            "background_names": {"weights": {"_target_": "ovdet.teachers.conse.load_conse_background_names"}},
            "soft_nms_sigma": 0.5,
        },
    }


def test_weights_of_version_0_1(tmp_path):
    old = {"roi_heads.quality.linear.weight": torch.ones(1), "roi_heads.other_names.names": torch.zeros(2)}
    torch.save({"model": old}, tmp_path / "old.pth")
    model = read_checkpoint(str(tmp_path / "old.pth"))["model"]
    assert set(model) == {"roi_heads.iou_head.linear.weight", "roi_heads.background_names.names"}


def test_the_one_objective_of_before_is_a_list_of_objectives():
    loss = {"_target_": "ovdet.losses.L1Distillation", "weight": 0.5}
    target = "ovdet.objectives.l1_distillation.L1Distillation"
    assert upgrade_config({"roi_heads": {"distillation": loss}}) == {
        "roi_heads": {"objectives": [{"_target_": target, "weight": 0.5}]}
    }
    assert upgrade_config({"distillation": None}) == {"objectives": []}
