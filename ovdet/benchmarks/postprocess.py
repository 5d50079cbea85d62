"""Time of post-processing random boxes and scores, against detectron2's `fast_rcnn_inference`.

Shape letters: R regions of one photo, K classes, D embedding width.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from torch import Tensor

from ovdet.benchmarks.timing import Row, compare
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.modeling.postprocess import postprocess_images

IMAGE_SIZE = (800, 1216)
NMS_THRESHOLD = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: sizes and the device."""
    parser.add_argument("--regions", type=int, default=1000, metavar="R", help="boxes of the image (default: 1000)")
    parser.add_argument("--classes", type=int, default=1203, metavar="K", help="default: 1203, as in LVIS")
    parser.add_argument("--detections", type=int, default=300, metavar="N", help="detections kept (default: 300)")
    parser.add_argument("--threshold", type=float, default=1e-4, metavar="S", help="lowest score (default: 1e-4)")
    parser.add_argument("--device", default="cpu", help="default: cpu")


def run(arguments: argparse.Namespace) -> list[Row]:
    """A row per distribution of scores; detections must agree. The lower bound is torch.topk of the scores.

    Raises:
        InputError: sizes below 1, or a device that is not here.
    """
    sizes = (arguments.regions, arguments.classes, arguments.detections)
    if min(sizes) < 1:
        raise InputError(f"expected --regions, --classes and --detections of at least 1, got {sizes}")
    device = choose_device(arguments.device)
    cases = draw_cases(*sizes[:2]).items()
    return [_row(name, boxes.to(device), scores.to(device), arguments) for name, (boxes, scores) in cases]


def draw_cases(regions: int, classes: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Random boxes (R, 4) and scores (R, K) by the name of their distribution."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(20, 2, generator=generator) * 600
    centers = places[torch.randint(20, (regions,), generator=generator)]
    centers = centers + 20 * torch.randn(regions, 2, generator=generator)
    sides = 20 + 150 * torch.rand(regions, 2, generator=generator)
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    embeddings, names = (
        F.normalize(torch.randn(n, 512, generator=generator), dim=1) for n in (regions, classes + 1)
    )  # (R, D), (K + 1, D)
    softmax = (embeddings @ names.t() / 0.01).softmax(dim=1)[:, :-1].contiguous()
    one_order = torch.rand(1, classes, generator=generator).expand(regions, -1).contiguous()
    return {
        "softmax of random cosines": (boxes, softmax),
        "uniform scores": (boxes, torch.rand(regions, classes, generator=generator)),
        "all scores equal": (boxes, torch.full_like(softmax, 0.5)),
        "one box, one order of classes (worst case)": (boxes[:1].expand(regions, -1).contiguous(), one_order),
    }


def _row(name: str, boxes: Tensor, scores: Tensor, arguments: argparse.Namespace) -> Row:
    with_background = F.pad(scores, (0, 1))
    number = arguments.detections

    def ours() -> Instances:
        thresholds = dict(score_threshold=arguments.threshold, nms_threshold=NMS_THRESHOLD, max_detections=number)
        return postprocess_images([boxes], [scores], [IMAGE_SIZE], **thresholds)[0]

    def peer() -> Instances:
        return fast_rcnn_inference(
            [boxes], [with_background], [IMAGE_SIZE], arguments.threshold, NMS_THRESHOLD, number
        )[0][0]

    if not torch.equal(ours().scores, peer().scores):
        raise AssertionError(f"expected detectron2's detections, got others: {name}")
    return compare(
        f"{scores.shape[0]} x {scores.shape[1]}, {name}",
        ours,
        peer=("fast_rcnn_inference", peer),
        limit=lambda: scores.flatten().topk(min(number, scores.numel())),
        rounds=arguments.rounds,
        device=scores.device,
    )
