"""One shard of a region store: the regions of a run of photos in a safetensors file that is whole or not there.

`boxes` (S, 4) float32 XYXY in pixels of the upright photo, `embeddings` (S, D) float16, `scores` (S,) float32,
`offsets` (N + 1,) int64, `sizes` (N, 2) int32 (height, width) and `hashes` (N, 32) uint8, the sha256 of each photo's
file. The metadata ties the file to its plan, says which photos could not be read, and has a checksum of the tensors.
Equal contents make equal files.

Shapes: N photos of the shard, M regions of one photo, S regions of the shard, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.regions.plan import FORMAT, RegionPlan

ROWS = ("boxes", "embeddings", "scores")
HEADER = "ovdet"  # one entry of the metadata: of several, safetensors writes any first
TENSORS = (*ROWS, "offsets", "sizes", "hashes")


class PhotoRegions(NamedTuple):
    """What a store keeps of one photo."""

    boxes: Tensor  # (M, 4) XYXY, best first
    embeddings: Tensor  # (M, D), unit norm
    scores: Tensor  # (M,)
    size: tuple[int, int]  # (height, width) of the upright photo
    sha256: bytes  # of the file
    fault: str = ""  # why the photo could not be read, "" where it could


def unreadable(fault: str) -> PhotoRegions:
    """The entry of a photo that cannot be read: no regions, and the reason."""
    return PhotoRegions(torch.zeros(0, 4), torch.zeros(0, 0), torch.zeros(0), (0, 0), bytes(32), fault)


def shard_path(folder: str | Path, number: int) -> Path:
    return Path(folder) / f"shard-{number:05d}.safetensors"


def missing_shards(folder: str | Path, plan: RegionPlan) -> list[int]:
    """The numbers of the shards that are yet to be computed."""
    present = {path.name for path in Path(folder).glob("shard-*.safetensors")}
    return [number for number in range(plan.num_shards) if shard_path(folder, number).name not in present]


def write_shard(folder: str | Path, plan: RegionPlan, number: int, entries: Sequence[PhotoRegions]) -> None:
    """Write one shard; the file is there whole or not at all.

    Args:
        folder: the store.
        plan: its plan.
        number: of the shard.
        entries: one for each photo of the shard, in the plan's order.

    Raises:
        InputError: an entry has a wrong shape or a value that is not finite, or the place cannot be written to.
    """
    photos = plan.photos[plan.of_shard(number)]
    if len(entries) != len(photos):
        raise InputError(f"expected regions of the {len(photos)} photos of shard {number}, got {len(entries)}")
    rows = [_checked(entry, photo.image_id, plan.width) for entry, photo in zip(entries, photos, strict=True)]
    counts = torch.tensor([0, *(len(boxes) for boxes, _, _ in rows)])
    tensors = {
        **{name: torch.cat(column) for name, column in zip(ROWS, zip(*rows, strict=True), strict=True)},
        "offsets": counts.cumsum(0),
        "sizes": torch.tensor([entry.size for entry in entries], dtype=torch.int32),
        "hashes": torch.tensor([list(entry.sha256) for entry in entries], dtype=torch.uint8),
    }
    faults = {position: entry.fault for position, entry in enumerate(entries) if entry.fault}
    header = {**_ties(plan, number), "faults": faults, "checksum": _checksum(tensors)}
    atomic_write(shard_path(folder, number), save(tensors, metadata={HEADER: json.dumps(header)}))


def _checked(entry: PhotoRegions, image_id: int | str, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """(M, 4) float32, (M, D) float16 and (M,) float32 on the CPU."""
    boxes, embeddings, scores = (torch.as_tensor(rows).detach().cpu() for rows in entry[:3])
    embeddings = embeddings.reshape(0, width) if embeddings.numel() == 0 else embeddings
    expected = f"({len(boxes)}, 4), ({len(boxes)}, {width}) and ({len(boxes)},)"
    came = f"{tuple(boxes.shape)}, {tuple(embeddings.shape)} and {tuple(scores.shape)}"
    if came != expected:
        raise InputError(f"expected boxes, embeddings, scores of shapes {expected} for image {image_id!r}, got {came}")
    tensors = (boxes.float().contiguous(), embeddings.half().contiguous(), scores.float().contiguous())
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise InputError(f"expected finite boxes, embeddings and scores, those of image {image_id!r} are not")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in TENSORS:
        total.update(tensors[name].contiguous().numpy())
    return total.hexdigest()


def _ties(plan: RegionPlan, number: int) -> dict[str, Any]:
    """What a shard's header says of where it belongs."""
    return {"format": FORMAT, "plan": plan.digest, "shard": number}


class Shard:
    """A shard's file, memory-mapped: opening costs its offsets, each photo's rows are read when asked for."""

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
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(
                f"expected a whole shard, {self.path} is not: {reason}; delete it and extract again with --resume"
            ) from error

    def _read_index(self, plan: RegionPlan) -> None:
        header = json.loads((self._file.metadata() or {}).get(HEADER, "{}"))
        for key, expected in _ties(plan, self._number).items():
            if header.get(key) != expected:
                raise InputError(f"expected {key} {expected!r}, got {header.get(key)!r}")
        self._recorded = header["checksum"]
        self.faults: dict[int, str] = {int(key): value for key, value in header["faults"].items()}
        self._offsets: list[int] = self._file.get_tensor("offsets").tolist()
        num_photos, total = len(plan.photos[plan.of_shard(self._number)]), self._offsets[-1]
        expected = {"boxes": ("F32", total, 4), "embeddings": ("F16", total, plan.width), "scores": ("F32", total),
                    "offsets": ("I64", num_photos + 1), "sizes": ("I32", num_photos, 2),
                    "hashes": ("U8", num_photos, 32)}  # fmt: skip
        slices = {name: self._file.get_slice(name) for name in TENSORS}
        came = {name: (rows.get_dtype(), *rows.get_shape()) for name, rows in slices.items()}
        if came != expected or self._offsets != sorted(self._offsets) or self._offsets[0] != 0:
            raise InputError(f"expected rising offsets and tensors {expected}, got {came}")
        self._sizes: list[list[int]] = self._file.get_tensor("sizes").tolist()

    def photo(self, position: int) -> PhotoRegions:
        """The entry of the shard's photo at `position`; embeddings come as float32."""
        start, stop = self._offsets[position], self._offsets[position + 1]
        height, width = self._sizes[position]
        sha256 = bytes(self._file.get_slice("hashes")[position : position + 1].flatten().tolist())
        if start == stop:
            rows = (torch.zeros(0, 4), torch.zeros(0, self._width), torch.zeros(0))
        else:
            boxes, embeddings, scores = (self._file.get_slice(name)[start:stop] for name in ROWS)
            rows = (boxes, embeddings.float(), scores)
        return PhotoRegions(*rows, (height, width), sha256, self.faults.get(position, ""))

    def check_content(self) -> None:
        """Read all of it.

        Raises:
            InputError: a byte is not as it was written.
        """
        if _checksum({name: self._file.get_tensor(name) for name in TENSORS}) != self._recorded:
            raise InputError(
                f"expected a whole shard, {self.path} has another checksum than it was written with; "
                "delete it and extract again with --resume"
            )
