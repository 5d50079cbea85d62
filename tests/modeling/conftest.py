"""A detector small enough to train and run in a second: EfficientNet-Lite0 + FPN, heads with tiny layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances

CONFIGS = Path(__file__).parents[2] / "configs"
WIDTH = 16


@pytest.fixture
def lite_config():
    """The lite model's config with ImageNet weights, a text space of width 16."""
    config = LazyConfig.load(str(CONFIGS / "common/models/lite.py"))
    config.teacher = dict(name="none", width=WIDTH)
    config.model.roi_heads.box_head.fc_dims = [32]
    config.model.roi_heads.box_predictor.input_shape = dict(_target_="detectron2.layers.ShapeSpec", channels=32)
    config.model.roi_heads.batch_size_per_image = 16
    config.model.roi_heads.box_predictor.test_topk_per_image = 20
    config.model.proposal_generator.update(pre_nms_topk=(100, 50), post_nms_topk=(50, 30))
    return config


@pytest.fixture
def build(lite_config):
    """Instantiate it, after a change to `config.model`."""

    def build(change=lambda model: model):
        torch.manual_seed(0)
        lite_config.model = change(lite_config.model)
        return instantiate(lite_config.model)

    return build


def unit_rows(rows: int, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    """(rows, width) random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


@pytest.fixture
def make_inputs():
    """N photos of noise with two boxes each, or none."""

    def make_inputs(number: int = 2, boxes: int = 2, height: int = 64, width: int = 96) -> list[dict]:
        generator = torch.Generator().manual_seed(1)
        inputs = []
        for _ in range(number):
            instances = Instances((height, width))
            instances.gt_boxes = Boxes(torch.tensor([[4.0, 4, 40, 40], [30, 10, 90, 60]])[:boxes])
            instances.gt_classes = torch.arange(boxes)
            image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
            inputs.append({"image": image, "instances": instances, "height": height, "width": width})
        return inputs

    return make_inputs


@pytest.fixture
def make_unit_rows():
    return unit_rows
