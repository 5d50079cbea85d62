"""Concept coverage of a vocabulary: which names have a near concept among a detector's training classes or ImageNet's.

A detector finds what it was trained on, and what its teacher can tell from other things; of a name that is near neither
it has learned nothing, and its scores say little. ImageNet's classes are what the embedded teacher was trained on.

A concept is embedded by its names and, where there is one, by its definition too; the nearer counts (to "a bird" a
"goldfinch" has a cosine of 0.01, with its definition one of 0.49).

Shape letters: K names, C concepts, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.cache import cached_embeddings
from ovdet.errors import InputError
from ovdet.imagenet_lite import imagenet_classes
from ovdet.teachers.base import Teacher, digest
from ovdet.teachers.conse import ConseTeacher
from ovdet.text.class_names import normalize_class_name
from ovdet.text.embeddings import embed_vocabulary
from ovdet.text.prompts import fill_template, resolve_templates
from ovdet.text.vocabulary import Vocabulary

TRAINED, NEAR_TRAINED, IN_IMAGENET, UNKNOWN = "trained", "near a trained name", "in ImageNet", "unknown"
VERDICTS = (TRAINED, NEAR_TRAINED, IN_IMAGENET, UNKNOWN)
NEAR = 0.5  # cosine from which on a concept is near, as measured with the embedded teacher (docs/teachers.md)
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Concepts:
    """Names that something was trained on, with embeddings.

    Attributes:
        names: C.
        matrices: (C, D) each, unit norm: by name, by definition, ...
    """

    names: tuple[str, ...]
    matrices: tuple[Tensor, ...]


@dataclass(frozen=True)
class Nearest:
    """The concept that is nearest to a name, and its cosine."""

    name: str
    similarity: float


@dataclass(frozen=True)
class NameCoverage:
    """The concepts near one name, and the verdict on it.

    Attributes:
        name: that is asked for.
        verdict: one of VERDICTS.
        trained: the nearest training class; None without any.
        imagenet: the nearest of ImageNet's classes.
    """

    name: str
    verdict: str
    trained: Nearest | None
    imagenet: Nearest

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def nearest_concepts(asked: Tensor, concepts: Concepts) -> list[Nearest]:
    """The nearest concept of each of (K, D) unit vectors, by whichever of its embeddings is nearest."""
    similarities = torch.stack([asked @ matrix.T for matrix in concepts.matrices]).amax(0)  # (K, C)
    values, places = similarities.max(1)
    return [
        Nearest(concepts.names[place], value) for place, value in zip(places.tolist(), values.tolist(), strict=True)
    ]


def cover(
    vocabulary: Vocabulary,
    teacher: Teacher,
    training_classes: Sequence[str] = (),
    *,
    templates: str | Sequence[str] = "a",
    near: float = NEAR,
) -> list[NameCoverage]:
    """The concepts near each name of a vocabulary, in its order.

    Args:
        vocabulary: names and their synonyms; one that is a training class makes its name one.
        teacher: whose text embeddings are compared.
        training_classes: of a detector; none to compare with ImageNet alone.
        templates: see text/prompts.py.
        near: cosine from which on a concept is near.

    Raises:
        InputError: `near` is no cosine.
    """
    if not -1 <= near <= 1:
        raise InputError(f"expected a cosine from -1 to 1 as near, got {near}")
    trained = None
    if training_classes:
        names = Vocabulary(tuple(training_classes))
        trained = Concepts(names.names, (embed_vocabulary(names, teacher, templates).matrix.cpu(),))
    asked = embed_vocabulary(vocabulary, teacher, templates).matrix.cpu()
    return cover_embedded(vocabulary, asked, trained, imagenet_concepts(teacher, templates), near=near)


def cover_embedded(
    vocabulary: Vocabulary, asked: Tensor, trained: Concepts | None, imagenet: Concepts, *, near: float = NEAR
) -> list[NameCoverage]:
    """As `cover`, where all is embedded already.

    Args:
        vocabulary: names and their synonyms.
        asked: (K, D) of the names, unit norm.
        trained: training classes; None for none.
        imagenet: see `imagenet_concepts`.
        near: cosine from which on a concept is near.
    """
    to_imagenet = nearest_concepts(asked, imagenet)
    known = {normalize_class_name(name) for name in (trained.names if trained else ())}
    to_trained = [None] * len(vocabulary) if trained is None else nearest_concepts(asked, trained)
    found = []
    for name, trained_one, imagenet_one in zip(vocabulary.names, to_trained, to_imagenet, strict=True):
        spoken = {normalize_class_name(each) for each in (name, *vocabulary.synonyms.get(name, ()))}
        verdict = UNKNOWN
        if spoken & known:
            verdict = TRAINED
        elif trained_one is not None and trained_one.similarity >= near:
            verdict = NEAR_TRAINED
        elif imagenet_one.similarity >= near:
            verdict = IN_IMAGENET
        found.append(NameCoverage(name, verdict, trained_one, imagenet_one))
    return found


def imagenet_concepts(teacher: Teacher, templates: str | Sequence[str] = "a") -> Concepts:
    """ImageNet's 1000 classes in a teacher's space, by their names and by names with definitions.

    They come with the package for the embedded teacher; of others the user's cache keeps them.
    """
    classes, prompts = imagenet_classes(), resolve_templates(templates)
    names = tuple(spoken[0] for spoken, _ in classes)
    if isinstance(teacher, ConseTeacher):
        return Concepts(names, (teacher.name_embeddings.cpu(), teacher.class_embeddings.cpu()))
    by_name = [list(spoken) for spoken, _ in classes]
    by_definition = [[f"{name}, {definition}" for name in spoken] for spoken, definition in classes]
    matrices = []
    for kind, spoken in (("names", by_name), ("definitions", by_definition)):
        key = f"imagenet-{kind}-{digest([teacher.fingerprint.encode(), repr(prompts).encode()])}"
        matrices.append(
            cached_embeddings(
                key, (len(names), teacher.width), lambda spoken=spoken: _embed_groups(spoken, teacher, prompts)
            )
        )
    return Concepts(names, tuple(matrices))


def _embed_groups(groups: Sequence[Sequence[str]], teacher: Teacher, prompts: Sequence[str]) -> Tensor:
    """For each group of names the mean of its prompts' embeddings -> (C, D), unit norm."""
    texts = [[fill_template(prompt, name) for name in group for prompt in prompts] for group in groups]
    flat = [text for group in texts for text in group]
    rows = [teacher.encode_text(flat[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(flat), _TEXTS_AT_ONCE)]
    means = [group.mean(0) for group in torch.cat(rows).split([len(group) for group in texts])]
    return F.normalize(torch.stack(means), dim=-1).cpu()
