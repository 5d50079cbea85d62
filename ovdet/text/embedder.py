"""NameEmbedder: class names to embeddings, each name once.

Shape letters: K classes, D embedding width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ovdet.cache import VOCABULARY, cached_embeddings
from ovdet.errors import InputError
from ovdet.teachers.base import Teacher, digest
from ovdet.teachers.registry import load_teacher
from ovdet.text.class_names import normalize_class_name, with_nearest
from ovdet.text.coverage import Concepts, imagenet_concepts
from ovdet.text.embeddings import TextEmbeddings, check_space, embed_vocabulary, load_embeddings
from ovdet.text.prompts import resolve_templates
from ovdet.text.vocabulary import Vocabulary

MAX_KNOWN = 50_000  # names that are kept in memory, the newest


class NameEmbedder:
    """Takes the embeddings of a file where one is given, else asks the teacher, and remembers what it embedded.

    The user's cache remembers too: the same names need no text encoder the next time.
    """

    def __init__(
        self,
        teacher: str,
        *,
        width: int,
        templates: str | Sequence[str] = "a",
        file: str | Path | None = None,
        fingerprint: str | None = "",
        device: str = "cpu",
        known: str | Path | None = None,
    ) -> None:
        """
        Args:
            teacher: its name, see `load_teacher`; it is loaded when a name is not known yet.
            width: D of its space; anything else is refused.
            templates: prompt templates, see text/prompts.py.
            file: an embeddings file (ovdet embed); then no teacher is needed and no other names exist.
            fingerprint: that the teacher must have; "" takes any, and asks the teacher for its own; None takes any, and
                leaves it unknown, so that no teacher is loaded to compare spaces with (weights published elsewhere).
            device: of the teacher's text encoder.
            known: an embeddings file of names that this teacher with these templates made before (a model folder has
                one); another teacher's or of other templates it is left alone.
        """
        self.teacher_name = teacher
        self.width = width
        self.templates = templates if isinstance(templates, str) else tuple(templates)
        self.expected_fingerprint = fingerprint
        self.device = device
        self._lock = threading.Lock()  # tokenizers serve one thread at a time
        self._known: dict[tuple[str, ...], Tensor] = {}  # a name and its synonyms -> (D,)
        self._file = file
        self._read = None if file is None else load_embeddings(file)
        if self._read is not None:
            self.check(self._read)
            self._remember(self._read)
        elif known is not None:
            made = load_embeddings(known)
            if made.teacher == teacher and made.prompts == resolve_templates(self.templates) and fingerprint != "":
                check_space(made, {"width": width, "fingerprint": fingerprint}, f" in {known}")
                self._remember(made)

    def _remember(self, embeddings: TextEmbeddings) -> None:
        self._known.update((_key([name]), row) for name, row in zip(embeddings.names, embeddings.matrix, strict=True))

    @cached_property
    def _teacher(self) -> Teacher:
        teacher = load_teacher(self.teacher_name, self.device)
        if teacher.width != self.width:
            raise InputError(
                f"expected a teacher of width {self.width}, got {self.teacher_name!r} of width {teacher.width}"
            )
        if self.expected_fingerprint and self.expected_fingerprint != teacher.fingerprint:
            raise InputError(
                f"expected teacher {self.teacher_name!r} with fingerprint {self.expected_fingerprint}, "
                f"got one with fingerprint {teacher.fingerprint}"
            )
        return teacher

    @property
    def fingerprint(self) -> str:
        """The teacher's; of a file of embeddings what it says, which may be ""; "" where it is left unknown."""
        if self._read is not None:
            return self._read.fingerprint
        if self.expected_fingerprint is None:
            return ""
        return self.expected_fingerprint or self._teacher.fingerprint

    def check(self, embeddings: TextEmbeddings) -> None:
        """Refuse embeddings of another space.

        Raises:
            InputError: see `space_difference`.
        """
        known = self.expected_fingerprint
        if known == "" and self._read is None and embeddings.fingerprint:
            known = self._teacher.fingerprint
        check_space(embeddings, {"teacher": self.teacher_name, "width": self.width, "fingerprint": known})

    def imagenet_concepts(self) -> Concepts | None:
        """The embedded teacher's own concepts, see text/coverage.py; None of other teachers and of files."""
        if self._file is not None or not self.teacher_name.startswith("conse"):
            return None
        with self._lock:
            return imagenet_concepts(self._teacher, self.templates)

    def warm_up(self) -> None:
        """Load the text encoder now, so that the first new name does not wait for it."""
        if self._file is None:
            with self._lock:
                self._teacher.encode_text(["a"])

    def known_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names that can be embedded: all by a teacher, those it holds by a file."""
        return tuple(name for name in names if self._file is None or _key([name]) in self._known)

    def __call__(self, names: Sequence[str] | Vocabulary) -> Tensor:
        """Class names -> (K, D) float32 on the CPU, unit norm, in their order.

        Raises:
            InputError: a name that is no name, or that the file lacks.
        """
        vocabulary = names if isinstance(names, Vocabulary) else Vocabulary(names)
        keys = [_key([name, *vocabulary.synonyms.get(name, ())]) for name in vocabulary.names]
        with self._lock:
            self._embed_unknown(sorted({key for key in keys if key not in self._known}))
            rows = torch.stack([self._known[key] for key in keys])
            while self._file is None and len(self._known) > MAX_KNOWN:  # a server is asked for ever new ones
                del self._known[next(iter(self._known))]
        return rows

    def _embed_unknown(self, unknown: Sequence[tuple[str, ...]]) -> None:
        if unknown and self._file is not None:
            held = [key[0] for key in self._known]
            listed = ", ".join(with_nearest((key[0] for key in unknown[:5]), held))
            raise InputError(f"expected names that {self._file} holds, got {len(unknown)} others: {listed}")
        if unknown:
            missing = Vocabulary(tuple(key[0] for key in unknown), {key[0]: key[1:] for key in unknown if key[1:]})
            content = repr((self.teacher_name, self.templates, unknown)).encode()
            fingerprint = self.fingerprint or self._teacher.fingerprint
            key = f"{VOCABULARY}{digest([fingerprint.encode(), content])}"
            shape = (len(unknown), self.width)
            matrix = cached_embeddings(
                key, shape, lambda: embed_vocabulary(missing, self._teacher, self.templates).matrix
            )
            self._known.update(zip(unknown, matrix, strict=True))


def _key(names: Sequence[str]) -> tuple[str, ...]:
    """A class's name and its synonyms as prompts are filled with them: all spellings of a name have one embedding."""
    return tuple(map(normalize_class_name, names))
