"""A small decoder that writes what a region shows, token by token, and the tokens that it writes.

Shape letters: M regions, C channels, P pooled side, D embedding width, L tokens of the longest text, V different
tokens, F the decoder's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

NO_TOKEN = -1  # behind the end of a text


class Tokenizer(Protocol):
    """Texts as numbers: `size` V of them, of which `start` begins a text and `end` ends it."""

    size: int
    start: int
    end: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


class ClipTokenizer:
    """CLIP's byte pairs, which come with open_clip: any text, in lower case."""

    size, start, end = 49408, 49406, 49407

    @cached_property
    def _tokenizer(self):
        from open_clip.tokenizer import SimpleTokenizer  # seconds

        return SimpleTokenizer()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode([token for token in tokens if token < self.start]).strip()


class CaptionDecoder(nn.Module):
    """A transformer over a region's cells and its embedding: CoCa's multimodal decoder (arXiv:2205.01917).

    CoCa's other half, which embeds texts alone, is the teacher's text encoder here.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        side: int = 7,
        hidden_width: int = 192,
        num_layers: int = 2,
        heads: int = 4,
        max_tokens: int = 24,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """
        Args:
            channels: C.
            width: D.
            side: P.
            hidden_width: F.
            num_layers: of the transformer.
            heads: of attention, which share F.
            max_tokens: L at most; longer texts are cut.
            tokenizer: None takes CLIP's.
        """
        super().__init__()
        self.tokenizer = ClipTokenizer() if tokenizer is None else tokenizer
        self.max_tokens = max_tokens
        self.of_cells = nn.Linear(channels, hidden_width)
        self.of_embedding = nn.Linear(width, hidden_width)
        self.places = nn.Parameter(torch.zeros(side * side, hidden_width).normal_(std=0.02))
        self.tokens = nn.Embedding(self.tokenizer.size, hidden_width)
        self.positions = nn.Parameter(torch.zeros(max_tokens, hidden_width).normal_(std=0.02))
        nn.init.normal_(self.tokens.weight, std=0.02)
        options = dict(dim_feedforward=4 * hidden_width, dropout=0.0, batch_first=True, norm_first=True)
        layer = nn.TransformerDecoderLayer(hidden_width, heads, **options)
        self.layers = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(hidden_width))

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """M texts -> what is read (M, L), from the start on, and what is to be written next (M, L), with the end."""
        last = self.max_tokens - 1
        rows = [self.tokenizer.encode(text)[:last] for text in texts]
        length = max((len(row) + 1 for row in rows), default=0)
        read = torch.full((len(rows), length), self.tokenizer.end)
        written = torch.full((len(rows), length), NO_TOKEN)
        for place, row in enumerate(rows):
            read[place, : len(row) + 1] = torch.tensor([self.tokenizer.start, *row])
            written[place, : len(row) + 1] = torch.tensor([*row, self.tokenizer.end])
        device = self.positions.device
        return read.to(device), written.to(device)

    def forward(self, cells: Tensor, embeddings: Tensor, read: Tensor) -> Tensor:
        """Logits of each next token.

        Args:
            cells: (M, C, P, P).
            embeddings: (M, D).
            read: (M, L) tokens; each sees those before it alone.

        Returns:
            (M, L, V).
        """
        if not read.numel():
            path = sum(each.sum() * 0 for each in self.parameters()) + (cells.sum() + embeddings.sum()) * 0
            return path.expand(*read.shape, self.tokenizer.size)
        seen = self._look(cells, embeddings)
        texts = self.tokens(read) + self.positions[: read.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(read.shape[1], device=read.device, dtype=texts.dtype)
        return self.layers(texts, seen, tgt_mask=mask, tgt_is_causal=True) @ self.tokens.weight.T

    def _look(self, cells: Tensor, embeddings: Tensor) -> Tensor:
        """The memory that the decoder attends to, (M, P * P + 1, F)."""
        kind = self.places.dtype
        of_cells = self.of_cells(cells.to(kind).flatten(2).transpose(1, 2)) + self.places
        return torch.cat([of_cells, self.of_embedding(embeddings.to(kind))[:, None]], dim=1)

    @torch.no_grad()
    def write(self, cells: Tensor, embeddings: Tensor) -> list[tuple[str, float]]:
        """The likeliest text of each region, token by token, and its probability: the geometric mean over its tokens.

        Args:
            cells: (M, C, P, P).
            embeddings: (M, D).
        """
        tokens = torch.full((len(cells), 1), self.tokenizer.start, device=cells.device)
        log_probabilities = torch.zeros(len(cells), 0, device=cells.device)
        while len(cells) and tokens.shape[1] <= self.max_tokens:
            logits = self(cells, embeddings, tokens)[:, -1].float().log_softmax(-1)
            best, token = logits.max(-1)
            tokens = torch.cat([tokens, token[:, None]], dim=1)
            log_probabilities = torch.cat([log_probabilities, best[:, None]], dim=1)
            if (tokens == self.tokenizer.end).any(1).all():
                break
        found = []
        for row, steps in zip(tokens[:, 1:].tolist(), log_probabilities, strict=True):
            count = row.index(self.tokenizer.end) if self.tokenizer.end in row else len(row)
            probability = float(steps[: count + 1].mean().exp())
            found.append((self.tokenizer.decode(row[:count]), probability))
        return found
