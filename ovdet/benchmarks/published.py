"""Time of one photo by a published detector, Detic's R50, against detectron2's Mask R-CNN R50-FPN.

Both have random weights: CenterNet keeps its 256 best boxes, the RPN its 1000. Masks take most of the time where there
are many: of the peer no class reaches its threshold, so it has none; ours are timed likewise, and both with as many.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from detectron2.config import instantiate
from detectron2.model_zoo import get_config
from detectron2.structures import Instances
from torch import nn

from ovdet.benchmarks.inference import propose_each, run_each
from ovdet.benchmarks.random_inputs import random_classes, random_photo
from ovdet.benchmarks.timing import Row, compare
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.hub.published.detic import detic_timm
from ovdet.modeling.acceleration import speed_up

_WIDTH = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"), help="photo in pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=(80, 1203), metavar="K", help="names (80 and 1203)")
    parser.add_argument("--backbone", default="resnet50", metavar="B", help="of timm, for both (default: resnet50)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")


@torch.inference_mode()
def run(arguments: argparse.Namespace) -> list[Row]:
    """A row for each number of classes, and one with masks; the lower bound is backbone, pyramid and proposals alone.

    Raises:
        InputError: sides below 32 pixels, or no class.
    """
    if min(arguments.size) < 32 or min(arguments.classes) < 1:
        got = f"{arguments.size} and {arguments.classes}"
        raise InputError(f"expected --size of at least 32 x 32 and --classes of at least 1, got {got}")
    device = choose_device(arguments.device)
    height, width = arguments.size
    generator = torch.Generator().manual_seed(0)
    inputs = [random_photo(height, width, generator)]
    ours = speed_up(instantiate(detic_timm(arguments.backbone)).to(device).eval())
    size = f"Detic {arguments.backbone}, photo of {height} x {width}"
    limit = partial(propose_each, ours, inputs)
    rows = []
    for count in arguments.classes:
        classes = random_classes(count, _WIDTH, generator)
        peer = mask_rcnn(count).to(device).eval()
        nobodys = torch.full((count,), 2.0)  # no score reaches it
        row = compare(
            f"{size}, {count} names, no mask",
            lambda classes=classes, nobodys=nobodys: ours(inputs, classes=classes, mask_thresholds=nobodys),
            peer=(f"Mask R-CNN R50-FPN of detectron2, {count} classes", lambda peer=peer: peer(inputs)),
            limit=limit,
            rounds=arguments.rounds,
            device=device,
        )
        rows.append(row)
    found = ours.inference(inputs, classes=classes, do_postprocess=False)
    row = compare(
        f"{size}, {count} names, {len(found[0])} masks",
        partial(run_each, ours, inputs, classes),
        peer=("the same, as many masks", partial(run_with_masks, peer, inputs, found)),
        limit=limit,
        rounds=arguments.rounds,
        device=device,
    )
    return [*rows, row]


def run_with_masks(peer: nn.Module, inputs: list[dict], boxes: list[Instances]) -> None:
    """detectron2's detector, then masks of given boxes beside its own."""
    images = peer.preprocess_image(inputs)
    features = peer.backbone(images.tensor)
    proposals, _ = peer.proposal_generator(images, features, None)
    peer.roi_heads(images, features, proposals, None)
    given = []
    for each in boxes:
        own = Instances(each.image_size)
        own.pred_boxes, own.scores, own.pred_classes = each.pred_boxes, each.scores, each.pred_classes
        given.append(own)
    peer._postprocess(peer.roi_heads.forward_with_given_boxes(features, given), inputs, images.image_sizes)


def mask_rcnn(num_classes: int) -> nn.Module:
    """detectron2's Mask R-CNN R50-FPN, as its model zoo has it."""
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model.roi_heads.num_classes = num_classes
    return instantiate(model)
