"""From a vocabulary to ClassEmbeddings: a row for each name, each synonym and each negative.

Shape letters: S rows, K classes, D embedding width, N candidates for negatives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ovdet.class_embeddings import NEGATIVE, ClassEmbeddings, LearnedRows, unit_norm
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.text.coverage import NEAR as NEAR_CONCEPT
from ovdet.text.coverage import Concepts, nearest_concepts
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.vocabulary import Vocabulary, parse_vocabulary

MOST_COVERED = 10_000  # names of which `unknown_names` tells
NEAR = 0.33  # cosine of a centered space from which on a negative is too much like a class ("person" and "man")


def build_classes(
    vocabulary: Vocabulary | TextEmbeddings | Sequence[str],
    embed_names: NameEmbedder,
    *,
    base_classes: Sequence[str] = (),
    learned_classes: Sequence[str] = (),
    negatives: Sequence[str] | None = (),
) -> ClassEmbeddings:
    """The classes of a vocabulary, embedded.

    Args:
        vocabulary: names; a Vocabulary, whose synonyms become rows of their classes, and whose negatives join those
            below; or ready embeddings.
        embed_names: names -> embeddings, each name once.
        base_classes: names that the detector was trained on. A row is base if any name of its class is among them.
            Without any, `is_base` is None.
        learned_classes: names that an expert of the detector learned, likewise for `is_learned`.
        negatives: names that compete but are never returned: a region that matches one of them better is dropped. None
            takes the base classes whose cosine is below NEAR to all classes of the vocabulary.

    Raises:
        InputError: no names, names that are none, or embeddings of another space than `embed_names` has.
    """
    if isinstance(negatives, str):
        raise InputError(f"expected negatives to be a list of names, got {negatives!r}")
    # classes
    if isinstance(vocabulary, TextEmbeddings):
        embed_names.check(vocabulary)
        names, texts, class_ids = vocabulary.names, list(vocabulary.names), list(range(len(vocabulary.names)))
        embeddings, more = unit_norm(vocabulary.matrix), ()
    else:
        vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(tuple(_listed(vocabulary)))
        names = vocabulary.names
        texts, class_ids = rows_of(vocabulary)
        embeddings = unit_norm(embed_names(texts))
        more = vocabulary.negatives
    # negatives
    if negatives is None:
        known = embed_names.known_of(base_classes)
        is_unlike = unlike(embed_names(known).to(embeddings), embeddings) if known else ()
        negatives = [name for name, keep in zip(known, is_unlike, strict=True) if keep]
    added = _new_names(texts, [*more, *negatives])
    if added:
        embeddings = torch.cat([embeddings, embed_names(added).to(embeddings)])
    texts, class_ids = [*texts, *added], [*class_ids, *[NEGATIVE] * len(added)]
    told = {
        "is_base": base_rows(texts, class_ids, base_classes),
        "is_learned": base_rows(texts, class_ids, learned_classes),
    }
    return ClassEmbeddings(embeddings, torch.tensor(class_ids), tuple(names), texts=tuple(texts), **told)


def join_classes(first: ClassEmbeddings, second: ClassEmbeddings) -> ClassEmbeddings:
    """The first classes and the second ones behind them; of a class of the same name the rows of both count.

    Learned rows alone leave all other scores as they are, to the bit. They take the place of the embeddings of a class
    of the same name, which stay as negatives for that.

    Raises:
        InputError: a class is learned in both, they are of two detectors, or of spaces of two widths.
    """
    if first.width != second.width:
        raise InputError(f"expected classes of one width, got {first.width} and {second.width}")
    if len({first.detector, second.detector} - {""}) > 1:
        raise InputError(f"expected classes of one detector, got some of {first.detector} and {second.detector}")
    # names
    known = {normalize_class_name(name) for name in first.names}
    names = (*first.names, *(name for name in second.names if normalize_class_name(name) not in known))
    place = {normalize_class_name(name): index for index, name in enumerate(names)}
    moved = torch.tensor([place[normalize_class_name(name)] for name in second.names])  # (K of the second,)
    # rows
    parts = [first.learned] if first.learned is not None else []
    parts += [replace(second.learned, class_ids=moved[second.learned.class_ids])] if second.learned is not None else []
    learned = _join_learned(parts, names) if parts else None
    ids = torch.cat([first.class_ids, torch.where(second.class_ids < 0, NEGATIVE, moved[second.class_ids])])
    ids = ids if learned is None else torch.where(torch.isin(ids, learned.class_ids), NEGATIVE, ids)
    embeddings = torch.cat([first.embeddings, second.embeddings.to(first.embeddings)])
    both = first, second
    is_base = _joined_rows(both, [each.is_base for each in both])
    is_learned = _joined_rows(both, [each.is_learned for each in both])
    # thresholds
    own, others = first.own_thresholds, second.own_thresholds
    thresholds = torch.cat([own, own.new_full((len(names) - len(own),), torch.nan)])
    if second.learned is not None:  # the name's own threshold is of other scores
        thresholds[moved[second.learned.class_ids]] = torch.nan
    thresholds[moved] = torch.where(others.isnan(), thresholds[moved], others)
    return ClassEmbeddings(
        embeddings,
        ids,
        names,
        is_base,
        learned,
        None if thresholds.isnan().all() else thresholds,
        first.detector or second.detector,
        None if first.texts is None or second.texts is None else (*first.texts, *second.texts),
        tuple(name for name in first.unknown if learned is None or names.index(name) not in learned.class_ids),
        is_learned,
    )


def _join_learned(parts: Sequence[LearnedRows], names: Sequence[str]) -> LearnedRows:
    ids = [set(part.class_ids.tolist()) for part in parts]
    if both := set.intersection(*ids) if len(parts) > 1 else ():
        raise InputError(f"expected each class learned once, got {names[min(both)]!r} twice")
    columns = ([part.weights, part.biases, part.class_ids] for part in parts)
    return LearnedRows(*(torch.cat(column) for column in zip(*columns, strict=True)))


def _joined_rows(both: Sequence[ClassEmbeddings], told: Sequence[Tensor | None]) -> Tensor | None:
    """Join (S,) bool of the rows of both, False where it is not known; None where it is known of none."""
    if not any(part is not None and len(part) for part in told):
        return None
    pairs = zip(both, told, strict=True)
    return torch.cat([torch.zeros(len(e.class_ids), dtype=torch.bool) if t is None else t.cpu() for e, t in pairs])


def unknown_names(
    vocabulary: Vocabulary, embed_names: NameEmbedder, base_classes: Sequence[str] = ()
) -> tuple[str, ...]:
    """Names that are near no base class and no class of the embedded teacher's; none where that cannot be told.

    Args:
        vocabulary: up to MOST_COVERED names.
        embed_names: names -> embeddings.
        base_classes: names that the detector was trained on.
    """
    if len(vocabulary) > MOST_COVERED:
        return ()
    texts, class_ids = rows_of(vocabulary)
    embeddings, trained = embed_names(texts), base_rows(texts, class_ids, base_classes)
    known = set() if trained is None else {index for index, was in zip(class_ids, trained, strict=True) if was}
    if held := embed_names.known_of(base_classes):
        known |= _near_ids(embeddings, class_ids, Concepts(held, (embed_names(held),)))
    if len(known) < len(vocabulary):  # what knows ImageNet's classes is loaded only if it has to be asked
        imagenet = embed_names.imagenet_concepts()
        if imagenet is None:
            return ()
        known |= _near_ids(embeddings, class_ids, imagenet)
    return tuple(name for index, name in enumerate(vocabulary.names) if index not in known)


def _near_ids(embeddings: Tensor, class_ids: Sequence[int], concepts: Concepts) -> set[int]:
    """The classes of which a row (S, D) is near a concept."""
    found = nearest_concepts(embeddings, concepts)
    return {index for index, nearest in zip(class_ids, found, strict=True) if nearest.similarity >= NEAR_CONCEPT}


def rows_of(vocabulary: Vocabulary) -> tuple[list[str], list[int]]:
    """S texts and the class of each: all names first, then their synonyms; what comes twice is its first class's."""
    rows = {normalize_class_name(name): (name, index) for index, name in enumerate(vocabulary.names)}
    for index, name in enumerate(vocabulary.names):
        for synonym in vocabulary.synonyms.get(name, ()):
            rows.setdefault(normalize_class_name(synonym), (synonym, index))
    return [text for text, _ in rows.values()], [index for _, index in rows.values()]


