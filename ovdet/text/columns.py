"""What a classifier's columns stand for: names, their synonyms, and negatives that nobody asked for.

A region is compared with all columns. The best of a name's columns speaks for the name, and what looks most like a
negative is no detection.

Shape letters: K names, S columns (S >= K), D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ovdet.text.prompts import clean_name
from ovdet.text.vocabulary import Vocabulary

NOBODYS = -1
NEAR = 0.33  # cosine of a centered space from which on a negative is too much like an asked name ("person" and "man")


class Columns(NamedTuple):
    """The columns of a vocabulary.

    Attributes:
        texts: S different texts.
        owners: for each the index of its name, NOBODYS for a negative.
    """

    texts: tuple[str, ...]
    owners: tuple[int, ...]


def lay_out(vocabulary: Vocabulary) -> Columns:
    """A column for each name and each synonym; a text that comes twice belongs to its first owner."""
    names = [(name, index) for index, name in enumerate(vocabulary.names)]
    synonyms = [(text, i) for i, name in enumerate(vocabulary.names) for text in vocabulary.synonyms.get(name, ())]
    return _extended(Columns((), ()), [*names, *synonyms])


def add_negatives(columns: Columns, negatives: Sequence[str]) -> Columns:
    """A further column for each negative that does not read like one that is there."""
    return _extended(columns, [(text, NOBODYS) for text in negatives])


def _extended(columns: Columns, more: Sequence[tuple[str, int]]) -> Columns:
    taken = {clean_name(text) for text in columns.texts}
    added: dict[str, int] = {}
    for text, owner in more:
        if clean_name(text) not in taken:
            taken.add(clean_name(text))
            added[text] = owner
    return Columns((*columns.texts, *added), (*columns.owners, *added.values()))


def far_from(embeddings: Tensor, asked: Tensor, near: float = NEAR) -> list[bool]:
    """Which texts are unlike all that is asked for.

    Args:
        embeddings: (S, D), unit norm.
        asked: (K, D), unit norm, K >= 1.
        near: cosine.

    Returns:
        S booleans.
    """
    return (embeddings @ asked.T).amax(1).lt(near).tolist()
