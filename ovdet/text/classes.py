"""From a vocabulary to ClassEmbeddings: a row for each name, each synonym and each negative.

Shape letters: S rows, K classes, D embedding width, N candidates for negatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings, unit_norm
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.vocabulary import Vocabulary, parse_vocabulary

NEAR = 0.33  # cosine of a centered space from which on a negative is too much like a class ("person" and "man")


def build_classes(
    vocabulary: Vocabulary | TextEmbeddings | Sequence[str],
    embed_names: NameEmbedder,
    *,
    base_classes: Sequence[str] = (),
    negatives: Sequence[str] | None = (),
) -> ClassEmbeddings:
    """The classes of a vocabulary, embedded.

    Args:
        vocabulary: names; a Vocabulary, whose synonyms become rows of their classes; or ready embeddings.
        embed_names: names -> embeddings, each name once.
        base_classes: names that the detector was trained on. A row is base if any name of its class is among them.
            Without any, `is_base` is None.
        negatives: names that compete but are never returned: a region that matches one of them better is dropped. None
            takes the base classes whose cosine is below NEAR to all classes of the vocabulary.

    Raises:
        InputError: no names, names that are none, or embeddings of another space than `embed_names` has.
    """
    if isinstance(negatives, str):
        raise InputError(f"expected negatives to be a list of names, got {negatives!r}")
    # classes
    if isinstance(vocabulary, TextEmbeddings):
        embed_names.check(vocabulary)
        names, texts, class_ids = vocabulary.names, list(vocabulary.names), list(range(len(vocabulary.names)))
        embeddings = unit_norm(vocabulary.matrix)
    else:
        vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(tuple(_listed(vocabulary)))
        names = vocabulary.names
        texts, class_ids = rows_of(vocabulary)
        embeddings = unit_norm(embed_names(texts))
    # negatives
    if negatives is None:
        known = embed_names.known_of(base_classes)
        is_unlike = unlike(embed_names(known).to(embeddings), embeddings) if known else ()
        negatives = [name for name, keep in zip(known, is_unlike, strict=True) if keep]
    added = _new_names(texts, negatives)
    if added:
        embeddings = torch.cat([embeddings, embed_names(added).to(embeddings)])
    texts, class_ids = [*texts, *added], [*class_ids, *[NEGATIVE] * len(added)]
    return ClassEmbeddings(embeddings, torch.tensor(class_ids), tuple(names), base_rows(texts, class_ids, base_classes))


def rows_of(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """S texts and the class of each: all names first, then their synonyms; what comes twice is its first class's."""
    rows = {normalize_class_name(name): (name, index) for index, name in enumerate(vocabulary.names)}
    for index, name in enumerate(vocabulary.names):
        for synonym in vocabulary.synonyms.get(name, ()):
            rows.setdefault(normalize_class_name(synonym), (synonym, index))
    return [text for text, _ in rows.values()], [index for _, index in rows.values()]


def parse_negatives(text: str | None) -> tuple[str, ...] | None:
    """Negatives as a command line takes them: like a vocabulary, synonyms too; None stays None, "" is none."""
    if text is None:
        return None
    return tuple(rows_of(parse_vocabulary(text))[0]) if text.strip() else ()


def base_rows(texts: Sequence[str], class_ids: Sequence[int], base_classes: Sequence[str]) -> Tensor | None:
    """Which rows are base: the one place that decides it.

    Args:
        texts: of S rows.
        class_ids: of S rows.
        base_classes: names that the detector was trained on.

    Returns:
        (S,) bool; None without base classes.
    """
    if not base_classes:
        return None
    known = {normalize_class_name(name) for name in base_classes}
    is_known = [normalize_class_name(text) in known for text in texts]
    base_ids = {index for index, was in zip(class_ids, is_known, strict=True) if was and index != NEGATIVE}
    return torch.tensor([was or index in base_ids for index, was in zip(class_ids, is_known, strict=True)])


def unlike(embeddings: Tensor, classes: Tensor, near: float = NEAR) -> list[bool]:
    """Which of (N, D) embeddings are unlike all (S, D) classes, S >= 1, both of unit norm: cosines below `near`."""
    return (embeddings @ classes.T).amax(1).lt(near).tolist()


def _new_names(texts: Sequence[str], more: Iterable[str]) -> list[str]:
    """Those of `more` that are the same as none of the texts and none before."""
    taken = {normalize_class_name(text) for text in texts}
    added: list[str] = []
    for name in more:
        if normalize_class_name(name) not in taken:
            taken.add(normalize_class_name(name))
            added.append(name)
    return added


def _listed(names: Sequence[str]) -> Sequence[str]:
    """Refuse a string, which would be taken for a list of letters."""
    if isinstance(names, (str, bytes)):
        raise InputError(f"expected a list of names, got {names!r}")
    return names
