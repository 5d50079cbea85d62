"""What a training run begins with, or goes on with after an interruption."""

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
    """What training begins or goes on with.

    Attributes:
        source: a file or an address; "" for none.
        classes: whose boxes these weights have seen; None where they do not say.
        step: the one to go on with; 0 of a run that begins.
    """

    source: str
    classes: list[str] | None
    step: int = 0


def initial_weights(options: TrainOptions, *, resume: bool) -> InitialWeights:
    """What a run begins with; one that is resumed, its last checkpoint.

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
    """Refuse processes that would go on from different steps: they would train different models as if they were one.

    Raises:
        InputError: on every process, where machines do not share the output folder of a run that is resumed.
    """
    steps = sorted({each.step for each in comm.all_gather(first)})
    if steps[1:]:
        came = f"checkpoints to go on with at steps {steps}"
        raise InputError(f"expected an output folder that all machines share, got {came}")


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
    for wanted, group in zip(expected, optimizer.param_groups, strict=True):
        for name, value in wanted.items():
            if _settings(group).get(name) != value:
                came = f"{name} {value}, it had {_settings(group).get(name)}"
                raise InputError(f"expected the optimizer of the interrupted run, got {came}")


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of a group of parameters; a scheduler keeps the learning rate apart once it has begun."""
    settings = {**group, "lr": group.get("initial_lr", group["lr"])}
    return {name: settings[name] for name in ("lr", "weight_decay", "momentum", "betas") if name in settings}
