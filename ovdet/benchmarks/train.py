"""Time of a training step of ViLD with stored regions, against one of Faster R-CNN.

Both have the same backbone, images and objects; a step is forward, backward and the optimizer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from detectron2.config import instantiate
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig
from torch import Tensor, nn

from ovdet.benchmarks.profile import PARTS, time_parts
from ovdet.benchmarks.random_inputs import random_classes, random_training_photo
from ovdet.benchmarks.timing import Row, compare, with_rate
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import choose_device, half_type
from ovdet.engine.config import load_config
from ovdet.engine.options import build_options
from ovdet.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", default="lite/vild_stored", metavar="F", help="config of ViLD")
    parser.add_argument("--peer-config", default="lite/closed_set", metavar="F", help="config of Faster R-CNN")
    parser.add_argument("--photos", type=int, default=8, metavar="N", help="images per step (default: 8)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(288, 384), metavar=("H", "W"), help="image size in pixels"
    )
    parser.add_argument("--regions", type=int, default=32, metavar="M", help="stored regions per image (default: 32)")
    parser.add_argument("--classes", type=int, default=48, metavar="K", help="base classes (default: 48)")
    parser.add_argument("--profile", action="store_true", help="also the time of each part of ViLD's step")
    parser.add_argument("--trace", metavar="F.json", help="with --profile: a step's operators over time, for Perfetto")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")


def run(arguments: argparse.Namespace) -> list[Row]:
    """A row of the step (peer: Faster R-CNN; lower bound: backbone and pyramid), and rows of its parts."""
    for name in ("photos", "regions", "classes"):
        if getattr(arguments, name) < 1:
            raise InputError(f"expected --{name} of at least 1, got {getattr(arguments, name)}")
    if min(arguments.size) < 1:
        raise InputError(f"expected --size of at least 1 x 1, got {' x '.join(map(str, arguments.size))}")
    if arguments.trace and not arguments.profile:
        raise InputError("expected --trace with --profile, got it alone")
    device = choose_device(arguments.device)
    config = load_config(arguments.config_file)
    generator = torch.Generator().manual_seed(0)
    sizes = dict(num_classes=arguments.classes, num_regions=arguments.regions, embedding_width=config.teacher.width)
    photos = [random_training_photo(*arguments.size, **sizes, generator=generator) for _ in range(arguments.photos)]
    model = instantiate(config.model).to(device)
    classes = random_classes(arguments.classes, config.teacher.width, generator)
    peer = build_closed_set(load_config(arguments.peer_config), arguments.classes).to(device)
    height, width = arguments.size
    step = Step(model, config, photos, classes)
    row = compare(
        f"step of {arguments.photos} photos {height} x {width}, {arguments.regions} regions each",
        step,
        peer=("Faster R-CNN", Step(peer, config, photos, classes)),
        limit=_backbone_step(model, photos),
        rounds=arguments.rounds,
        device=device,
    )
    row = with_rate(row, arguments.photos)
    if not arguments.profile:
        return [row]
    return [row, *time_parts(step, PARTS, rounds=arguments.rounds, device=device, trace=arguments.trace)]


def build_closed_set(config: DictConfig, num_classes: int) -> nn.Module:
    """The detector of a closed-set config, with detectron2's own pooler and K classes of no particular names."""
    config.dataset.num_base = num_classes
    config.model.training_classes = [f"name {k}" for k in range(num_classes)]
    config.model.roi_heads.box_pooler.update(_target_=ROIPooler, pooler_type="ROIAlignV2")
    return instantiate(config.model)


class Step:
    """A training step, in mixed precision where the config says so."""

    def __init__(self, model: nn.Module, config: DictConfig, photos: Sequence[dict], classes: ClassEmbeddings) -> None:
        config = config.copy()
        config.optimizer.params.model = model.train()
        self.model = model
        self.photos = photos
        self.classes = classes
        self.optimizer = instantiate(config.optimizer)
        device_type = next(model.parameters()).device.type
        half = half_type(torch.device(device_type))
        self.autocast = torch.autocast(device_type, half, enabled=build_options(config).amp and half is not None)

    def __call__(self) -> None:
        torch.manual_seed(0)  # the same regions are sampled each time
        with EventStorage(), self.autocast:
            losses = self.model(self.photos, classes=self.classes)
        self.optimizer.zero_grad()
        self.backward(sum(losses.values()))
        self.update()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> None:
        self.optimizer.step()


def _backbone_step(model: nn.Module, photos: Sequence[dict]) -> Callable[[], None]:
    images = model.preprocess_image(photos).tensor

    def step() -> None:
        sum(level.float().mean() for level in model.backbone(images).values()).backward()
        model.zero_grad()

    return step
