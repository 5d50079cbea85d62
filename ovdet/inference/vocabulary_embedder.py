"""Vocabularies in, ClassEmbeddings out, for one detector; the last ones are kept."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch

from ovdet.class_embeddings import ClassEmbeddings
from ovdet.inference.everyday_words import with_trained_words
from ovdet.text.class_names import distinct_names
from ovdet.text.classes import build_classes, unknown_names
from ovdet.text.embedder import NameEmbedder
from ovdet.text.embeddings import TextEmbeddings
from ovdet.text.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

Names = Vocabulary | TextEmbeddings | Sequence[str]

_KEPT = 32  # vocabularies


class VocabularyEmbedder:
    """Embeds vocabularies as a detector is to be asked for them; any number of threads may share it."""

    def __init__(
        self,
        embed_names: NameEmbedder,
        *,
        training_classes: Sequence[str] = (),
        learned_classes: Sequence[str] = (),
        default_thresholds: tuple[float, float] | None = None,
    ) -> None:
        """
        Args:
            embed_names: names -> (K, D), in the space of the detector.
            training_classes: names that the detector was trained on.
            learned_classes: names that an expert of the detector learned.
            default_thresholds: lowest scores to show of trained and of other names; None leaves them to the predictor.
        """
        self.embed_names = embed_names
        self.training_classes, self.learned_classes = tuple(training_classes), tuple(learned_classes)
        self.default_thresholds = default_thresholds
        self._kept: OrderedDict[tuple, ClassEmbeddings] = OrderedDict()  # by what they were made of, the last ones

    def __call__(self, vocabulary: Names, negatives: Sequence[str] | None = None) -> ClassEmbeddings:
        """See `OpenVocabPredictor.embed`."""
        key = _key_of(vocabulary, negatives)
        classes = None if key is None else self._kept.get(key)
        if classes is None:
            classes = self._embed(vocabulary, negatives)
            if key is not None:
                self._kept[key] = classes
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return classes

    def _embed(self, vocabulary: Names, negatives: Sequence[str] | None) -> ClassEmbeddings:
        known = distinct_names([*self.training_classes, *self.learned_classes])
        if not isinstance(vocabulary, (TextEmbeddings, str)):
            vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.of(vocabulary)
            vocabulary, told = with_trained_words(vocabulary, self.embed_names.known_of(known))
            for line in told:
                logger.warning(line)
        of = dict(base_classes=self.training_classes, learned_classes=self.learned_classes)
        classes = build_classes(vocabulary, self.embed_names, negatives=negatives, **of)
        if self.default_thresholds is not None:
            classes = replace(classes, thresholds=torch.where(classes.is_trained_class, *self.default_thresholds))
        if isinstance(vocabulary, Vocabulary):
            classes = replace(classes, unknown=unknown_names(vocabulary, self.embed_names, known))
            for name in classes.unknown:
                logger.warning("%s: near nothing that was trained, what is found says little", name)
        return classes


def _key_of(vocabulary: Names, negatives: Sequence[str] | None) -> tuple | None:
    """The key of a vocabulary among the kept; None for ready embeddings and for what is no list, which are not kept."""
    if isinstance(vocabulary, (TextEmbeddings, str)) or isinstance(negatives, str):
        return None
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.of(vocabulary)
    synonyms = tuple((name, synonyms) for name, synonyms in vocabulary.synonyms.items())
    return vocabulary.names, synonyms, vocabulary.negatives, None if negatives is None else tuple(negatives)
