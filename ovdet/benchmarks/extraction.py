"""Photos per second into a region store, against the networks alone on what is ready for them."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from ovdet.benchmarks.inference import propose_each
from ovdet.benchmarks.stream import draw_photos
from ovdet.benchmarks.teacher import random_boxes, ready_batches
from ovdet.benchmarks.timing import Row, compare, with_rate
from ovdet.data.images import find_images, read_image
from ovdet.errors import InputError
from ovdet.hub.find import find_model, open_config
from ovdet.regions.job import ImageJob
from ovdet.regions.plan import ImageRecord, RegionPlan
from ovdet.regions.worker import build_extractor
from ovdet.teachers.registry import load_teacher

_SCALES = (1.0, 1.5)  # of the boxes, as `ovdet extract` looks at them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: the photos, regions, teacher and device."""
    add = parser.add_argument
    add("--photos", type=int, default=4, metavar="N", help="how many (default: 4)")
    add("--images", metavar="DIR", help="their folder (default: drawn ones, JPEG)")
    add("--regions", type=int, default=32, metavar="M", help="at most, of a photo (default: 32)")
    add("--teacher", default="conse", metavar="T", help="conse, open_clip:..., hf:... (default: conse)")
    add("--device", default="auto", help="of the networks (default: a GPU, else the CPU)")


def run(arguments: argparse.Namespace) -> list[Row]:
    """One row. The lower bound is ovdet-lite's backbone, pyramid and RPN on decoded photos, and the teacher on crops.

    Raises:
        InputError: no photos or regions, or no such teacher or device.
    """
    if min(arguments.photos, arguments.regions) < 1:
        got = f"{arguments.photos} and {arguments.regions}"
        raise InputError(f"expected --photos and --regions of at least 1, got {got}")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(arguments.images or draw_photos(Path(folder), arguments.photos))
        files = find_images(images)[: arguments.photos]
        pixels = [torch.tensor(read_image(file)).permute(2, 0, 1) for file in files]
        sizes = [each.shape[1:] for each in pixels]
        jobs = [ImageJob(i, str(files[i]), *size, [], []) for i, size in enumerate(sizes)]
        model = find_model("ovdet-lite")
        config = open_config(model.config_file, [f"train.device={arguments.device}"])
        teacher = load_teacher(arguments.teacher)
        plan = RegionPlan(
            teacher=teacher.name,
            fingerprint=teacher.fingerprint,
            width=teacher.width,
            crops={"scales": list(_SCALES)},
            dataset={"name": "benchmark"},
            proposals={"source": "ovdet-lite", "training_classes": [], "nms_threshold": 0.9},
            max_regions=arguments.regions,
            images_per_shard=len(jobs),
            images=tuple(ImageRecord(*job[:4]) for job in jobs),
        )
        extractor = build_extractor(config, plan, model.weights)
        network, embedder = extractor.propose.model, extractor.embedder
        generator = torch.Generator().manual_seed(0)
        boxes = [random_boxes(each, arguments.regions, generator) for each in pixels]
        crops = ready_batches(embedder.teacher, pixels, boxes, _SCALES)
        inputs = [extractor.mapper({"file_name": str(file)}) for file in files]

        @torch.inference_mode()
        def networks() -> None:
            propose_each(network, inputs)
            for batch in crops:
                embedder.teacher.encode_image(batch)

        row = compare(
            f"{len(jobs)} photos, {arguments.regions} regions each",
            lambda: list(extractor.write_shards(folder, [(0, jobs)])),
            limit=networks,
            rounds=arguments.rounds,
            device=embedder.teacher.device,
        )
    return [with_rate(row, len(jobs))]
