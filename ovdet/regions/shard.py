"""One shard of a region store: the regions of a run of images in a safetensors file, written atomically.

`boxes` (S, 4) float32 XYXY in pixels of the upright image, `embeddings` (S, D) float16, `scores` (S,) float32,
`offsets` (N + 1,) int64, `sizes` (N, 2) int32 (height, width) and `hashes` (N, 32) uint8, the sha256 of each image's
file. The metadata ties the file to its plan, says which images could not be read, and has a checksum of the tensors.
Equal contents make equal files.

Shapes: N images of the shard, M regions of one image, S regions of the shard, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ovdet.errors import InputError, error_summary
from ovdet.files import atomic_write
from ovdet.regions.plan import FORMAT, RegionPlan
from ovdet.typed import decoded

ROWS = ("boxes", "embeddings", "scores")
HEADER = "ovdet"  # one entry of the metadata: of several, safetensors writes any first
TENSORS = (*ROWS, "offsets", "sizes", "hashes")


class _Header(msgspec.Struct):
    format: str
    plan: str
    shard: int
    checksum: str
    faults: dict[str, str]  # by position in the shard


class ImageRegions(NamedTuple):
    """The stored regions of one image."""

    boxes: Tensor  # (M, 4) XYXY, best first
    embeddings: Tensor  # (M, D), unit norm
    scores: Tensor  # (M,)
    size: tuple[int, int]  # (height, width) of the upright image
    sha256: bytes  # of the file
    error: str = ""  # why the image could not be read, "" where it could


def unreadable_image(error: str) -> ImageRegions:
    """The entry of an image that cannot be read: no regions, and the reason."""
    return ImageRegions(torch.zeros(0, 4), torch.zeros(0, 0), torch.zeros(0), (0, 0), bytes(32), error)


def shard_path(folder: str | Path, number: int) -> Path:
    return Path(folder) / f"shard-{number:05d}.safetensors"


def missing_shards(folder: str | Path, plan: RegionPlan) -> list[int]:
    """The numbers of the shards that are yet to be computed."""
    present = {path.name for path in Path(folder).glob("shard-*.safetensors")}
    return [number for number in range(plan.num_shards) if shard_path(folder, number).name not in present]


def write_shard(folder: str | Path, plan: RegionPlan, number: int, entries: Sequence[ImageRegions]) -> None:
    """Write one shard atomically.

    Args:
        folder: the store.
        plan: its plan.
        number: of the shard.
        entries: one for each image of the shard, in the plan's order.

    Raises:
        InputError: an entry has a wrong shape or a value that is not finite, or the place cannot be written to.
    """
    images = plan.images[plan.of_shard(number)]
    if len(entries) != len(images):
        raise InputError(f"expected regions of the {len(images)} images of shard {number}, got {len(entries)}")
    rows = [_checked(entry, image.image_id, plan.width) for entry, image in zip(entries, images, strict=True)]
    counts = torch.tensor([0, *(len(boxes) for boxes, _, _ in rows)])
    tensors = {
        **{name: torch.cat(column) for name, column in zip(ROWS, zip(*rows, strict=True), strict=True)},
        "offsets": counts.cumsum(0),
        "sizes": torch.tensor([entry.size for entry in entries], dtype=torch.int32),
        "hashes": torch.tensor([list(entry.sha256) for entry in entries], dtype=torch.uint8),
    }
    errors = {position: entry.error for position, entry in enumerate(entries) if entry.error}
    header = {**_identity(plan, number), "faults": errors, "checksum": _checksum(tensors)}
    atomic_write(shard_path(folder, number), save(tensors, metadata={HEADER: json.dumps(header)}))


def _checked(entry: ImageRegions, image_id: int | str, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """An entry's boxes (M, 4) float32, embeddings (M, D) float16 and scores (M,) float32 on the CPU, checked."""
    boxes, embeddings, scores = (torch.as_tensor(rows).detach().cpu() for rows in entry[:3])
    embeddings = embeddings.reshape(0, width) if embeddings.numel() == 0 else embeddings
    expected = f"({len(boxes)}, 4), ({len(boxes)}, {width}) and ({len(boxes)},)"
    actual = f"{tuple(boxes.shape)}, {tuple(embeddings.shape)} and {tuple(scores.shape)}"
    if actual != expected:
        raise InputError(f"expected boxes, embeddings, scores of {expected} for image {image_id!r}, got {actual}")
    tensors = (boxes.float().contiguous(), embeddings.half().contiguous(), scores.float().contiguous())
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise InputError(f"expected finite boxes, embeddings and scores, those of image {image_id!r} are not")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in TENSORS:
        total.update(tensors[name].contiguous().numpy())
    return total.hexdigest()


