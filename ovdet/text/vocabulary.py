"""Vocabulary: the class names that a detector is asked for, their synonyms and subsets."""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ovdet.errors import InputError
from ovdet.files import atomic_write
from ovdet.text.class_names import nearest_name, normalize_class_name
from ovdet.typed import decoded

logger = logging.getLogger(__name__)

_LONGEST_NAME = 200
_BARRED = {"Cc": "a control character", "Cs": "half a character", "Zl": "a line break", "Zp": "a line break"}
_COMMAS = str.maketrans({**dict.fromkeys("\uff0c\u3001\ufe50\ufe51\u060c", ","), **dict.fromkeys("\uff1b\u061b", ";")})
_MINUS = ("-", "\u2212", "\u2013")  # as keyboards and text programs write it
_BRACKETS = ("[]", "()", "{}")
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u201e\u201c", "\u2018\u2019", "\u00ab\u00bb", "\u300c\u300d")
# between names in other tools' prompts: lines, tabs, "a|b", "a. b." unless the dot is that of "St. Bernard"
_OTHER_SEPARATORS = re.compile(
    r"[\n\r\t|\uff5c]+|(?<!\b[a-z])(?<!\b(?:st|mt|dr|mr|no|ft|vs|jr|sr))(?<!\bmrs)\.(?=\s+\S|[^\W\d]{2})|\u3002",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Vocabulary:
    """Class names in order, with synonyms and named subsets.

    Attributes:
        names: as they are shown to the user.
        synonyms: more names of a class, by its name; embedded along with it.
        subsets: names of the vocabulary by the name of a subset, e.g. "base" and "novel".
        negatives: names that compete but are never found: what looks more like one of them is dropped.

    Raises:
        InputError: no names, an empty or over-long one, one with control characters, two that read the same.
    """

    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", _as_names(self.names, "the names"))
        object.__setattr__(self, "negatives", _as_names(self.negatives, "negatives"))
        for part in ("synonyms", "subsets"):
            given = getattr(self, part)
            if not isinstance(given, Mapping):
                raise InputError(f"expected {part} to be a mapping of lists of names, got {type(given).__name__}")
            lists = {key: _as_names(value, f"{part} of {key!r}") for key, value in given.items()}
            object.__setattr__(self, part, lists)
        self._check_names()
        self._check_parts()

    def _check_names(self) -> None:
        if not self.names:
            raise InputError("expected one class name or more, got none")
        for position, name in enumerate(self.names, start=1):
            _check_name(name, f"class name {position}")
        seen: dict[str, str] = {}
        for name in self.names:
            cleaned = normalize_class_name(name)
            if cleaned in seen:
                raise InputError(
                    f"expected different class names, got {seen[cleaned]!r} and {name!r}, which read alike"
                )
            seen[cleaned] = name

    def _check_parts(self) -> None:
        known = set(self.names)
        for name, synonyms in self.synonyms.items():
            if name not in known:
                near = nearest_name(name, self.names)
                raise InputError(f"expected synonyms of the vocabulary's names, got some of {name!r}{near}")
            for synonym in synonyms:
                _check_name(synonym, f"a synonym of {name!r}")
        for subset, names in self.subsets.items():
            for name in names:
                if name not in known:
                    near = nearest_name(name, self.names)
                    raise InputError(f"expected subset {subset!r} to hold names of the vocabulary, got {name!r}{near}")

        known = {normalize_class_name(name) for name in self.names}
        for name in self.negatives:
            _check_name(name, "a negative")
            if normalize_class_name(name) in known:
                raise InputError(f"expected negatives that are no class names, got {name!r} as both")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Iterable[str]) -> Vocabulary:
        """A list of names; "-name" is a negative.

        Raises:
            InputError: as of the class.
        """
        names = _as_names(names, "the names")
        negatives = tuple(name for name in names if _is_negative(name))
        return _with_negatives(tuple(name for name in names if name not in negatives), {}, negatives)

    @classmethod
    def from_text(cls, text: str) -> Vocabulary:
        """ "a, b; b's synonym, -c" -> its names, in quotes and brackets or without; "-c" is a negative.

        A name with a comma needs a .json.

        The commas and semicolons of Chinese, Japanese and Arabic count as such, with a line in the log.

        Raises:
            InputError: as of the class; names with something else between them, and what to write instead.
        """
        text = _without_brackets(text)
        plain = text.translate(_COMMAS)
        _refuse_other_separators(plain, text)
        vocabulary = _read_rows([part.split(";") for part in plain.split(",")] if plain else [])
        if plain != text:
            logger.warning("%r: read as %d names, %s", text[:60], len(vocabulary), _shown(vocabulary.names))
        return vocabulary

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a .txt (a class a line, "name; synonym; synonym", or "-negative", UTF-8; quotes around them and a comma
        at the end of a line are left out, lines that begin with "#" too) or a .json (a list of names, or a mapping with
        "names" and, where there are any, "synonyms", "subsets" and "negatives").

        Raises:
            InputError: no such file, another kind, or a vocabulary that is refused; the file is named.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in _READERS:
            raise InputError(f"expected a vocabulary file in .txt or .json, got {path}")
        try:
            return _READERS[suffix](path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(f"expected a vocabulary file, got {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"expected a vocabulary file in UTF-8, got other bytes at {error.start} in {path}"
            ) from error
        except InputError as error:
            raise InputError(f"{error} (in {path})") from error

    def save(self, path: str | Path) -> None:
        """Write what `load` reads.

        Raises:
            InputError: the file is neither .txt nor .json or cannot be written, or .txt cannot hold this vocabulary.
        """
        path = Path(path)
        if path.suffix == ".json":
            parts = {key: getattr(self, key) for key in ("names", "synonyms", "subsets", "negatives")}
            text = json.dumps({key: value for key, value in parts.items() if value}, ensure_ascii=False, indent=1)
        elif path.suffix == ".txt":
            lines = ["; ".join((name, *self.synonyms.get(name, ()))) for name in self.names]
            text = "\n".join([*lines, *(f"-{name}" for name in self.negatives)])
            if self.subsets or not self._reads_as(text):
                raise InputError(f'expected .json for a vocabulary with subsets or signs like ";" in names, got {path}')
        else:
            raise InputError(f"expected a vocabulary file in .txt or .json, got {path}")
        atomic_write(path, (text + "\n").encode())

    def _reads_as(self, text: str) -> bool:
        try:
            found = _read_lines(text)
        except InputError:
            return False
        synonyms = {key: value for key, value in self.synonyms.items() if value}
        return (found.names, found.synonyms, found.negatives) == (self.names, synonyms, self.negatives)

    def subset(self, name: str) -> Vocabulary:
        """The names of a subset, in the vocabulary's order, with their synonyms.

        Raises:
            InputError: no such subset.
        """
        if name not in self.subsets:
            raise InputError(
                f"expected one of the subsets {', '.join(self.subsets) or '(there are none)'}, got {name!r}"
            )
        wanted = set(self.subsets[name])
        return Vocabulary(
            tuple(known for known in self.names if known in wanted),
            {known: synonyms for known, synonyms in self.synonyms.items() if known in wanted},
            negatives=self.negatives,
        )


def parse_vocabulary(text_or_path: str) -> Vocabulary:
    """The vocabulary of a command line: a file (.txt, .json), else names with commas between.

    Raises:
        InputError: a folder, or as of `Vocabulary` and its `load`.
    """
    if os.path.isdir(text_or_path) and (os.sep in text_or_path or text_or_path in (os.curdir, os.pardir)):
        raise InputError(f"expected a vocabulary file or names, {text_or_path} is a folder")
    if text_or_path.lower().endswith(_FILES) or os.path.isfile(text_or_path):
        return Vocabulary.load(text_or_path)
    return Vocabulary.from_text(text_or_path)


def _as_names(value: Iterable[str], what: str) -> tuple[str, ...]:
    """Of a list, an array, a column of a table; sets have no order."""
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        raise InputError(f"expected {what} to be a list, got {type(value).__name__}")
    return tuple(value)


def _check_name(name: str, what: str) -> None:
    if not isinstance(name, str):
        raise InputError(f"expected {what} to be text, got {name!r}")
    if len(name) > _LONGEST_NAME:
        raise InputError(
            f"expected {what} to have {_LONGEST_NAME} characters at most, got {len(name)}: {name[:40]!r}..."
        )
    for character in name:
        barred = _BARRED.get(unicodedata.category(character))
        if barred:
            raise InputError(f"expected {what} to be plain text, got {barred} in {name!r}")
    if not normalize_class_name(name):
        raise InputError(f"expected {what} not to be empty, got {name!r}")


def _read_lines(text: str) -> Vocabulary:
    lines = [line.strip().removesuffix(",") for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) == 1 and "," in lines[0].translate(_COMMAS):
        raise InputError(f"expected a class a line, got one line with commas: {lines[0][:60]!r}")
    if len(lines) == 1 and len(_other_parts(lines[0])) > 1:
        raise InputError(f"expected a class a line, got one line with several: {lines[0][:60]!r}")
    return _read_rows([line.split(";") for line in lines])


def _read_rows(rows: Sequence[Sequence[str]]) -> Vocabulary:
    """A class each: its name, then its synonyms; or negatives, behind a "-"."""
    rows = [[_without_quotes(part.strip()) for part in row] for row in rows]
    for number, row in enumerate(rows, start=1):
        if len(row) > 1 and not all(row):
            raise InputError(
                f'expected "name; synonym; synonym", got an empty one for class {number}: {"; ".join(row)!r}'
            )
    negatives = tuple(part for row in rows if _is_negative(row[0]) for part in row)
    rows = [row for row in rows if not _is_negative(row[0])]
    synonyms = {row[0]: tuple(row[1:]) for row in rows if len(row) > 1}
    return _with_negatives(tuple(row[0] for row in rows), synonyms, negatives)


def _is_negative(name: str) -> bool:
    return isinstance(name, str) and name.strip().startswith(_MINUS)


def _with_negatives(
    names: tuple[str, ...], synonyms: Mapping[str, tuple[str, ...]], negatives: Sequence[str]
) -> Vocabulary:
    """Negatives as they were written, behind a "-"."""
    if negatives and not names:
        raise InputError(f"expected one class name or more beside negatives, got {_shown(negatives)} alone")
    return Vocabulary(
        names, synonyms, negatives=tuple(name.strip().lstrip("".join(_MINUS)).strip() for name in negatives)
    )


def _without_quotes(name: str) -> str:
    return name[1:-1].strip() if len(name) > 1 and name[0] + name[-1] in _QUOTES else name


def _without_brackets(text: str) -> str:
    """ "(a, b)" and "[a, b]" -> "a, b"; "(a) b, (c)" as it is."""
    text = text.strip()
    around, inside = text[:1] + text[-1:], text[1:-1]
    return inside.strip() if around in _BRACKETS and not set(around) & set(inside) else text


def _other_parts(text: str) -> list[str]:
    """The parts between other tools' separators; at most one part where there are none."""
    return [part.strip(" .") for part in _OTHER_SEPARATORS.split(text) if part.strip(" .")]


def _refuse_other_separators(text: str, given: str) -> None:
    """Names with something else than commas between them, which would be one name that nothing looks like."""
    names = [part for piece in text.split(",") for part in _other_parts(piece)]
    if any(len(_other_parts(piece)) > 1 for piece in text.split(",")):
        raise InputError(
            f'expected names with commas between, as in "{_shown(names)}" (or a .json file for names with such '
            f"signs), got {given[:60]!r}"
        )
    split = next((part for part in re.split("[,;]", text) for pair in _BRACKETS if _is_open(part, pair)), None)
    if split is not None:
        raise InputError(f"expected brackets around a whole name or around all names, got {split.strip()[:60]!r}")


def _is_open(name: str, pair: str) -> bool:
    return name.count(pair[0]) != name.count(pair[1])


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if names[6:] else "")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A vocabulary in json; a list of names is one, too."""

    names: list[str]
    synonyms: dict[str, list[str]] = {}
    subsets: dict[str, list[str]] = {}
    negatives: list[str] = []


def _read_json(text: str) -> Vocabulary:
    found = decoded(text, list[str] | _File, "a list of names, or names, synonyms and subsets", "the json")
    return Vocabulary.of(found) if isinstance(found, list) else Vocabulary(**msgspec.structs.asdict(found))


_READERS = {".txt": _read_lines, ".json": _read_json}
_FILES = (*_READERS, ".csv", ".yaml", ".yml", ".names")  # what ends like this was meant to be a file
