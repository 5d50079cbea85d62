"""The class names of a data set as its files write them, and as a text encoder should read them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ovdet.data.coco import read_json
from ovdet.errors import InputError


class ClassNames(NamedTuple):
    """A json of datasets/metadata: {"source": "...", "classes": [names], "corrections": {name: better name}}."""

    classes: list[str]  # as the official files write them; empty where releases differ
    corrections: dict[str, str]

    def correct(self, name: str) -> str:
        """The name to ask for: without spaces around it, misspellings put right."""
        return self.corrections.get(name.strip(), name.strip())


def load_class_names(path: str | Path) -> ClassNames:
    """Read such a json.

    Raises:
        InputError: it is missing or something else, or corrects a name that it does not list.
    """
    content = read_json(path, "a json of class names")
    classes = content.get("classes", []) if isinstance(content, dict) else None
    corrections = content.get("corrections", {}) if isinstance(content, dict) else None
    if not isinstance(classes, list) or not isinstance(corrections, dict):
        raise InputError(f"expected a json with a list of classes and a table of corrections, got {path}")
    if not all(isinstance(name, str) for name in [*classes, *corrections.values()]):
        raise InputError(f"expected class names in {path}, got something else")
    unknown = [name for name in corrections if classes and name not in classes]
    if unknown:
        raise InputError(f"expected corrections of listed classes in {path}, got {unknown[0]!r}")
    return ClassNames(classes, corrections)
