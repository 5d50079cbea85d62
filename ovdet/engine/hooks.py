"""Training hooks: gradient clipping, keeping the last checkpoints, autocast."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from torch import nn


class GradientClipping(HookBase):
    """Clips the gradient's norm before each optimizer step, and logs it."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def after_backward(self) -> None:
        trainer = self.trainer
        scaler = getattr(trainer, "grad_scaler", None)
        if scaler is not None:
            scaler.unscale_(trainer.optimizer)
        norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), self.max_norm)
        trainer.storage.put_scalar("gradient_norm", float(norm), smoothing_hint=False)


class KeepLastCheckpoints(PeriodicCheckpointer):
    """detectron2's PeriodicCheckpointer; `max_to_keep` counts the checkpoints from before a resume too."""

    def before_train(self) -> None:
        super().before_train()
        pattern, last = f"{self.file_prefix}_{'[0-9]' * 7}.pth", f"{self.file_prefix}_{self.trainer.start_iter:07d}.pth"
        files = sorted(Path(self.checkpointer.save_dir).glob(pattern))
        before = [file for file in files if file.name < last]
        for file in before[: -self.max_to_keep]:
            file.unlink(missing_ok=True)
        self.recent_checkpoints = list(map(str, before[-self.max_to_keep :]))


class Autocast(nn.Module):
    """Runs a model's forward in mixed precision, without loss scaling (bfloat16)."""

    def __init__(self, model: nn.Module, device_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.device_type = device_type
        self.dtype = dtype

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """As the model's."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            return self.model(batch)
