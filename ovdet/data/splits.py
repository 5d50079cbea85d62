"""Split jsons, which name base, novel and ignored classes: {"base": [names], "novel": [names], "source": "..."}."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ovdet.data.coco import listed, read_json
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.typed import checked

SUBSETS = ("base", "novel", "ignored")
PREFIXES = {"base": "base", "novel": "novel", "ignored": "ignored", "excluded": "ignored", "unused": "ignored"}
COMMENTS = ("source", "description")


def load_split(path: str | Path) -> dict[str, list[str]]:
    """Read a split json: which class names are base, novel and ignored.

    A key counts by its beginning: "base...", "novel...", "ignored..." (also "excluded...", "unused..."), so "base48" is
    "base". "source" and "description" are comments.

    Returns:
        {"base": [...], "novel": [...], "ignored": [...]}.

    Raises:
        InputError: no json, an unknown key, no base class, a value that is not a list of names, a name given twice (see
            `same_class_name`).
    """
    content = checked(read_json(path, "a split json"), dict[str, Any], "a split json", path)
    lists = {key: names for key, names in content.items() if key not in COMMENTS}
    split: dict[str, list[str]] = {subset: [] for subset in SUBSETS}
    for key, names in checked(lists, dict[str, list[str]], "a split json", path).items():
        subset = next((target for prefix, target in PREFIXES.items() if key.startswith(prefix)), None)
        if subset is None:
            raise InputError(f"expected keys base*, novel*, ignored*, source or description in {path}, got {key!r}")
        if not all(name.strip() for name in names):
            raise InputError(f"expected {key!r} in {path} to be a list of class names")
        split[subset].extend(names)
    named = [name for names in split.values() for name in names]
    counts = Counter(map(normalize_class_name, named))
    repeated = [name for name in named if counts[normalize_class_name(name)] > 1]
    if repeated:
        raise InputError(f"expected each class once in {path}, given more than once: {listed(repeated)}")
    if not split["base"]:
        raise InputError(f"expected at least one base class in {path}, got none")
    return split
