"""Known counts: a protocol's figures mean something only on exactly its photos, objects and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from ovdet.errors import InputError


class Count(NamedTuple):
    """One line of a report."""

    file: str
    what: str
    expected: int | None  # None where nobody has published it
    found: int


def check_counts(path: str | Path, found: Mapping[str, int], expected: Mapping[str, int]) -> list[Count]:
    """Compare what a file holds with what is known of it.

    Args:
        path: the file.
        found: numbers by what they count.
        expected: the known ones among them.

    Returns:
        A line for each number found.

    Raises:
        InputError: naming the file and each number that differs, expected and found.
    """
    wrong = [f"{expected[what]} {what} (got {found.get(what, 0)})" for what in expected
             if found.get(what, 0) != expected[what]]  # fmt: skip
    if wrong:
        raise InputError(f"expected the official {path}, with {', '.join(wrong)}")
    return [Count(Path(path).name, what, expected.get(what), number) for what, number in found.items()]


def format_counts(counts: Iterable[Count]) -> str:
    """A table of a report's lines."""
    rows = [(count.file, count.what, count.expected, count.found) for count in counts]
    return tabulate(rows, headers=("file", "what", "expected", "found"), intfmt=",")


def check_inputs(files: Iterable[Path], source: str) -> None:
    """Look for all files before the first is read.

    Args:
        files: the official files.
        source: where they are to be had.

    Raises:
        InputError: naming those that are not there.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(f"expected {', '.join(missing)}, not there: get them from {source} or name another folder")
