"""One process of an extraction: read images ahead, propose boxes, embed them with the teacher, write shards.

A shard depends on the plan and its number alone: proposals are made image by image, and the teacher's embeddings of a
crop do not depend on the other crops that it sees along with it.

Shape letters: M boxes of one image, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms

from ovdet.data.mapper import OpenVocabMapper
from ovdet.data.read_ahead import num_readers, read_ahead
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.hub.load import load_detector
from ovdet.regions.job import ImageJob
from ovdet.regions.plan import RegionPlan
from ovdet.regions.shard import ImageRegions, unreadable_image, write_shard
from ovdet.teachers.crops import RegionEmbedder
from ovdet.teachers.registry import load_teacher

MIN_SIDE = 1.0  # pixels of the image: a thinner box holds nothing that can be told apart
IMAGES_AT_ONCE = 8  # whose crops go to the teacher together


class Reading(NamedTuple):
    """A decoded image, or the error that it cannot be read."""

    inputs: dict[str, Any]  # as OpenVocabMapper gives them, with `image_orig`; {} where it could not be read
    sha256: bytes
    error: str


def read_image_file(job: ImageJob, mapper: OpenVocabMapper) -> Reading:
    """Decode an image and hash its file; why it cannot be read is in `error`."""
    record = {key: getattr(job, key) for key in ("image_id", "file_name", "height", "width")}
    try:
        sha256 = hashlib.sha256(Path(job.file_name).read_bytes()).digest()
        return Reading(mapper(record), sha256, "")
    except OSError as error:
        return Reading({}, b"", f"{job.file_name} cannot be read: {error.strerror or error}")
    except InputError as error:
        return Reading({}, b"", str(error))


def choose_regions(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], *, nms_threshold: float, max_regions: int
) -> tuple[Tensor, Tensor]:
    """Clip boxes to their image, drop what is thinner than a pixel, class-agnostic NMS, the best `max_regions`.

    Args:
        boxes: (M, 4) XYXY in pixels of the image.
        scores: (M,); of equal ones the first is the best.
        size: (height, width) of the image.
        nms_threshold: IoU above which the box with the lower score goes.
        max_regions: how many stay at most.

    Returns:
        Boxes and scores, best first.
    """
    boxes = clip_boxes_to_image(boxes.float(), size)
    whole = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(dim=1)
    boxes, scores = boxes[whole], scores[whole]
    kept = nms(boxes, scores, nms_threshold)[:max_regions]
    return boxes[kept], scores[kept]


class ProposalNetwork:
    """Proposes boxes of an image with a detector's backbone and RPN."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: with `preprocess_image`, `backbone` and `proposal_generator`, in evaluation mode.
        """
        self.model = model

    def __call__(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Proposals for one image.

        Args:
            inputs: as OpenVocabMapper gives them, with `image_orig`.

        Returns:
            Boxes (M, 4) XYXY in pixels of the image, objectness (M,) in [0, 1], best first, both on the CPU.
        """
        with torch.inference_mode():
            images = self.model.preprocess_image([inputs])
            proposals, _ = self.model.proposal_generator(images, self.model.backbone(images.tensor), None)
        height, width = images.image_sizes[0]
        scale = torch.tensor([inputs["image_orig"].shape[2] / width, inputs["image_orig"].shape[1] / height])
        boxes = proposals[0].proposal_boxes.tensor.cpu() * scale.repeat(2)
        return boxes.clone(), proposals[0].objectness_logits.sigmoid().cpu().clone()


