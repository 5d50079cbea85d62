"""Time of inference for 1, 65 and 1203 names, against detectron2's closed-set detector.

The peer is detectron2's Faster R-CNN with the same backbone, RPN and photos, 80 classes and its own post-processing.
Its classifier is untrained, so no class reaches its threshold and its NMS has nothing to do: the cheapest it can be.
The lower bound is backbone, pyramid and RPN alone, which both have to run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from ovdet.benchmarks.random_inputs import random_boxes, random_classes, random_photo
from ovdet.benchmarks.timing import Row, compare
from ovdet.benchmarks.train import build_closed_set
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import choose_device, half_type
from ovdet.engine.checkpoint import SafeCheckpointer
from ovdet.engine.config import load_config
from ovdet.errors import InputError
from ovdet.modeling.acceleration import speed_up
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher

CLASSES = (1, 65, 1203)  # one name, OV-COCO, LVIS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", default="lite/vild", metavar="F", help="config of the detector")
    parser.add_argument("--weights", default="", metavar="W", help="its checkpoint (default: random)")
    parser.add_argument("--peer-config", default="lite/closed_set", metavar="F", help="config of the closed-set one")
    parser.add_argument("--peer-classes", type=int, default=80, metavar="K", help="its classes (default: 80)")
    parser.add_argument("--photos", type=int, default=4, metavar="N", help="images, one at a time (default: 4)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(320, 427), metavar=("H", "W"), help="image size in pixels"
    )
    parser.add_argument("--crops", type=int, default=0, metavar="R", help="also time the teacher on R crops per image")
    parser.add_argument("--yolox", default="", metavar="F.onnx", help="also time YOLOX by onnxruntime")
    parser.add_argument("--compile", action="store_true", help="with torch.compile; one more row without")
    parser.add_argument("--half", action="store_true", help="in mixed precision; one more row without")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")


@torch.inference_mode()
def run(arguments: argparse.Namespace) -> list[Row]:
    """A row per vocabulary size, and one per additional peer that was asked for."""
    numbers = (arguments.photos, *arguments.size)
    if min(numbers) < 1:
        raise InputError(f"expected --photos and --size of at least 1, got {numbers}")
    device = choose_device(arguments.device)
    generator = torch.Generator().manual_seed(0)
    photos = [random_photo(*arguments.size, generator) for _ in range(arguments.photos)]
    config = load_config(arguments.config_file, ["model.region_source=null", "model.roi_heads.objectives=[]"])
    model = instantiate(config.model).to(device).eval()
    if arguments.weights:
        SafeCheckpointer(model).load_weights(arguments.weights)
    plain = deepcopy(model)
    speed_up(model, compile=arguments.compile, half=arguments.half)
    propose = torch.autocast(device.type, half_type(device), enabled=arguments.half and half_type(device) is not None)(
        propose_each
    )
    peer = build_closed_set(load_config(arguments.peer_config), arguments.peer_classes).to(device).eval()
    share_proposals(peer, model)

    def detect(num_classes: int, model: nn.Module = model) -> Callable[[], None]:
        return partial(run_each, model, photos, random_classes(num_classes, config.teacher.width, generator))

    def row(num_classes: int, name: str, work: Callable[[], object], rounds: int = arguments.rounds) -> Row:
        return compare(
            f"{arguments.photos} photos {arguments.size[0]} x {arguments.size[1]}, {num_classes} names",
            detect(num_classes),
            peer=(name, work),
            limit=lambda: propose(model, photos),
            rounds=rounds,
            device=device,
        )

    closed = f"Faster R-CNN, {arguments.peer_classes} classes"
    peers_own = random_classes(arguments.peer_classes, config.teacher.width, generator)
    rows = [row(num_classes, closed, lambda: run_each(peer, photos, peers_own)) for num_classes in CLASSES]
    if arguments.compile or arguments.half:
        rows.append(row(65, "ovdet, eager, float32", detect(65, plain)))
    if arguments.yolox:
        rows.append(row(65, "YOLOX, onnxruntime", yolox(arguments.yolox, photos)))
    if arguments.crops:
        embedder = RegionEmbedder(load_teacher(config.teacher.name, device))
        boxes = random_boxes(arguments.crops, *arguments.size, generator)
        name = f"teacher on {arguments.crops} crops a photo"
        rows.append(row(65, name, lambda: _embed_each(embedder, photos, boxes), rounds=1))
    return rows


def share_proposals(peer: nn.Module, model: nn.Module) -> None:
    """Give a peer our backbone's and RPN's weights, without those of a backbone that stands beside ours.

    Raises:
        InputError: they do not fit.
    """
    weights = {key: value for key, value in model.backbone.state_dict().items() if not key.startswith("beside.")}
    try:
        peer.backbone.load_state_dict(weights)
        peer.proposal_generator.load_state_dict(model.proposal_generator.state_dict())
    except RuntimeError as error:
        raise InputError("expected a --peer-config with the backbone and RPN of --config-file, got others") from error


def run_each(model: nn.Module, photos: Sequence[dict], classes: ClassEmbeddings) -> None:
    for photo in photos:
        model([photo], classes=classes)


def propose_each(model: nn.Module, photos: Sequence[dict]) -> None:
    for photo in photos:
        images = model.preprocess_image([photo])
        model.proposal_generator(images, model.backbone(images.tensor), None)


def _embed_each(embedder: RegionEmbedder, photos: Sequence[dict], boxes: Tensor) -> None:
    for photo in photos:
        embedder(photo["image"], boxes)


def yolox(file: str, photos: Sequence[dict]) -> Callable[[], None]:
    """YOLOX's network alone, without resize and NMS, at its exported size."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("expected onnxruntime for --yolox, run: pip install onnxruntime") from error
    if not Path(file).is_file():
        raise InputError(f"expected an ONNX file, {file} does not exist")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    pixels = np.zeros(entry.shape, dtype=np.float32)

    def work() -> None:
        for _ in photos:
            session.run(None, {entry.name: pixels})

    return work
