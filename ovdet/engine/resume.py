"""Going on with a run that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ovdet.engine.checkpoint import SafeCheckpointer, read_checkpoint
from ovdet.errors import InputError


def step_reached(output_dir: str) -> int:
    """The step to go on with: behind the last checkpoint of a run's folder; 0 where there is none."""
    last = SafeCheckpointer(nn.Identity(), output_dir).get_checkpoint_file()
    return read_checkpoint(last).get("iteration", -1) + 1 if last else 0


def resume_run(checkpointer: SafeCheckpointer, optimizer: torch.optim.Optimizer) -> None:
    """Load the run's last checkpoint, of model, optimizer and step.

    Args:
        checkpointer: of the run's folder and trainer.
        optimizer: that trainer's, as the config builds it.

    Raises:
        InputError: what is trained, and how fast, is not what it was: the checkpoint would win without a word.
    """
    expected = [_settings(group) for group in optimizer.param_groups]
    try:
        checkpointer.resume_or_load("", resume=True)
    except (KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected optimizer and train.freeze of the interrupted run, got others: {error}") from error
    for wanted, group in zip(expected, optimizer.param_groups, strict=True):
        for name, value in wanted.items():
            if _settings(group).get(name) != value:
                came = f"{name} {value}, it had {_settings(group).get(name)}"
                raise InputError(f"expected the optimizer of the interrupted run, got {came}")


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of a group of parameters; a scheduler keeps the learning rate apart once it has begun."""
    settings = {**group, "lr": group.get("initial_lr", group["lr"])}
    return {name: settings[name] for name in ("lr", "weight_decay", "momentum", "betas") if name in settings}
