"""Class embeddings: made by a teacher, kept in a file that says what it holds.

The file is safetensors: one matrix, and a header of strings with the names, the templates, the teacher and a hash.

Shape letters: K classes, P prompts of one class (names and synonyms times templates), D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.progress import track
from ovdet.teachers.base import Teacher
from ovdet.teachers.embedding_space import space_difference
from ovdet.text.prompts import fill_template, resolve_templates
from ovdet.text.vocabulary import Vocabulary
from ovdet.typed import checked, decoded

_FORMAT = "ovdet text embeddings 1"
_PROMPTS_AT_ONCE = 4096  # a bound on the memory, not on the teacher's own batches
_HASHED_AT_ONCE = 2**26  # bytes
_HALF_TYPES = (torch.float16, torch.bfloat16)


class _Header(msgspec.Struct):
    """Of the file; names and prompts are lists in json."""

    format: Literal[_FORMAT]
    names: str
    prompts: str
    teacher: str
    fingerprint: str
    hash: str


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """One unit vector per class.

    Attributes:
        matrix: (K, D), unit norm, float32; float16 or bfloat16 in files half as large.
        names: of the K classes.
        prompts: the templates.
        teacher: its name, see `load_teacher`.
        fingerprint: the teacher's; "" where it is not known (a matrix from elsewhere).
    """

    matrix: Tensor
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    teacher: str
    fingerprint: str

    @property
    def width(self) -> int:
        """D."""
        return self.matrix.shape[1]

    def save(self, path: str | Path) -> None:
        """Write the file that `load_embeddings` reads; it is there whole or not at all.

        Raises:
            InputError: the place cannot be written to.
        """
        matrix = self.matrix.detach().cpu().contiguous()
        if matrix.dtype not in _HALF_TYPES:
            matrix = matrix.float()
        header = {
            "format": _FORMAT,
            "names": json.dumps(self.names),
            "prompts": json.dumps(self.prompts),
            "teacher": self.teacher,
            "fingerprint": self.fingerprint,
            "width": str(self.width),
        }
        header["hash"] = _hash(header, matrix)
        atomic_write(path, safetensors.torch.save({"matrix": matrix}, metadata=header))


def embed_vocabulary(vocabulary: Vocabulary, teacher: Teacher, templates: str | Sequence[str] = "a") -> TextEmbeddings:
    """Embed each class: its prompts' unit embeddings, their mean, unit norm again (as CLIP and ViLD do).

    Args:
        vocabulary: the names, and synonyms, which count like the name.
        teacher: the matrix is on its device.
        templates: a set of prompts.py by name, a template, or a list of them.
    """
    prompts = resolve_templates(templates)
    texts = []  # per class, P prompts
    for name in vocabulary.names:
        spoken = (name, *vocabulary.synonyms.get(name, ()))
        texts.append([fill_template(prompt, each) for each in spoken for prompt in prompts])
    rows: list[Tensor] = []
    for batch in _batches(texts):
        encoded = teacher.encode_text([text for group in batch for text in group])
        rows += [group.mean(0) for group in encoded.split([len(group) for group in batch])]
    matrix = F.normalize(torch.stack(rows), dim=-1)
    return TextEmbeddings(matrix, vocabulary.names, prompts, teacher.name, teacher.fingerprint)


def load_embeddings(path: str | Path, *, teacher: Teacher | None = None, width: int | None = None) -> TextEmbeddings:
    """Read what `TextEmbeddings.save` wrote. The matrix is mapped into memory, not copied there.

    Args:
        path: the file.
        teacher: whose embeddings they must be: by fingerprint, or by name and width where the file has none.
        width: that they must have.

    Raises:
        InputError: the file is not there, damaged, something else, or does not fit.
    """
    header, matrix = _read(Path(path))
    told = checked(header, _Header, "a file of embeddings", path)
    if told.hash != _hash(header, matrix):
        raise InputError(f"expected embeddings as they were written, got a file that was changed since (hash): {path}")
    names, prompts = (
        decoded(text, tuple[str, ...], "names in embeddings", path) for text in (told.names, told.prompts)
    )
    if matrix.dim() != 2 or not matrix.is_floating_point() or len(matrix) != len(names):
        raise InputError(f"expected a matrix with a row for each of {len(names)} names in {path}, got {matrix.shape}")
    embeddings = TextEmbeddings(matrix, names, prompts, told.teacher, told.fingerprint)
    if width is not None and embeddings.width != width:
        raise InputError(f"expected embeddings of width {width}, got width {embeddings.width} in {path}")
    if teacher is not None:
        wanted = {"teacher": teacher.name, "width": teacher.width, "fingerprint": teacher.fingerprint}
        check_space(embeddings, wanted, f" in {path}")
    return embeddings


def check_space(embeddings: TextEmbeddings, wanted: Mapping[str, str | int], where: str = "") -> None:
    """Refuse embeddings of another space.

    Args:
        embeddings: any.
        wanted: see `space_difference`.
        where: they come from, for the message.

    Raises:
        InputError: naming what differs.
    """
    came = {key: getattr(embeddings, key) for key in wanted}
    if key := space_difference(wanted, came):
        raise InputError(f"expected embeddings of {key} {wanted[key]!r}, got {key} {came[key]!r}{where}")


def convert_matrix(
    matrix: np.ndarray | Tensor, names: Sequence[str], teacher_name: str, prompts: Sequence[str]
) -> TextEmbeddings:
    """Embeddings made elsewhere, e.g. Detic's .npy files; their rows need not have unit norm.

    Args:
        matrix: (K, D), a number type.
        names: of its K rows.
        teacher_name: as `load_teacher` takes it.
        prompts: the templates they were made with.

    Raises:
        InputError: another shape or number of names, a row of zeros, or one that is not finite.
    """
    names = Vocabulary(tuple(names)).names
    try:
        rows = torch.as_tensor(matrix).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"expected a matrix of numbers, got {type(matrix).__name__}") from error
    if rows.dim() != 2 or len(rows) != len(names) or rows.shape[1] == 0:
        raise InputError(f"expected a matrix with a row for each of {len(names)} names, got shape {tuple(rows.shape)}")
    norms = rows.norm(dim=1)
    bad = (~(torch.isfinite(norms) & (norms > 0))).nonzero()
    if len(bad):
        raise InputError(f"expected finite rows other than zero, got one that is not for {names[int(bad[0])]!r}")
    return TextEmbeddings(F.normalize(rows, dim=-1), names, resolve_templates(tuple(prompts)), teacher_name, "")


def _batches(texts: list[list[str]]) -> list[list[list[str]]]:
    """Classes in groups of about `_PROMPTS_AT_ONCE` prompts; a class stays whole."""
    batches: list[list[list[str]]] = [[]]
    count = 0
    for group in texts:
        if count + len(group) > _PROMPTS_AT_ONCE and batches[-1]:
            batches.append([])
            count = 0
        batches[-1].append(group)
        count += len(group)
    return batches


def _hash(header: dict[str, str], matrix: Tensor) -> str:
    """Of the header without the hash itself, and of the matrix."""
    told = json.dumps({key: value for key, value in header.items() if key != "hash"}, sort_keys=True)
    total = hashlib.sha256(told.encode())
    content = matrix.view(torch.uint8).flatten().numpy()
    starts = range(0, len(content), _HASHED_AT_ONCE)
    for start in track(starts, "checking embeddings", transient=True, disable=len(starts) < 16):
        total.update(content[start : start + _HASHED_AT_ONCE])
    return total.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], Tensor]:
    if not path.is_file():
        raise InputError(f"expected a file of embeddings, got {path}, which is no file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format", "").startswith("ovdet classes"):
                raise InputError(f"expected a file of embeddings, {path} is one of classes: --classes takes it")
            matrix = file.get_tensor("matrix")
    except (OSError, SafetensorError) as error:
        raise InputError(f"expected a file of embeddings, got one that is damaged or something else: {path}") from error
    return header, matrix
