"""Regions of each photo with their teacher embeddings, computed once and read by image id.

One safetensors file: `boxes` (S, 4) float32 XYXY in pixels of the original photo (EXIF applied), `embeddings` (S, D)
float16, `scores` (S,) float32, `offsets` (N + 1,) int64; its metadata holds the image ids and a header that says which
teacher made the embeddings and where the boxes come from, so that a store is never used with what it does not fit.

Shapes: N images, M regions of one image, S regions over all images, D embedding width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ovdet.data.coco_json import plain_name
from ovdet.errors import InputError

FORMAT = "ovdet-region-store-1"
HEADER_KEYS = ("teacher", "fingerprint", "width", "dataset", "proposal_source", "training_classes")
TENSORS = ("boxes", "embeddings", "scores", "offsets")


def write_region_store(
    path: str | Path, entries: Iterable[tuple[int | str, Tensor, Tensor, Tensor]], header: Mapping[str, Any]
) -> None:
    """Write a region store; the file appears whole or not at all. All entries are held in memory (float16) meanwhile.

    Args:
        path: the file to write.
        entries: per image (image_id, boxes (M, 4) XYXY in pixels of the original photo, embeddings (M, D) unit norm,
            scores (M,)); arrays or tensors; M = 0 is allowed. The order of the regions is kept, best first by custom.
        header: `teacher` and `fingerprint` (as of the Teacher), `width` (D), `dataset` (name or json),
            `proposal_source` (what made the boxes), `training_classes` (class names whose boxes that source was
            trained on, [] for none); further JSON values are kept.

    Raises:
        InputError: a key is missing, or an entry has a wrong shape, a value that is not finite, or a repeated image id.
    """
    header = _checked_header(header)
    image_ids: list[int | str] = []
    seen: set[int | str] = set()
    columns: tuple[list[Tensor], ...] = ([], [], [])
    for image_id, *arrays in entries:
        if image_id in seen:
            raise InputError(f"expected each image once, image id {image_id!r} comes twice")
        for column, tensor in zip(columns, _checked_entry(image_id, arrays, header["width"]), strict=True):
            column.append(tensor)
        image_ids.append(image_id)
        seen.add(image_id)
    counts = [len(boxes) for boxes in columns[0]]
    tensors = {
        "boxes": torch.cat([torch.zeros(0, 4), *columns[0]]),
        "embeddings": torch.cat([torch.zeros(0, header["width"], dtype=torch.float16), *columns[1]]),
        "scores": torch.cat([torch.zeros(0), *columns[2]]),
        "offsets": torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
    }
    metadata = {"format": FORMAT, "header": json.dumps(header), "image_ids": json.dumps(image_ids)}
    _save_whole(tensors, Path(path), metadata)


def _save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected to write the region store {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _checked_header(header: Mapping[str, Any]) -> dict[str, Any]:
    missing = [key for key in HEADER_KEYS if key not in header]
    if missing:
        raise InputError(f"expected {', '.join(HEADER_KEYS)} in a region store's header, missing: {', '.join(missing)}")
    header = {**header, "training_classes": list(header["training_classes"])}
    if not isinstance(header["width"], int) or header["width"] < 1:
        raise InputError(f"expected the header's width to be a positive integer, got {header['width']!r}")
    return header


def _checked_entry(image_id: Any, arrays: Sequence[Any], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entry's (M, 4) float32 boxes, (M, D) float16 embeddings and (M,) float32 scores on the CPU."""
    if isinstance(image_id, bool) or not isinstance(image_id, (int, str)):
        raise InputError(f"expected an image id that is an integer or a string, got {image_id!r}")
    boxes, embeddings, scores = (torch.as_tensor(array).detach().cpu() for array in arrays)
    boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
    embeddings = embeddings.reshape(0, width) if embeddings.numel() == 0 else embeddings
    expected = f"({len(boxes)}, 4), ({len(boxes)}, {width}) and ({len(boxes)},)"
    came = f"{tuple(boxes.shape)}, {tuple(embeddings.shape)} and {tuple(scores.shape)}"
    if came != expected:
        raise InputError(f"expected boxes, embeddings, scores of shapes {expected} for image {image_id!r}, got {came}")
    tensors = (boxes.float().contiguous(), embeddings.half().contiguous(), scores.float().contiguous())
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise InputError(f"expected finite boxes, embeddings and scores, those of image {image_id!r} are not")
    return tensors


