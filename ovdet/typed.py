"""Reading a file's content as the type that is expected, or refusing it in one line that says where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ovdet.errors import InputError

T = TypeVar("T")
_PLACE, _STEP = re.compile(r"at `\$(\S*)`$"), re.compile(r"\[[^]]*\]|\.[^.[]+")


def checked(value: Any, kind: type[T], what: str, path: str | Path) -> T:
    """A parsed json's value as a type.

    Args:
        value: of dicts, lists, texts, numbers.
        kind: a msgspec.Struct, a NamedTuple, list[int], ...
        what: the file should be, for the message ("a split json").
        path: where it was read, for the message.

    Raises:
        InputError: it is of another type; the first place where it is.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
        raise InputError(f"expected {what}, {path} is not: {error}{_value_at(str(error), value)}") from error


def _value_at(message: str, value: Any) -> str:
    """The value at the place that msgspec's message names: "... - at `$.images[0].width`"."""
    place = _PLACE.search(message)
    for key in _STEP.findall(place[1]) if place else ():
        try:
            value = value[int(key[1:-1])] if key.startswith("[") else value[key[1:]]
        except (LookupError, TypeError, ValueError):  # a key with a dot, or of a mapping: "[...]"
            return ""
    return f" ({str(value)[:60]!r})" if place else ""


def decoded(text: str | bytes, kind: type[T], what: str, path: str | Path) -> T:
    """A json text as a type.

    Raises:
        InputError: no json, or as of `checked`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected {what}, {path} is not json: {error}") from error
    return checked(value, kind, what, path)
