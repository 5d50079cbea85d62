"""The initial weights of a training run, and resuming one after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from ovdet.engine.checkpoint import HEADER, SafeCheckpointer, known_classes, read_checkpoint
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError, error_summary


class InitialWeights(NamedTuple):
    """The weights that training begins or resumes with.

    Attributes:
        source: a file or an address; "" for none.
        classes: that these weights were trained on; None where they do not say.
        step: the first to be trained; 0 of a run that begins.
    """

    source: str
    classes: list[str] | None
    step: int = 0


def initial_weights(options: TrainOptions, *, resume: bool) -> InitialWeights:
    """The weights of a run's first step: its last checkpoint if it is resumed, else `train.init_checkpoint`.

    Raises:
        InputError: it is not there, cannot be fetched or is no checkpoint.
    """
    last = last_checkpoint(options.output_dir) if resume else ""
    source = last or options.init_checkpoint
    if not source:
        return InitialWeights("", [])
    try:
        file = PathManager.get_local_path(source)
    except Exception as error:  # each kind of address fails in its own way
        raise InputError(f"expected initial weights, {source} cannot be fetched: {error_summary(error)}") from error
    content = read_checkpoint(file)
    return InitialWeights(source, known_classes(content[HEADER]), content.get("iteration", -1) + 1 if last else 0)


def check_ranks_agree(first: InitialWeights) -> None:
    """Refuse processes that would resume from different steps.

    Raises:
        InputError: on every process, where machines do not share the output folder of a run that is resumed.
    """
    steps = sorted({each.step for each in comm.all_gather(first)})
    if steps[1:]:
        raise InputError(f"expected an output folder that all machines share, got last checkpoints at steps {steps}")


def last_checkpoint(output_dir: str) -> str:
    """The last one of a run's folder; "" where there is none."""
    return SafeCheckpointer(nn.Identity(), output_dir).get_checkpoint_file()


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
    for settings, group in zip(expected, optimizer.param_groups, strict=True):
        for name, value in settings.items():
            before = _settings(group).get(name)
            if value != before:
                raise InputError(f"expected {name} {before} of the interrupted run's optimizer, got {value}")


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer settings of a parameter group as configured: a scheduler changes `lr` and keeps `initial_lr`."""
    settings = {**group, "lr": group.get("initial_lr", group["lr"])}
    return {name: settings[name] for name in ("lr", "weight_decay", "momentum", "betas") if name in settings}
