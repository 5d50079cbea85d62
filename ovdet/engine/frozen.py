"""The heads of a detector before its fine-tuning, read from its weights when the first loss asks for them."""

from __future__ import annotations

from copy import deepcopy

import torch

from ovdet.engine.checkpoint import HEADER, read_checkpoint
from ovdet.errors import InputError
from ovdet.modeling.keeping import FrozenHeads
from ovdet.modeling.roi_heads import OpenVocabROIHeads
from ovdet.text.embedder import NameEmbedder

_PREFIX = "roi_heads."


class FrozenDetector:
    """The `frozen` that KeepingROIHeads take: no part of the model, so checkpoints hold nothing of it."""

    def __init__(self, weights: str, embed_names: NameEmbedder) -> None:
        """
        Args:
            weights: the checkpoint that fine-tuning begins from; its header says which names are kept.
            embed_names: names -> embeddings.
        """
        self.weights = weights
        self.embed_names = embed_names
        self._heads: FrozenHeads | None = None

    def __call__(self, heads: OpenVocabROIHeads) -> FrozenHeads:
        """The heads of before, built like these.

        Raises:
            InputError: the weights are none, of another detector, or do not say what they were trained on.
        """
        if self._heads is None:
            self._heads = self._build(heads)
        return self._heads

    def _build(self, heads: OpenVocabROIHeads) -> FrozenHeads:
        content = read_checkpoint(self.weights)
        names = content[HEADER].get("training_classes") or ()
        if not names:
            raise InputError(f"expected weights that say which names they were trained on, {self.weights} does not")
        device = heads.box_predictor.classifier.background.device
        parts = []
        for key in ("box_head", "box_predictor"):
            prefix, part = f"{_PREFIX}{key}.", deepcopy(getattr(heads, key))
            state = {k.removeprefix(prefix): v for k, v in content["model"].items() if k.startswith(prefix)}
            try:
                part.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
            except RuntimeError as error:
                raise InputError(f"expected weights of this detector as train.init_checkpoint, {self.weights} has "
                                 f"another {key}") from error  # fmt: skip
            parts.append(part.to(device).eval().requires_grad_(False))
        return FrozenHeads(*parts, self.embed_names(tuple(names)).to(device))
