"""Comparing embedding spaces: the one rule for checkpoints, region stores and embedding files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def space_difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str | None:
    """The first entry in which two embedding spaces differ, or None.

    Where both have a teacher's fingerprint, that decides: weights may move to another file, and a teacher may have two
    names ("conse" and "conse:lite2"). Else the names do. What one of them does not say is not compared.

    Args:
        expected: "teacher" (its name), "width" (D) and "fingerprint", each of which may be missing or empty.
        actual: likewise.

    Returns:
        "teacher", "width" or "fingerprint", the first that differs; None where it is one space.
    """

    def differ(key: str) -> bool:
        return bool(expected.get(key) and actual.get(key)) and expected[key] != actual[key]

    known = expected.get("fingerprint") and actual.get("fingerprint")
    if known and not differ("fingerprint") and not differ("width"):
        return None
    return next((key for key in ("teacher", "width", "fingerprint") if differ(key)), None)