class RegionStore:
    """Reads a region store lazily: opening costs the ids and offsets, `regions` reads the rows of one image.

    The file is memory-mapped once per process, so that a store may be handed to DataLoader workers.
    """

    def __init__(self, path: str | Path) -> None:
        """Open `path` and check it.

        Raises:
            InputError: the file is missing, truncated, or not a region store.
        """
        self.path = Path(path)
        self._file: Any = None
        self._pid = -1
        if not self.path.is_file():
            raise InputError(f"expected a region store, {self.path} does not exist or is not a file")
        try:
            self._read_index()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"expected a region store, {self.path} is broken or of another kind: {error}") from error

    def _read_index(self) -> None:
        file = self._open()
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise InputError(f"expected a region store ({FORMAT}), {self.path} says {metadata.get('format')!r}")
        missing = sorted(set(TENSORS) - set(file.keys()))
        if missing:
            raise InputError(f"expected a region store, {self.path} lacks {', '.join(missing)}")
        self.header: dict[str, Any] = _checked_header(json.loads(metadata["header"]))
        image_ids = json.loads(metadata["image_ids"])
        self._index = {image_id: row for row, image_id in enumerate(image_ids)}
        self._offsets: np.ndarray = file.get_tensor("offsets").numpy()
        total = int(self._offsets[-1]) if self._offsets.size else 0
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in TENSORS}
        expected = {
            "boxes": (total, 4),
            "embeddings": (total, self.header["width"]),
            "scores": (total,),
            "offsets": (len(image_ids) + 1,),
        }
        ordered = self._offsets.size > 0 and self._offsets[0] == 0 and bool(np.all(np.diff(self._offsets) >= 0))
        if shapes != expected or not ordered or len(self._index) != len(image_ids):
            raise InputError(f"expected a region store with shapes {expected}, {self.path} has {shapes}")

    def _open(self) -> Any:
        if self._file is None or self._pid != os.getpid():
            self._file = safe_open(str(self.path), framework="pt")
            self._pid = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": -1}

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def regions(self, image_id: int | str) -> tuple[Tensor, Tensor, Tensor]:
        """The stored regions of one image.

        Returns:
            boxes (M, 4) float32 XYXY in pixels of the original photo, embeddings (M, D) float32 (stored as float16),
            scores (M,) float32.

        Raises:
            InputError: the image is not in the store.
        """
        if image_id not in self._index:
            raise InputError(f"expected regions of image {image_id!r}, {self.path} holds {len(self)} images without it")
        row = self._index[image_id]
        start, stop = int(self._offsets[row]), int(self._offsets[row + 1])
        if start == stop:
            return torch.zeros(0, 4), torch.zeros(0, self.header["width"]), torch.zeros(0)
        file = self._open()
        boxes, embeddings, scores = (file.get_slice(name)[start:stop] for name in ("boxes", "embeddings", "scores"))
        return boxes, embeddings.float(), scores

    def check(
        self,
        *,
        teacher: str | None = None,
        fingerprint: str | None = None,
        width: int | None = None,
        novel_classes: Iterable[str] = (),
    ) -> None:
        """Refuse a store that does not fit; what is not given is not checked.

        Args:
            teacher: the name of the teacher in use.
            fingerprint: that teacher's fingerprint.
            width: the embedding width D in use.
            novel_classes: class names that nothing in training may know, so neither may the source of the boxes.

        Raises:
            InputError: naming what was expected and what the store holds.
        """
        for key, expected in (("teacher", teacher), ("fingerprint", fingerprint), ("width", width)):
            if expected is not None and self.header[key] != expected:
                raise InputError(
                    f"expected a region store with {key} {expected!r}, {self.path} was made with {self.header[key]!r}"
                )
        known = {plain_name(name) for name in self.header["training_classes"]}
        leaked = [name for name in novel_classes if plain_name(name) in known]
        if leaked:
            raise InputError(
                f"expected region proposals that know no novel class, the source of {self.path} "
                f"({self.header['proposal_source']}) was trained on: {', '.join(leaked)}"
            )
