"""ClassEmbeddings: the classes that a detector is asked for, as one immutable value.

Shape letters: S rows, K classes, D embedding width, L learned rows, W width of the region features they look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.errors import InputError

NEGATIVE = -1  # class id of rows that compete but are never returned
_OWN_ENTRIES = 2**24  # of a matrix of which a normalized float32 copy is made: 64 MiB
_ROWS_AT_ONCE = 8192
_NEAR_UNIT = 1e-4  # how far from 1 a norm may be, or as far as the matrix's own floating type rounds


@dataclass(frozen=True, eq=False)
class LearnedRows:
    """Linear classifiers on a detector's region features, learned from examples (ovdet/learning).

    Each scores by itself, a sigmoid outside of the softmax over embeddings, so other classes keep their scores to the
    bit.

    Attributes:
        weights: (L, W) float32.
        biases: (L,) float32.
        class_ids: (L,) int64, the index of each row's class.

    Raises:
        InputError: no rows, or parts of different lengths.
    """

    weights: Tensor
    biases: Tensor
    class_ids: Tensor

    def __post_init__(self) -> None:
        if self.weights.dim() != 2 or not len(self.weights) == len(self.biases) == len(self.class_ids) > 0:
            shapes = [tuple(part.shape) for part in (self.weights, self.biases, self.class_ids)]
            raise InputError(f"expected learned rows (L, W), L biases and L class ids, got {shapes}")

    def to(self, device: torch.device) -> LearnedRows:
        """A copy on `device`."""
        return LearnedRows(*(part.to(device) for part in (self.weights, self.biases, self.class_ids)))


@dataclass(frozen=True, eq=False)
class ClassEmbeddings:
    """Rows of a text-embedding space, and the class that each of them speaks for.

    A class has one row or several (its name, synonyms, exemplars): a region's best row counts. Build it by `of`, by
    `ovdet.text.classes.build_classes`, or by `OpenVocabPredictor.embed`.

    Attributes:
        embeddings: (S, D), unit norm; float32, or the half-precision matrix of a large file.
        class_ids: (S,) int64, the index of each row's class in `names`; -1 for a negative.
        names: of the K classes.
        is_base: (S,) bool, which rows the detector was trained on; None where that is not known. Score fusion weighs
            base and novel classes differently.
        is_learned: (S,) bool, which rows an expert of the detector learned instead (modeling/linear_expert.py): fused
            as novel, but calibrated and shown as trained; None for none.
        learned: rows of classes that were learned from examples and have no row in `embeddings`; None for none.
        thresholds: (K,) float32, the lowest score to show of each class, NaN where the predictor's default counts; None
            for NaN everywhere.
        texts: what each of the S rows is an embedding of, for detectors that read names themselves; None where that is
            not known.
        detector: fingerprint of the detector that learned rows, exemplars and thresholds are of, see
            `detector_fingerprint`; "" for names alone, which any detector of their embedding space takes.
        unknown: those of the names that nothing is near of what the detector or its teacher was trained on.

    Raises:
        InputError: parts of different lengths, a class id that is none, a class without a row, or a threshold outside
            of [0, 1].
    """

    embeddings: Tensor
    class_ids: Tensor
    names: tuple[str, ...]
    is_base: Tensor | None = None
    learned: LearnedRows | None = None
    thresholds: Tensor | None = None
    detector: str = ""
    texts: tuple[str, ...] | None = None
    unknown: tuple[str, ...] = ()
    is_learned: Tensor | None = None
    _on_device: dict[torch.device, ClassEmbeddings] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.embeddings.dim() != 2 or len(self.embeddings) != len(self.class_ids) or not self.names:
            shapes = f"{tuple(self.embeddings.shape)} for {len(self.class_ids)} rows and {len(self.names)} names"
            raise InputError(f"expected class embeddings (S, D), S class ids and a name or more, got {shapes}")
        for key in ("is_base", "is_learned"):
            told = getattr(self, key)
            if told is not None and len(told) != len(self.class_ids):
                raise InputError(f"expected {key} for {len(self.class_ids)} rows, got {len(told)}")
        spoken = self.class_ids.unique().tolist()
        learned = [] if self.learned is None else self.learned.class_ids.unique().tolist()
        if sorted([index for index in spoken if index != NEGATIVE] + learned) != list(range(len(self.names))):
            got = f"{spoken[:10]}" + (f" and learned {learned[:10]}" if learned else "")
            raise InputError(f"expected class ids of all {len(self.names)} classes or -1, got {got}")
        if self.thresholds is not None:
            told = self.thresholds[~self.thresholds.isnan()]
            if self.thresholds.shape != (len(self.names),) or not ((told >= 0) & (told <= 1)).all():
                raise InputError(f"expected thresholds of {len(self.names)} classes in [0, 1], got {self.thresholds}")

    @classmethod
    def of(
        cls, embeddings: Tensor, names: Sequence[str], is_base: Sequence[bool] | Tensor | None = None
    ) -> ClassEmbeddings:
        """One row per class: (K, D) embeddings, which are brought to unit norm, of K names.

        Raises:
            InputError: their numbers differ, or a row is zero or not finite.
        """
        base = None if is_base is None else torch.as_tensor(is_base, dtype=torch.bool)
        return cls(unit_norm(embeddings), torch.arange(len(embeddings)), tuple(names), base)

    def to(self, device: str | torch.device) -> ClassEmbeddings:
        """A copy on `device`, made once; the value itself if it is there already."""
        device = torch.device(device)
        if self.embeddings.device == device:
            return self
        if device not in self._on_device:
            told = [None if part is None else part.to(device) for part in (self.is_base, self.is_learned)]
            learned = None if self.learned is None else self.learned.to(device)
            embeddings, ids = self.embeddings.to(device), self.class_ids.to(device)
            moved = replace(
                self, embeddings=embeddings, class_ids=ids, is_base=told[0], is_learned=told[1], learned=learned
            )
            self._on_device[device] = moved
        return self._on_device[device]

    @property
    def width(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    @cached_property
    def has_one_row_each(self) -> bool:
        """Whether row k is class k, and all rows after the K-th are negatives: no synonyms."""
        ids, num_classes = self.class_ids.cpu(), len(self.names)
        first_are_classes = torch.equal(ids[:num_classes], torch.arange(num_classes))
        return first_are_classes and bool((ids[num_classes:] == NEGATIVE).all())

    @cached_property
    def max_rows(self) -> int:
        """The most rows that one class has."""
        rows = self.class_ids[self.class_ids != NEGATIVE]
        rows = rows if self.learned is None else torch.cat([rows, self.learned.class_ids])
        return int(rows.bincount().max()) if len(rows) else 1

    @cached_property
    def is_base_class(self) -> Tensor | None:
        """(K,) bool, which classes have a base row; None where that is not known."""
        return None if self.is_base is None else self._has_one_of(self.is_base)

    @cached_property
    def is_trained_class(self) -> Tensor:
        """(K,) bool, which classes have a base row or a learned one; all of them where that is not known."""
        if self.is_base is None:
            return torch.ones(len(self.names), dtype=torch.bool, device=self.class_ids.device)
        return self.is_base_class if self.is_learned is None else self._has_one_of(self.is_base | self.is_learned)

    def _has_one_of(self, rows: Tensor) -> Tensor:
        """(S,) bool -> (K,), which classes have one of these rows."""
        has = torch.zeros(len(self.names), dtype=torch.bool, device=rows.device)
        has[self.class_ids[rows & (self.class_ids != NEGATIVE)]] = True
        return has

    def spoken(self, index: int) -> list[str]:
        """The texts of a class's rows, its name and synonyms; its name where that is not known."""
        if self.texts is None:
            return [self.names[index]]
        return [self.texts[row] for row in (self.class_ids == index).nonzero()[:, 0].tolist()]

    @property
    def is_of_examples(self) -> bool:
        """Whether all classes have learned rows, and none an embedding."""
        return self.learned is not None and not len(self.class_ids)

    def with_thresholds(self, thresholds: Mapping[str, float], detector: str) -> ClassEmbeddings:
        """The same classes with the lowest score to show of some of them.

        Args:
            thresholds: by name, spelled as in `names`.
            detector: fingerprint of the detector whose scores they are of.

        Raises:
            InputError: a threshold outside of [0, 1].
        """
        own = self.own_thresholds.clone()
        for name, threshold in thresholds.items():
            own[self.names.index(name)] = threshold
        return replace(self, thresholds=own, detector=detector)

    @property
    def own_thresholds(self) -> Tensor:
        """(K,), NaN where a class has none."""
        return torch.full((len(self.names),), torch.nan) if self.thresholds is None else self.thresholds


