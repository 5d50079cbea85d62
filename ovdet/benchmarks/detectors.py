"""Time of one photo by ovdet-lite, beside other detectors in the same run.

Peers have random weights, or weights of another task: what they find is not looked at. All run in turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from ovdet.benchmarks.inference import propose_each, run_each, share_proposals, yolox
from ovdet.benchmarks.random_inputs import random_classes, random_photo
from ovdet.benchmarks.timing import Row, describe_device, time_in_turns
from ovdet.benchmarks.train import build_closed_set
from ovdet.class_embeddings import ClassEmbeddings
from ovdet.device import half_type
from ovdet.engine.config import load_config
from ovdet.export.runtimes import OPENVINO
from ovdet.hub.find import find_model, open_config
from ovdet.inference.load import load_predictor
from ovdet.inference.predictor import OpenVocabPredictor

SIZE = (360, 480)  # of the photo; ovdet-lite enlarges it to 448 x 597
_OWL_NAMES = 100
_RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "OpenVINO",
    "openvino half": "OpenVINO, bfloat16",
    "openvino int8": "OpenVINO, 8 bits",
}


@torch.inference_mode()
def run(
    *,
    rounds: int = 5,
    device: str = "cpu",
    yolox_file: str = "",
    runtimes: Sequence[str] = (),
    int8_file: str = "",
    large_peers: bool = True,
) -> list[Row]:
    """A row for each peer of ovdet-lite, in float32 and, where the device computes in it, in bfloat16.

    On CUDA ovdet-lite as CUDA graphs too, the time of one photo in batches of several sizes.

    Args:
        rounds: timed runs of each; OWLv2, a hundred times as slow, runs once.
        device: of ovdet and its peers.
        yolox_file: YOLOX-nano as ONNX; "" leaves it out.
        runtimes: "onnx", "openvino": ovdet-lite by these too.
        int8_file: ovdet-lite exported in 8 bits, run by OpenVINO too; "" for none.
        large_peers: OWLv2 too, ten seconds a photo on two cores.

    Raises:
        InputError: a file or device that is not there.
    """
    generator = torch.Generator().manual_seed(0)
    photo = random_photo(*SIZE, generator)["image"]
    ours = OpenVocabPredictor.from_pretrained("ovdet-lite", device=device)
    inputs = [ours.prepare(photo)]
    classes = {count: random_classes(count, ours.embed_names.width, generator) for count in (80, 1203)}
    contenders: dict[str, Callable[[], object]] = {
        f"ours {count}": partial(run_each, ours.model, inputs, classes[count]) for count in classes
    }
    contenders["limit"] = partial(propose_each, ours.model, inputs)
    contenders["whole call"] = lambda: ours(photo, classes=classes[80])
    halves = half_type(torch.device(device)) is not None
    if halves:
        half = OpenVocabPredictor.from_pretrained("ovdet-lite", device=device, half=True)
        contenders["half"] = partial(run_each, half.model, inputs, classes[80])
    for runtime in runtimes:
        exported = load_predictor(None, None, None, runtime=runtime, half=False)
        contenders[runtime] = partial(run_each, exported.model, inputs, classes[80])
        if runtime == OPENVINO and halves:
            exported = load_predictor(None, None, None, runtime=runtime, half=True)
            contenders["openvino half"] = partial(run_each, exported.model, inputs, classes[80])
    if int8_file:
        exported = load_predictor(None, None, int8_file, runtime=OPENVINO, half=None)
        contenders["openvino int8"] = partial(run_each, exported.model, inputs, classes[80])
    if torch.device(device).type == "cuda":
        options = dict(device=device, compile=True)
        models = {half: OpenVocabPredictor.from_pretrained(half=half, **options).model for half in {False, halves}}
        contenders |= batches_of(models, inputs[0], classes[80])
    for count, each in classes.items():
        contenders[f"detectron2 {count}"] = partial(run_each, _faster_rcnn(ours.model, count, device), inputs, each)
    contenders["torchvision"] = partial(_mobilenet(device), [photo.to(device) / 255])
    if yolox_file:
        contenders["YOLOX"] = yolox(yolox_file, inputs)
    seconds = time_in_turns(contenders, rounds=rounds, device=device)
    for name in filter(_is_batch, seconds):
        seconds[name] = [each / _batch_size(name) for each in seconds[name]]
    if large_peers:
        seconds["OWLv2"] = time_in_turns({"OWLv2": owl(device)}, rounds=1, device=device)["OWLv2"]
    return rows_of(seconds, describe_device(device))


def batches_of(
    models: Mapping[bool, nn.Module], photo: dict, classes: ClassEmbeddings, sizes: Sequence[int] = (1, 16, 64)
) -> dict[str, Callable[[], object]]:
    """A contender for each batch size of a photo, by models whose graphs it records: in half precision, or not."""
    contenders = {}
    for half, model in models.items():
        for size in sizes:
            contender = partial(model, [photo] * size, classes=classes)
            contender()
            contender()  # the second one's graph is recorded
            contenders[f"graphs {'half ' if half else ''}{size}"] = contender
    return contenders


def _is_batch(contender: str) -> bool:
    return contender.startswith("graphs ")


def _batch_size(contender: str) -> int:
    return int(contender.split()[-1])


def rows_of(seconds: Mapping[str, list[float]], device: str) -> list[Row]:
    """Seconds of each round by contender, see `run` -> rows."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    size = f"photo of {SIZE[0]} x {SIZE[1]}"

    def row(case: str, ours: str, peer: str = "", peer_key: str = "", limit: str | None = None) -> Row:
        spread = (max(seconds[ours]) - min(seconds[ours])) / median[ours]
        return Row(
            f"{size}, {case}",
            *(median[ours], peer, median.get(peer_key), None if limit is None else median[limit]),
            device=device,
            spread=spread,
        )

    rows = [
        row("80 names", "ours 80", "Faster R-CNN of detectron2, same backbone, 80 classes", "detectron2 80", "limit"),
        row("1203 names", "ours 1203", "the same, 1203 classes", "detectron2 1203", "limit"),
        row("80 names", "ours 80", "fasterrcnn_mobilenet_v3_large_320_fpn of torchvision", "torchvision"),
    ]
    if "OWLv2" in median:
        rows.append(row("80 names", "ours 80", f"OWLv2-base of transformers, {_OWL_NAMES} names", "OWLv2"))
    if "YOLOX" in median:
        rows.append(row("80 names", "ours 80", "YOLOX-nano's network, onnxruntime", "YOLOX"))
    rows.append(row("80 names, resizing and filtering too", "whole call", "the network alone", "ours 80"))
    rows += [
        row(f"80 names, {title}", runtime, "ovdet-lite by torch, float32", "ours 80")
        for runtime, title in _RUNTIMES.items()
        if runtime in median
    ]
    if "openvino int8" in median and "YOLOX" in median:
        rows.append(row("80 names, OpenVINO, 8 bits", "openvino int8", "YOLOX-nano's network, onnxruntime", "YOLOX"))
    for name in filter(_is_batch, median):
        precision = ", half precision" if "half" in name else ""
        what = f"80 names, CUDA graphs{precision}, a photo in batches of {_batch_size(name)}"
        rows.append(row(what, name, "ovdet-lite as it was, float32, one photo", "ours 80"))
    if "half" in median:
        rows.append(row("80 names, bfloat16", "half", "ovdet-lite, float32", "ours 80"))
        if "YOLOX" in median:
            rows.append(row("80 names, bfloat16", "half", "YOLOX-nano's network, onnxruntime", "YOLOX"))
    return rows


