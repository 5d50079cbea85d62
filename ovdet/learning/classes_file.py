"""Files of learned classes: safetensors that say which names and which detector they are of.

Shape letters: K classes, L learned rows, W width of region features, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from ovdet.class_embeddings import ClassEmbeddings, LearnedRows
from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.text.vocabulary import Vocabulary
from ovdet.typed import checked, decoded

_FORMAT = "ovdet learned classes 1"
_TYPES = {"weights": torch.float32, "biases": torch.float32, "class_ids": torch.int64}


class _Header(msgspec.Struct):
    format: str
    names: str
    detector: str
    width: str


def save_classes(path: str | Path, classes: ClassEmbeddings) -> None:
    """Write learned classes; the file is there whole or not at all.

    Raises:
        InputError: the classes have other rows than learned ones, or the place cannot be written to.
    """
    rows = classes.learned
    if rows is None or len(classes.class_ids):
        raise InputError("expected classes with learned rows alone to save, names need no file")
    header = {
        "format": _FORMAT,
        "names": json.dumps(classes.names),
        "detector": rows.detector,
        "width": str(classes.width),
    }
    tensors = {key: getattr(rows, key).detach().cpu().to(kind).contiguous() for key, kind in _TYPES.items()}
    atomic_write(path, safetensors.torch.save(tensors, metadata=header))


def load_classes(path: str | Path) -> ClassEmbeddings:
    """Read what `save_classes` wrote.

    Raises:
        InputError: the file is not there, damaged, or something else.
    """
    if not Path(path).is_file():
        raise InputError(f"expected a file of learned classes, got {path}, which is no file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header, keys = file.metadata() or {}, set(file.keys())
            tensors = {key: file.get_tensor(key) for key in keys & set(_TYPES)}
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a file of learned classes, {path} is damaged or something else") from error
    if header.get("format") != _FORMAT or keys != set(_TYPES):
        raise InputError(f"expected a file of {_FORMAT!r}, got {header.get('format')!r} in {path}")
    told = checked(header, _Header, "a file of learned classes", path)
    names = Vocabulary(decoded(told.names, tuple[str, ...], "names of learned classes", path)).names
    fits = (
        all(tensors[key].dtype == kind for key, kind in _TYPES.items())
        and told.width.isdecimal()
        and len(told.width) < 6
    )
    if not fits or not torch.isfinite(tensors["weights"]).all() or not torch.isfinite(tensors["biases"]).all():
        raise InputError(f"expected finite learned rows in {path}, got others")
    rows = LearnedRows(**tensors, detector=told.detector)
    no_ids, no_base = torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    return ClassEmbeddings(torch.zeros(0, int(told.width)), no_ids, names, no_base, rows)


def join_learned(parts: Sequence[ClassEmbeddings]) -> ClassEmbeddings:
    """Learned classes of several files as one.

    Raises:
        InputError: two have a name in common, or they are of different detectors.
    """
    names = Vocabulary(tuple(name for part in parts for name in part.names)).names
    detectors = sorted({part.learned.detector for part in parts})
    if len(detectors) > 1:
        raise InputError(f"expected learned classes of one detector, got some of {' and '.join(detectors)}")
    starts = [sum(len(part.names) for part in parts[:position]) for position in range(len(parts))]
    rows = LearnedRows(
        torch.cat([part.learned.weights for part in parts]),
        torch.cat([part.learned.biases for part in parts]),
        torch.cat([part.learned.class_ids + start for part, start in zip(parts, starts, strict=True)]),
        detectors[0],
    )
    return replace(parts[0], names=names, learned=rows)
