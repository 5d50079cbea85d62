"""Pieces of a training loop that detectron2 lacks."""

from __future__ import annotations

import torch
from detectron2.engine import HookBase
from torch import nn


class GradientClipping(HookBase):
    """Scales the gradient down to a norm, between backward and step."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def after_backward(self) -> None:
        trainer = self.trainer
        scaler = getattr(trainer, "grad_scaler", None)
        if scaler is not None:
            scaler.unscale_(trainer.optimizer)
        norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), self.max_norm)
        trainer.storage.put_scalar("gradient_norm", float(norm), smoothing_hint=False)


class Autocast(nn.Module):
    """A model whose forward runs in mixed precision; for devices where no loss scaling is needed."""

    def __init__(self, model: nn.Module, device_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device_type = device_type
        self.dtype = dtype

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """As the model's."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            return self.model(batch)