def parse_negatives(text: str | None) -> tuple[str, ...] | None:
    """Negatives as a command line takes them: like a vocabulary, synonyms too; None stays None, "" is none."""
    if text is None:
        return None
    return tuple(rows_of(parse_vocabulary(text))[0]) if text.strip() else ()


def base_rows(texts: Sequence[str], class_ids: Sequence[int], base_classes: Sequence[str]) -> Tensor | None:
    """(S,) bool, the rows of base classes, or of learned ones; the one place that decides it.

    Args:
        texts: of S rows.
        class_ids: of S rows.
        base_classes: names that the detector was trained on, or that an expert learned.

    Returns:
        (S,) bool; None without base classes.
    """
    if not base_classes:
        return None
    known = {normalize_class_name(name) for name in base_classes}
    is_known = [normalize_class_name(text) in known for text in texts]
    base_ids = {index for index, was in zip(class_ids, is_known, strict=True) if was and index != NEGATIVE}
    return torch.tensor([was or index in base_ids for index, was in zip(class_ids, is_known, strict=True)])


def unlike(embeddings: Tensor, classes: Tensor, near: float = NEAR) -> list[bool]:
    """Whether each of (N, D) embeddings is unlike all (S, D) classes, S >= 1, unit norm: cosines below `near`."""
    return (embeddings @ classes.T).amax(1).lt(near).tolist()


def _new_names(texts: Sequence[str], more: Iterable[str]) -> list[str]:
    """Names of `more` that are the same as none of the texts and none before."""
    more, added = list(more), []
    taken = {normalize_class_name(text) for text in texts} if more else set()
    for name in more:
        if normalize_class_name(name) not in taken:
            taken.add(normalize_class_name(name))
            added.append(name)
    return added


def _listed(names: Sequence[str]) -> Sequence[str]:
    """Refuse a string, which would be taken for a list of letters."""
    if isinstance(names, (str, bytes)):
        raise InputError(f"expected a list of names, got {names!r}")
    return names
