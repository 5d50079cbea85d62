"""Time of embedding regions with a teacher, against crop by crop and the teacher's forward alone.

The peer is the teacher's own preprocessing: each region cropped and resized by Pillow, with a forward pass each.
The lower bound is the same number of crops, prepared beforehand, in batches of the size that is fastest here.

Shape letters: M regions of one image, R crops of all regions at all scales.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovdet.benchmarks.timing import Row, compare
from ovdet.data.coco import read_coco_json
from ovdet.data.images import read_image
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.teachers.base import Teacher
from ovdet.teachers.crops import RegionEmbedder, crop_regions, normalize_crops
from ovdet.teachers.registry import load_teacher

_RANDOM_SIZE = (480, 640)  # height and width in pixels
_CPU_BATCHES, _DEVICE_BATCHES = (4, 8, 16, 32), (128, 256, 512, 1024)  # crops; tried for the limit
_LOWEST_COSINE = 0.99  # of ours to the usual way: both must have done the same work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: teacher, images, regions and the device."""
    parser.add_argument("--teacher", default="conse", metavar="T", help="conse, open_clip:..., hf:... (default: conse)")
    parser.add_argument("--images", metavar="DIR", help="a folder of images (default: random ones)")
    parser.add_argument("--annotations", metavar="X.json", help="their COCO-format json; its boxes come first")
    parser.add_argument("--photos", type=int, default=4, metavar="N", help="images (default: 4)")
    parser.add_argument("--regions", type=int, default=32, metavar="M", help="regions per image (default: 32)")
    parser.add_argument("--device", default="auto", help="device of the teacher (default: a GPU, else the CPU)")


def run(arguments: argparse.Namespace) -> list[Row]:
    """A row of all images in one batch, and where there are several, one of one image at a time.

    Raises:
        InputError: no such teacher, device or images.
    """
    photos, boxes = _load_regions(arguments)
    teacher = load_teacher(arguments.teacher, choose_device(arguments.device))
    embedder = RegionEmbedder(teacher)
    batches = ready_batches(teacher, photos, boxes, embedder.scales)

    def crop_by_crop() -> Tensor:
        return torch.cat(
            [embed_one_by_one(teacher, *both, embedder.scales) for both in zip(photos, boxes, strict=True)]
        )

    def together() -> Tensor:
        return torch.cat(embedder.embed_batch(photos, boxes)).cpu()

    def each() -> Tensor:
        return torch.cat([embedder(*both).cpu() for both in zip(photos, boxes, strict=True)])

    def limit() -> list[Tensor]:
        return [teacher.encode_image(batch) for batch in batches]

    worst = float(F.cosine_similarity(together(), crop_by_crop()).min())
    if worst < _LOWEST_COSINE:
        raise AssertionError(f"expected the two ways to give the same embeddings, got a cosine of {worst:.4f}")
    sizes = f"{arguments.teacher}, {len(photos)} photos x {arguments.regions} regions x {len(embedder.scales)} crops"
    options = {"limit": limit, "rounds": arguments.rounds, "device": teacher.device}
    rows = [compare(f"{sizes}, together", together, peer=("crop by crop", crop_by_crop), **options)]
    return rows if len(photos) == 1 else [*rows, compare(f"{sizes}, photo by photo", each, **options)]


def embed_one_by_one(teacher: Teacher, photo: Tensor, boxes: Tensor, scales: Sequence[float]) -> Tensor:
    """Embed regions crop by crop: (3, H, W) uint8 RGB and (M, 4) boxes -> (M, D), unit norm, on the CPU."""
    image = Image.fromarray(photo.permute(1, 2, 0).contiguous().numpy())
    height, width = teacher.input_size
    mean, std = np.float32(teacher.mean), np.float32(teacher.std)
    rows = []
    for x1, y1, x2, y2 in boxes.double().tolist():
        embedding = 0
        for scale in scales:
            dx, dy = (x2 - x1) / 2 * (scale - 1), (y2 - y1) / 2 * (scale - 1)
            left, top = max(round(x1 - dx), 0), max(round(y1 - dy), 0)
            right, bottom = min(round(x2 + dx), image.width), min(round(y2 + dy), image.height)
            crop = image.crop((left, top, right, bottom)).resize((width, height), Image.BICUBIC)
            pixels = torch.from_numpy((np.asarray(crop, np.float32) / 255 - mean) / std).permute(2, 0, 1)
            embedding = embedding + teacher.encode_image(pixels[None].to(teacher.device)).cpu()
        rows.append(F.normalize(embedding, dim=1))
    return torch.cat(rows)