def _faster_rcnn(ours: nn.Module, num_classes: int, device: str) -> nn.Module:
    """detectron2's Faster R-CNN as it runs it, with our backbone and RPN and their weights."""
    config = load_config("lite/closed_set")
    ours_config = open_config(find_model("ovdet-lite").config_file)
    config.model.proposal_generator = ours_config.model.proposal_generator
    peer = build_closed_set(config, num_classes).to(device).eval()
    share_proposals(peer, ours)
    return peer


def _mobilenet(device: str) -> nn.Module:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    return fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).to(device).eval()


def owl(device: str, *, small: bool = False) -> Callable[[], object]:
    """OWLv2 with random weights: a photo of 960 x 960, as it resizes all, and the tokens of 100 names.

    Args:
        device: where it runs.
        small: a few layers and pixels, to try it out.
    """
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    vision, text = {"image_size": 960, "patch_size": 16}, {}
    if small:
        vision, text = {"image_size": 64, "num_hidden_layers": 1}, {"num_hidden_layers": 1}
    config = Owlv2Config(vision_config=vision, text_config=text)
    model = Owlv2ForObjectDetection(config).to(device).eval()
    side = config.vision_config.image_size
    pixels = torch.zeros(1, 3, side, side, device=device)
    tokens = torch.from_numpy(np.tile([49406, 320, 49407, *[0] * 13], (_OWL_NAMES, 1))).to(device)
    mask = (tokens > 0).long()
    return lambda: model(pixel_values=pixels, input_ids=tokens, attention_mask=mask)
