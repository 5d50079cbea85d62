"""Photos of a folder through `predictor.stream`, against calls one by one and the network on photos that are ready."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ovdet.benchmarks.timing import Row, compare, with_rate
from ovdet.data.images import find_images
from ovdet.errors import InputError
from ovdet.inference.predictor import OpenVocabPredictor

NAMES = ("person", "dog", "car", "bottle", "red kite")
_SIZES = ((640, 480), (480, 640), (640, 427))  # (width, height), as of COCO's photos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: the photos, the model and the batches."""
    parser.add_argument("--photos", type=int, default=24, metavar="N", help="how many (default: 24)")
    parser.add_argument("--images", metavar="DIR", help="their folder (default: drawn ones, JPEG)")
    parser.add_argument("--model", default="ovdet-lite", help="default: ovdet-lite")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], metavar="B", help="default: 1")
    parser.add_argument("--compile", action="store_true", help="as CUDA graphs, see ovdet detect --compile")
    parser.add_argument("--half", action="store_true", help="in half precision")
    parser.add_argument("--device", help="default: a GPU where there is one")


def run(arguments: argparse.Namespace) -> list[Row]:
    """A row for each batch size. The lower bound is the network on decoded and resized photos in the same batches.

    Raises:
        InputError: no photos, a batch size below 1, or a model that cannot be had.
    """
    if arguments.photos < 1:
        raise InputError(f"expected --photos of at least 1, got {arguments.photos}")
    with tempfile.TemporaryDirectory() as folder:
        images = arguments.images or draw_photos(Path(folder), arguments.photos)
        files = find_images(images)[: arguments.photos]
        options = dict(device=arguments.device, compile=arguments.compile, half=arguments.half)
        predictor = OpenVocabPredictor.from_pretrained(arguments.model, **options)
        predictor.set_vocabulary(NAMES)
        return [_row(predictor, files, size, arguments.rounds) for size in arguments.batch_size]


def draw_photos(folder: Path, number: int) -> Path:
    """Write photos of smooth noise, some of them upright."""
    random = np.random.default_rng(0)
    for place in range(number):
        coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        coarse.resize(_SIZES[place % 3], Image.BICUBIC).save(folder / f"{place:04}.jpg", quality=90)
    return folder


def _row(predictor: OpenVocabPredictor, files: Sequence[Path], batch_size: int, rounds: int) -> Row:
    ready = [predictor.prepare(file) for file in files]
    if batch_size > 1:  # the largest batches that there could be
        ready.sort(key=lambda inputs: tuple(inputs["image"].shape))
    classes = predictor.classes

    @torch.inference_mode()
    def network() -> None:
        for start in range(0, len(ready), batch_size):
            predictor.model(ready[start : start + batch_size], classes=classes)

    row = compare(
        f"{len(files)} photos, batches of {batch_size}",
        lambda: list(predictor.stream(files, batch_size=batch_size)),
        peer=("one by one", lambda: [predictor(file) for file in files]),
        limit=network,
        rounds=rounds,
        device=next(predictor.model.parameters()).device,
    )
    return with_rate(row, len(files))