def ready_batches(
    teacher: Teacher, photos: Sequence[Tensor], boxes: Sequence[Tensor], scales: Sequence[float]
) -> tuple[Tensor, ...]:
    """All crops, preprocessed: batches (R, 3, h, w) of the fastest size, on the teacher's device."""
    crops = [
        crop_regions(photo.to(teacher.device), of_photo, teacher.input_size, scale)
        for photo, of_photo in zip(photos, boxes, strict=True)
        for scale in scales
    ]
    pixels = normalize_crops(torch.cat(crops), teacher.mean, teacher.std)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    sizes = _CPU_BATCHES if teacher.device.type == "cpu" else _DEVICE_BATCHES
    return pixels.split(min(sizes, key=lambda size: _seconds_per_crop(teacher, pixels[:size])))


def _seconds_per_crop(teacher: Teacher, batch: Tensor) -> float:
    """Seconds per crop of a batch: the better of two runs, after one to warm up."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        teacher.encode_image(batch).cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / len(batch)


def _load_regions(arguments: argparse.Namespace) -> tuple[list[Tensor], list[Tensor]]:
    """N images (3, H, W) uint8 RGB and their boxes (M, 4) XYXY: annotated ones first, then random ones.

    Raises:
        InputError: a number below 1, a folder without a json or the other way round, or too few photos.
    """
    for name in ("photos", "regions"):
        if getattr(arguments, name) < 1:
            raise InputError(f"expected --{name} of at least 1, got {getattr(arguments, name)}")
    if bool(arguments.images) != bool(arguments.annotations):
        raise InputError("expected --images and --annotations together, got one of them")
    generator = torch.Generator().manual_seed(0)
    if arguments.images:
        photos, known = _read_photos(arguments.annotations, arguments.images, arguments.photos)
    else:
        coarse = torch.rand(arguments.photos, 3, 30, 40, generator=generator)
        photos = list((F.interpolate(coarse, _RANDOM_SIZE, mode="bilinear") * 255).byte())
        known = [torch.zeros(0, 4)] * len(photos)
    drawn = [random_boxes(photo, arguments.regions, generator) for photo in photos]
    return photos, [torch.cat(both)[: arguments.regions] for both in zip(known, drawn, strict=True)]


def _read_photos(annotations: str, images: str, number: int) -> tuple[list[Tensor], list[Tensor]]:
    """The first images of a data set and their annotated boxes, XYXY."""
    coco = read_coco_json(annotations)
    if len(coco.images) < number:
        raise InputError(f"expected {number} photos in {annotations}, got {len(coco.images)}")
    photos, boxes = [], []
    for image in list(coco.images.values())[:number]:
        photos.append(torch.tensor(read_image(f"{images}/{image['file_name']}")).permute(2, 0, 1))
        of_image = [a["bbox"] for a in coco.annotations if a["image_id"] == image["id"]]
        box = torch.tensor(of_image).reshape(-1, 4)  # XYWH
        box = box[(box[:, 2:] >= 1).all(1)]
        boxes.append(torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1))
    return photos, boxes


def random_boxes(photo: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Random boxes (M, 4) XYXY inside an image, sides from 8 pixels to all of it, more small than large ones."""
    extent = torch.tensor([photo.shape[2], photo.shape[1]])
    sides = 8 + (extent - 8) * torch.rand(number, 2, generator=generator) ** 2
    corner = (extent - sides) * torch.rand(number, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)
