"""Files of classes: ClassEmbeddings as safetensors that say which names and which detector they are of.

Shape letters: K classes, S rows, L learned rows, W width of region features, D embedding width.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings, LearnedRows
from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.text.classes import join_classes
from ovdet.text.vocabulary import Vocabulary
from ovdet.typed import checked, decoded

_FORMAT = "ovdet classes 1"
_LEARNED = {"weights": torch.float32, "biases": torch.float32, "learned_class_ids": torch.int64}
_TYPES = {
    "embeddings": torch.float32,
    "class_ids": torch.int64,
    "is_base": torch.bool,
    "is_learned": torch.bool,
    "thresholds": torch.float32,
    **_LEARNED,
}


class _Header(msgspec.Struct):
    format: Literal[_FORMAT]
    names: str
    detector: str


def save_classes(path: str | Path, classes: ClassEmbeddings) -> None:
    """Write classes with whatever rows and thresholds they have; the file is there whole or not at all.

    Raises:
        InputError: the classes do not say of which detector they are, or the place cannot be written to.
    """
    atomic_write(path, classes_content(classes))


def classes_content(classes: ClassEmbeddings) -> bytes:
    """The content of a file of classes.

    Raises:
        InputError: the classes do not say of which detector they are.
    """
    if not classes.detector:
        raise InputError("expected classes of a detector to save: learned ones, exemplars or some with thresholds")
    rows = classes.learned
    tensors = {"embeddings": classes.embeddings, "class_ids": classes.class_ids}
    tensors |= {"is_base": classes.is_base, "is_learned": classes.is_learned, "thresholds": classes.thresholds}
    if rows is not None:
        tensors |= {"weights": rows.weights, "biases": rows.biases, "learned_class_ids": rows.class_ids}
    kept = {
        key: value.detach().cpu().to(_TYPES[key]).contiguous() for key, value in tensors.items() if value is not None
    }
    header = {"format": _FORMAT, "names": json.dumps(classes.names), "detector": classes.detector}
    return safetensors.torch.save(kept, metadata=header)


def load_classes(path: str | Path) -> ClassEmbeddings:
    """Read what `save_classes` wrote.

    Raises:
        InputError: the file is not there, damaged, or something else.
    """
    if not Path(path).is_file():
        raise InputError(f"expected a file of classes, got {path}, which is no file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header, keys = file.metadata() or {}, set(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys & set(_TYPES)}
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a file of classes, {path} is damaged or something else") from error
    if header.get("format", "").startswith("ovdet text embeddings"):
        raise InputError(f"expected a file of classes, {path} is one of embeddings: --names takes it")
    told = checked(header, _Header, "a file of classes", path)
    names = Vocabulary(decoded(told.names, tuple[str, ...], "names of classes", path)).names
    learned = [tensors.get(key) for key in _LEARNED]
    has_parts = {"embeddings", "class_ids"} <= keys <= set(_TYPES) and len({part is None for part in learned}) == 1
    if not has_parts or not all(_is_usable(key, tensor, len(names)) for key, tensor in tensors.items()):
        raise InputError(f"expected rows and thresholds of {len(names)} classes in {path}, got others")
    rows = None if learned[0] is None else LearnedRows(*learned)
    parts = (tensors["embeddings"], tensors["class_ids"], names, tensors.get("is_base"), rows)
    return ClassEmbeddings(*parts, tensors.get("thresholds"), told.detector, is_learned=tensors.get("is_learned"))


def _is_usable(key: str, tensor: Tensor, num_classes: int) -> bool:
    """Whether a tensor of a file is of its type, and its values are such as they may be."""
    if tensor.dtype != _TYPES[key]:
        return False
    if key.endswith("class_ids"):
        lowest = NEGATIVE if key == "class_ids" else 0
        return tensor.dim() == 1 and bool(((tensor >= lowest) & (tensor < num_classes)).all())
    return key in ("is_base", "is_learned", "thresholds") or bool(torch.isfinite(tensor).all())


def load_all_classes(paths: Sequence[str | Path]) -> ClassEmbeddings:
    """The classes of one file or of several.

    Raises:
        InputError: as of `load_classes` and `join_classes`.
    """
    return functools.reduce(join_classes, map(load_classes, paths))