def propose_nothing(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """No boxes, for plans whose boxes are all known beforehand."""
    return torch.zeros(0, 4), torch.zeros(0)


class RegionExtractor:
    """Computes and writes the shards of a plan."""

    def __init__(
        self,
        plan: RegionPlan,
        embedder: RegionEmbedder,
        mapper: OpenVocabMapper,
        propose: Callable[[dict[str, Any]], tuple[Tensor, Tensor]] = propose_nothing,
    ) -> None:
        """
        Args:
            plan: of the store.
            embedder: the plan's teacher, and the scales at which it looks at regions.
            mapper: reads images, with `image_orig`.
            propose: boxes and scores of one image, which join those known beforehand.
        """
        self.plan = plan
        self.embedder = embedder
        self.mapper = mapper
        self.propose = propose

    def write_shards(self, folder: str | Path, shards: Sequence[tuple[int, Sequence[ImageJob]]]) -> Iterator[int]:
        """Compute and write shards, one after the other.

        Args:
            folder: the store.
            shards: numbers, each with its images in the plan's order.

        Yields:
            The number of images after each batch of them, for a progress bar. A shard is written before the next one
            begins.

        Raises:
            InputError: the store cannot be written to.
        """
        images = (job for _, jobs in shards for job in jobs)
        readings = read_ahead(images, self._read, threads=num_readers(), ahead=2 * IMAGES_AT_ONCE)
        for number, jobs in shards:
            entries: list[ImageRegions] = []
            for start in range(0, len(jobs), IMAGES_AT_ONCE):
                batch = jobs[start : start + IMAGES_AT_ONCE]
                entries += self._embed(batch, list(islice(readings, len(batch))))
                if len(entries) == len(jobs):
                    write_shard(folder, self.plan, number, entries)
                yield len(batch)

    def _read(self, job: ImageJob) -> Reading:
        return read_image_file(job, self.mapper)

    def _embed(self, jobs: Sequence[ImageJob], readings: Sequence[Reading]) -> list[ImageRegions]:
        """The entries of some images; their crops go to the teacher together."""
        readable = [(job, reading) for job, reading in zip(jobs, readings, strict=True) if not reading.error]
        regions = [self._choose(job, reading.inputs) for job, reading in readable]
        images = [reading.inputs["image_orig"] for _, reading in readable]
        embeddings = self.embedder.embed_batch(images, [boxes for boxes, _ in regions])
        made = iter(zip(regions, images, embeddings, strict=True))
        entries = []  # in the order of the images, unreadable ones too
        for reading in readings:
            if reading.error:
                entries.append(unreadable_image(reading.error))
                continue
            (boxes, scores), image, rows = next(made)
            size = (image.shape[1], image.shape[2])
            entries.append(ImageRegions(boxes, rows.cpu(), scores, size, reading.sha256))
        return entries

    def _choose(self, job: ImageJob, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        boxes, scores = self.propose(inputs)
        return choose_regions(
            torch.cat([torch.tensor(job.boxes, dtype=torch.float32).reshape(-1, 4), boxes]),
            torch.cat([torch.tensor(job.scores, dtype=torch.float32), scores]),
            tuple(inputs["image_orig"].shape[1:]),
            nms_threshold=self.plan.proposals["nms_threshold"],
            max_regions=self.plan.max_regions,
        )


def load_embedder(plan: RegionPlan, device: torch.device) -> RegionEmbedder:
    """The plan's teacher, looking at regions as the plan says.

    Raises:
        InputError: it cannot be loaded, or the teacher of that name here is not quite the plan's.
    """
    teacher = load_teacher(plan.teacher, device)
    if teacher.fingerprint != plan.fingerprint:
        raise InputError(
            f"expected {plan.teacher} with fingerprint {plan.fingerprint}, it has {teacher.fingerprint} on this machine"
        )
    return RegionEmbedder(teacher, tuple(plan.crops["scales"]))


def build_extractor(config: DictConfig, plan: RegionPlan, weights: str = "") -> RegionExtractor:
    """The plan's teacher and, with weights, the config's detector, on the config's device.

    Raises:
        InputError: as of load_embedder and load_detector.
    """
    embedder = load_embedder(plan, choose_device(config.train.device))
    if not weights:
        return RegionExtractor(plan, embedder, OpenVocabMapper(is_train=False, augmentations=[], keep_original=True))
    model, _, _ = load_detector(config, weights)
    mapper = instantiate({**config.dataloader.test.mapper, "keep_original": True})
    return RegionExtractor(plan, embedder, mapper, ProposalNetwork(model))
