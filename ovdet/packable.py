"""Marking the parts that a model folder may name.

A model folder may come from a stranger. Its config.json names classes and functions, and only those are looked up that
say themselves that it is safe: building them from plain values runs no code of the folder's.
"""

from __future__ import annotations

from typing import Any, TypeVar

Part = TypeVar("Part")


def packable(part: Part) -> Part:
    """Mark a class or function as one that a model folder may name; a subclass is marked by itself or not at all."""
    part._packable = part
    return part


def is_packable(part: Any) -> bool:
    """Whether this very class or function is marked."""
    return part is not None and getattr(part, "_packable", None) is part
