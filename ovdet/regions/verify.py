"""Checking a region store: its shards are whole, its images unchanged, its embeddings the teacher's.

Shape letters: M regions of one image, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ovdet.data.coco import listed
from ovdet.data.images import read_image
from ovdet.device import choose_device
from ovdet.errors import InputError
from ovdet.files import file_sha256
from ovdet.progress import track
from ovdet.regions.plan import ImageRecord, RegionPlan, read_plan
from ovdet.regions.shard import ImageRegions, Shard, missing_shards
from ovdet.regions.worker import load_embedder

Row = tuple[int, int]  # a shard's number, and a position in it

# Storing in float16 costs 1e-6, a teacher that computes in it at most 1e-3 (dual_encoder.py); another crop or order of
# channels far more.
LOWEST_COSINE = 0.998


@dataclass
class Verification:
    """The findings of a check of a region store.

    Attributes:
        num_images: of the plan.
        num_compared: images whose embeddings were computed anew.
        worst_cosine: between a stored embedding and the one computed anew; 1 where none was compared.
        worst_photo: where that was.
        missing_shards: numbers of those that are not there yet.
        damaged_shards: what is wrong with them.
        unreadable: images that could not be read when the store was made, and why.
        missing_images: files that are no longer there.
        changed_images: files whose content is another.
    """

    num_images: int
    num_compared: int = 0
    worst_cosine: float = 1.0
    worst_photo: str = ""
    missing_shards: list[int] = field(default_factory=list)
    damaged_shards: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    missing_images: list[str] = field(default_factory=list)
    changed_images: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line: how many images were read and embedded anew."""
        worst = f", worst cosine {self.worst_cosine:.6f}" if self.num_compared else ""
        return f"{self.num_images} images, {self.num_compared} of them embedded anew{worst}"

    @property
    def problems(self) -> list[str]:
        """A line for each kind of problem; [] where there is none."""
        found = [
            ("shards are missing (extract with --resume)", self.missing_shards),
            ("shards are damaged", self.damaged_shards),
            ("images could not be read when the store was made", self.unreadable),
            ("images are missing", self.missing_images),
            ("images have changed", self.changed_images),
        ]
        lines = [f"{len(entries)} {what}: {listed(entries)}" for what, entries in found if entries]
        if self.worst_cosine < LOWEST_COSINE:
            lines.append(f"embeddings are not the teacher's: worst cosine {self.worst_cosine:.4f}, {self.worst_photo}")
        return lines


def verify_store(
    folder: str | Path, *, sample: int = 32, images: str | Path | None = None, device: str = "auto"
) -> Verification:
    """Read a whole store and all its images, and compute the embeddings of some images anew.

    Args:
        folder: the store; it need not be complete.
        sample: of how many images with regions, drawn evenly from all of them.
        images: the folder of the images; None: the one that the store was made from.
        device: for the teacher.

    Raises:
        InputError: there is no store, or the plan's teacher cannot be loaded or is another one here.
    """
    if sample < 0:
        raise InputError(f"expected a sample of at least 0 images, got {sample}")
    folder, plan = Path(folder), read_plan(folder)
    found = Verification(len(plan.images), missing_shards=missing_shards(folder, plan))
    whole: list[Row] = []
    for number in track(sorted(set(range(plan.num_shards)).difference(found.missing_shards)), "reading all"):
        try:
            shard = Shard(folder, plan, number)
            shard.check_content()
        except InputError as error:
            found.damaged_shards.append(str(error))
            continue
        for position, image in enumerate(plan.images[plan.of_shard(number)]):
            entry = shard.entry(position)
            if _is_whole(image, plan.path_of(image, images), entry, found) and len(entry.boxes):
                whole.append((number, position))
    even = torch.linspace(0, len(whole) - 1, min(sample, len(whole))).long().tolist()
    _compare(folder, plan, [whole[index] for index in even], found, images, device)
    return found


def _is_whole(image: ImageRecord, path: Path, entry: ImageRegions, found: Verification) -> bool:
    """Whether the image is readable and unchanged; if not, it is noted in `found`."""
    if entry.error:
        found.unreadable.append(f"{image.image_id} ({entry.error})")
    elif not path.is_file():
        found.missing_images.append(str(path))
    elif file_sha256(path) != entry.sha256.hex():
        found.changed_images.append(str(path))
    else:
        return True
    return False


def _compare(
    folder: Path, plan: RegionPlan, rows: Sequence[Row], found: Verification, images: str | Path | None, device: str
) -> None:
    """Compute the embeddings of some images anew."""
    if not rows:
        return
    embed = load_embedder(plan, choose_device(device))
    for number, position in track(rows, "embedding a sample"):
        image = plan.images[plan.of_shard(number)][position]
        entry = Shard(folder, plan, number).entry(position)
        path = plan.path_of(image, images)
        pixels = torch.from_numpy(read_image(path).transpose(2, 0, 1).copy())
        cosine = _worst_cosine(entry.embeddings, embed(pixels, entry.boxes).cpu())
        found.num_compared += 1
        if cosine < found.worst_cosine:
            found.worst_cosine, found.worst_photo = cosine, str(path)


def _worst_cosine(stored: Tensor, computed: Tensor) -> float:
    """(M, D) twice, M > 0 -> the lowest cosine between rows of the same index."""
    return float(torch.nn.functional.cosine_similarity(stored, computed).min())
