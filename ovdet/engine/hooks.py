"""Training hooks: a seed for each step, a stop that keeps what is done, gradient clipping, the last checkpoints."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils import comm
from torch import nn

from ovdet.data.loader import seed_cpu


class SeededSteps(HookBase):
    """Seeds each step by the seed, the step and the process alone, so that resuming a run changes nothing."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        seed = seed_cpu(self._seed, self.trainer.iter, comm.get_rank())
        torch.cuda.manual_seed(seed)  # no GPU, nothing to do


class StopAtSigterm(HookBase):
    """SIGTERM, from a scheduler or a container, ends a run behind its step, with a checkpoint; a second one at once."""

    def __init__(self, save: Callable[[int], None]) -> None:
        """
        Args:
            save: called with the number of the step that is done.
        """
        self._save = save
        self._before = None
        self._asked = self._in_step = False
        self._done: int | None = None  # the last step that is

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._stop)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._in_step, self._done = False, self.trainer.iter
        asked = any(comm.all_gather(self._asked)) if comm.get_world_size() > 1 else self._asked
        if asked:
            self._save(self.trainer.iter)
            sys.exit(128 + signal.SIGTERM)

    def after_train(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _stop(self, number: int, frame: object) -> None:
        if self._asked or not self._in_step:  # as in an evaluation between two steps
            if self._done is not None and not self._in_step:
                self._save(self._done)
            sys.exit(128 + number)
        self._asked = True


class FrozenStatistics(HookBase):
    """The batch norms of parts that are not trained keep their statistics, too."""

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        """
        Args:
            parts: of the model, see `freeze_parts`.
        """
        modules = [module for part in parts for module in part.modules()]
        self._norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def before_step(self) -> None:
        for norm in self._norms:
            norm.eval()


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