def _identity(plan: RegionPlan, number: int) -> dict[str, Any]:
    """The entries of a shard's header that say which shard of which plan it is."""
    return {"format": FORMAT, "plan": plan.digest, "shard": number}


class Shard:
    """A shard's file, memory-mapped: opening costs its offsets, each image's rows are read when asked for."""

    def __init__(self, folder: str | Path, plan: RegionPlan, number: int) -> None:
        """
        Raises:
            InputError: the shard is missing, damaged, or of another store.
        """
        self.path = shard_path(folder, number)
        self._number = number
        self._width = plan.width
        try:
            self._file: Any = safe_open(str(self.path), framework="pt")
            self._read_index(plan)
        except Exception as error:  # whatever a strange file raises
            reason = str(error) if isinstance(error, InputError) else error_summary(error)
            raise InputError(
                f"expected a whole shard, {self.path} is not: {reason}; delete it and extract again with --resume"
            ) from error

    def _read_index(self, plan: RegionPlan) -> None:
        text = (self._file.metadata() or {}).get(HEADER, "{}")
        header = decoded(text, _Header, "the header of a shard", self.path)
        for key, expected in _identity(plan, self._number).items():
            if getattr(header, key) != expected:
                raise InputError(f"expected {key} {expected!r}, got {getattr(header, key)!r}")
        self._recorded = header.checksum
        self.errors: dict[int, str] = {int(key): value for key, value in header.faults.items()}
        self._offsets: list[int] = self._file.get_tensor("offsets").tolist()
        num_images, total = len(plan.images[plan.of_shard(self._number)]), self._offsets[-1]
        expected = {"boxes": ("F32", total, 4), "embeddings": ("F16", total, plan.width), "scores": ("F32", total),
                    "offsets": ("I64", num_images + 1), "sizes": ("I32", num_images, 2),
                    "hashes": ("U8", num_images, 32)}  # fmt: skip
        slices = {name: self._file.get_slice(name) for name in TENSORS}
        actual = {name: (rows.get_dtype(), *rows.get_shape()) for name, rows in slices.items()}
        if actual != expected or self._offsets != sorted(self._offsets) or self._offsets[0] != 0:
            raise InputError(f"expected rising offsets and tensors {expected}, got {actual}")
        self._sizes: list[list[int]] = self._file.get_tensor("sizes").tolist()

    def entry(self, position: int) -> ImageRegions:
        """The entry of the shard's image at `position`; embeddings come as float32."""
        start, stop = self._offsets[position], self._offsets[position + 1]
        height, width = self._sizes[position]
        sha256 = bytes(self._file.get_slice("hashes")[position : position + 1].flatten().tolist())
        if start == stop:
            rows = (torch.zeros(0, 4), torch.zeros(0, self._width), torch.zeros(0))
        else:
            boxes, embeddings, scores = (self._file.get_slice(name)[start:stop] for name in ROWS)
            rows = (boxes, embeddings.float(), scores)
        return ImageRegions(*rows, (height, width), sha256, self.errors.get(position, ""))

    def check_content(self) -> None:
        """Compare the file's checksum.

        Raises:
            InputError: a byte is not as it was written.
        """
        if _checksum({name: self._file.get_tensor(name) for name in TENSORS}) != self._recorded:
            raise InputError(
                f"expected a whole shard, {self.path} has another checksum than it was written with; "
                "delete it and extract again with --resume"
            )
