"""CoCa's objective (arXiv:2205.01917): contrast with texts, and a decoder that learns to write a region's caption.

loss = contrast + caption_weight * caption: InfoNCE between regions and texts, and the mean over the captions' tokens of
-log p(token | tokens before it, region).

Shape letters: M regions, L tokens of the longest caption, V different tokens, C channels, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovdet.objectives.base import CELLS, LABELS, PAIRS, RegionBatch, gather_rows, mean_of_rows
from ovdet.objectives.caption_decoder import NO_TOKEN, CaptionDecoder
from ovdet.objectives.info_nce import RegionTextInfoNCE, info_nce_loss
from ovdet.packable import packable


def caption_loss(logits: Tensor, written: Tensor) -> Tensor:
    """The cross-entropy of captions, averaged over their tokens on all processes.

    Args:
        logits: (M, L, V) of each next token.
        written: (M, L) tokens; NO_TOKEN where there is none.

    Returns:
        0-dim; 0 with a gradient path for no token.
    """
    there = written != NO_TOKEN
    return mean_of_rows(F.cross_entropy(logits[there], written[there], reduction="none")) + logits.sum() * 0


@packable
class CoCa(RegionTextInfoNCE):
    """CLIP's loss between regions and class texts, and `caption_loss` of captions made of the class names.

    A detector that was trained with it keeps the decoder: `ovdet describe` has it write what regions show.
    """

    name = "coca"
    needs = frozenset((LABELS, CELLS))
    stays = True

    def __init__(
        self,
        channels: int,
        width: int,
        weight: float = 1.0,
        caption_weight: float = 2.0,
        templates: Sequence[str] = ("a {}",),
        **decoder: Any,
    ) -> None:
        """
        Args:
            channels: C of the pooled features.
            width: D.
            weight: see Objective.
            caption_weight: of `caption_loss` against the contrast; 2 in the paper.
            templates: a region's caption is one of them, drawn at random, with its class name at "{}" and, if it likes,
                "a" or "an" at "{article}".
            decoder: see CaptionDecoder.
        """
        super().__init__(weight)
        self.caption_weight = caption_weight
        self.templates = tuple(templates)
        self.decoder = CaptionDecoder(channels, width, **decoder)

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim."""
        captions = self.captions_of([batch.classes.names[label] for label in batch.labels.tolist()])
        return super().loss(batch) + self.caption_weight * self.writing_loss(batch.cells, batch.embeddings, captions)

    def captions_of(self, names: Sequence[str]) -> list[str]:
        """Class names -> captions."""
        chosen = torch.randint(len(self.templates), (len(names),)).tolist()
        spoken = [name.replace("_", " ") for name in names]
        articles = ["an" if name[:1].lower() in set("aeiou") else "a" for name in spoken]
        filled = zip(chosen, spoken, articles, strict=True)
        return [self.templates[number].format(name, article=article) for number, name, article in filled]

    def writing_loss(self, cells: Tensor, embeddings: Tensor, captions: Sequence[str]) -> Tensor:
        """`caption_loss` of M regions: cells (M, C, P, P), embeddings (M, D)."""
        read, written = self.decoder.encode(captions)
        return caption_loss(self.decoder(cells, embeddings, read), written)


@packable
class CaptionedCoCa(CoCa):
    """CoCa on regions and, with the captions that people wrote, on whole images."""

    needs = frozenset((LABELS, CELLS, PAIRS))

    def loss(self, batch: RegionBatch) -> Tensor:
        """0-dim; images without a caption take no part."""
        pairs = batch.pairs
        images, texts = gather_rows(pairs.embeddings), gather_rows(pairs.captions)
        contrast = info_nce_loss(images, texts, self.temperature())
        writing = self.writing_loss(pairs.cells, pairs.embeddings, pairs.sentences)
        return super().loss(batch) + contrast + self.caption_weight * writing
