"""Everyday words for trained names: "people", "sofa" and "pet" count as "person", "couch", and "cat" or "dog".

Words that mean the same become rows of the class that is asked for, and so does what is one of its things: a dog is an
animal. Of words that mean less ("man"), and of what looks misspelt, the user is told which trained name to ask for: as
rows they would give all persons the label "man". A closed-set expert has its say in words that mean less, too: no man
where no person is.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import ovdet.data.mixture
from ovdet.data.mixture import common_name, load_synonyms
from ovdet.text.class_names import normalize_class_name
from ovdet.text.vocabulary import Vocabulary

_FILE = Path(ovdet.data.mixture.__file__).with_name("everyday_words.json")
_ALIKE, _LONG = 0.8, 6  # of their letters by difflib, and letters, from which on a name may be another misspelt


def with_trained_words(vocabulary: Vocabulary, training_classes: Sequence[str]) -> tuple[Vocabulary, list[str]]:
    """A vocabulary with the trained names that mean the same as one of its own, or are kinds of it, as synonyms.

    Args:
        vocabulary: names that were trained stay as they are, but for their kinds; what is asked for by itself, or as a
            negative, is no other name's.
        training_classes: the names that a detector was trained on.

    Returns:
        The vocabulary, and a line for the user of each name that is scored, or would better be asked for, otherwise.
    """
    trained = {_common(name): name for name in training_classes}
    known = set(map(normalize_class_name, training_classes))
    asked = [text for name in vocabulary.names for text in _texts(vocabulary, name)]
    taken = set(map(normalize_class_name, [*asked, *vocabulary.negatives]))
    synonyms, told = dict(vocabulary.synonyms), []
    for name in vocabulary.names:
        texts = _texts(vocabulary, name)
        is_trained = not known.isdisjoint(map(normalize_class_name, texts))
        readings = [reading for text in texts for reading in _readings(text)]
        same = None if is_trained else next((trained[each] for each in readings if each in trained), None)
        kinds = _kinds(readings, training_classes) if same is None else [same]
        added = [each for each in dict.fromkeys(kinds) if normalize_class_name(each) not in taken]
        if added:
            synonyms[name] = (*synonyms.get(name, ()), *added)
            told.append(f"{name}: scored as {_quoted(added)} too, which the detector was trained on")
        elif not kinds and not is_trained:
            told += _advice(name, trained)
        if same is not None:
            taken.update(map(normalize_class_name, added))
    return replace(vocabulary, synonyms=synonyms), told


def same_or_narrower(name: str) -> list[str]:
    """Words that mean the same as a name or less: what is one of these is one of the name's things."""
    words = _load()
    same = [word for table in (load_synonyms(), words["same"]) for word, known in table.items() if known == name]
    return list(dict.fromkeys([*same, *(word for word, wider in words["kinds"].items() if name in wider)]))


def _texts(vocabulary: Vocabulary, name: str) -> tuple[str, ...]:
    return (name, *vocabulary.synonyms.get(name, ()))


def _advice(name: str, trained: Mapping[str, str]) -> list[str]:
    """A line that names trained words to ask for instead of an untrained name; None where nothing is known."""
    words = _load()
    readings = _readings(name)
    meant = [trained[each] for reading in readings for each in words["kinds"].get(reading, ()) if each in trained]
    if meant:
        return [f"{name}: not trained, scores are low; the detector was trained on {_quoted(dict.fromkeys(meant))}"]
    near = max((known for known in trained if known[0] == name[0]), key=partial(_likeness, readings[0]), default="")
    if len(name) >= _LONG and _likeness(readings[0], near) >= _ALIKE:
        return [f"{name}: not trained, scores are low; near it is {trained[near]!r}, which was"]
    return []


def _kinds(readings: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that mean a kind of what wider words name."""
    groups = _load()["groups"]
    narrower = {each for reading in readings for each in groups.get(reading, ())}
    return [name for name in names if _common(name) in narrower] if narrower else []


def _likeness(name: str, other: str) -> float:
    """The share of letters that two names have in common, in [0, 1], in any order: "bycicle" is "bicycle" misspelt."""
    return difflib.SequenceMatcher(None, sorted(name), sorted(other)).ratio()


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _common(name: str) -> str:
    """The one word for all that mean the same."""
    return common_name(common_name(name, _load()["same"]), load_synonyms())


def _readings(name: str) -> list[str]:
    """A name and what it may be the plural of, each as its common word."""
    normal = normalize_class_name(name)
    endings = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))
    singulars = [normal.removesuffix(old) + new for old, new in endings if normal.endswith(old) and len(normal) > 2]
    return list(dict.fromkeys(map(_common, [normal, *singulars])))


@cache
def _load() -> dict[str, dict]:
    """The file of words: "same" by the other word, "kinds" by the narrower one, "groups" by the wider one."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    kinds: dict[str, list[str]] = {}
    for name, narrower in content["kinds"].items():
        for word in narrower:
            kinds.setdefault(word, []).append(name)
    same = {word: name for name, words in content["same"].items() for word in words}
    return {"same": same, "kinds": kinds, "groups": content["groups"]}