def unit_norm(embeddings: Tensor) -> Tensor:
    """(S, D) with rows of unit norm, detached; a large matrix that has them already is not copied.

    Raises:
        InputError: not a matrix, no rows, or a row that is zero or not finite.
    """
    if embeddings.dim() != 2 or 0 in embeddings.shape or not embeddings.is_floating_point():
        raise InputError(f"expected class embeddings (S >= 1, D), got {tuple(embeddings.shape)} of {embeddings.dtype}")
    embeddings = embeddings.detach()
    norms = embeddings.new_empty(len(embeddings), dtype=torch.float32)  # (S,)
    for some, rows in zip(norms.split(_ROWS_AT_ONCE), embeddings.split(_ROWS_AT_ONCE), strict=True):
        some.copy_(rows.float().norm(dim=1))  # what is small and kept between large temporaries keeps malloc off theirs
    odd = (~(torch.isfinite(norms) & (norms > 0))).nonzero()
    if len(odd):
        raise InputError(f"expected finite class embeddings other than zero, row {int(odd[0])} is not")
    rounding = max(_NEAR_UNIT, torch.finfo(embeddings.dtype).eps)
    is_small = embeddings.numel() <= _OWN_ENTRIES
    return F.normalize(embeddings.float(), dim=1) if is_small or (norms - 1).abs().max() > rounding else embeddings
