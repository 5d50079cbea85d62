"""The one rule for equal class names, for prompts, base / novel, leak checks, splits, negatives and files."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_PLAIN_QUOTES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201b": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'}
)


@lru_cache(maxsize=65536)
def normalize_class_name(name: str) -> str:
    """A class name in its normal form, which prompts are filled with and names are compared by.

    Unicode NFKC (full-width letters and composed accents become plain ones), without characters that nobody sees
    (zero-width, soft hyphen, byte order mark, direction marks, variation selectors), casefolded, "_" as a space (LVIS),
    "/" as " or " (Objects365; both as ViLD's demo reads them, arXiv:2104.13921), straight quotes, single spaces, and no
    dot at the end. "" for a name of which nothing is left.
    """
    seen = "".join(character for character in name if not _is_unseen(character))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold()).translate(_PLAIN_QUOTES)
    text = " ".join(text.replace("_", " ").replace("/", " or ").split())
    return text.rstrip(". ")


def same_class_name(first: str, second: str) -> bool:
    """Whether two names mean the same class to ovdet: their normal forms are equal."""
    return normalize_class_name(first) == normalize_class_name(second)


def names_among(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names that are the same as one of the others."""
    known = {normalize_class_name(other) for other in others}
    return [name for name in names if normalize_class_name(name) in known]


def names_not_among(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names that are the same as none of the others."""
    known = {normalize_class_name(other) for other in others}
    return [name for name in names if normalize_class_name(name) not in known]


def distinct_names(names: Iterable[str]) -> list[str]:
    """The names without those that are the same as an earlier one."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(normalize_class_name(name), name)
    return list(first.values())


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: " (near it: 'dog')", or "" where none is like it."""
    spelling = {normalize_class_name(other): other for other in known}
    near = difflib.get_close_matches(normalize_class_name(name), spelling, n=1, cutoff=0.7)
    return f" (near it: {spelling[near[0]]!r})" if near else ""


def with_nearest(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names that are not known, each quoted and with the nearest one, for a message."""
    known = list(known)
    return [f"{name!r}{nearest_name(name, known)}" for name in names]


def _is_unseen(character: str) -> bool:
    """Format characters and the variation selectors of emoji and ideographs; tabs and line breaks are white space."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"
