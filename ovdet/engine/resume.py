"""The initial weights of a training run, and resuming one after an interruption as if there had been none."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from filelock import FileLock, Timeout
from torch import nn

from ovdet.engine.checkpoint import HEADER, SafeCheckpointer, known_classes, read_checkpoint
from ovdet.engine.options import TrainOptions
from ovdet.errors import InputError, error_summary

logger = logging.getLogger(__name__)

_TORCHRUN = ".torchrun"  # in a run's folder


class InitialWeights(NamedTuple):
    """The weights that training begins or resumes with.

    Attributes:
        source: a file or an address; "" for none.
        classes: that these weights were trained on; None where they do not say.
        step: the first to be trained; 0 of a run that begins.
        training_classes: those of `classes` that count as trained, see `well_known_names`.
        seed: of the run that is resumed; None where there is none.
    """

    source: str
    classes: list[str] | None
    step: int = 0
    training_classes: tuple[str, ...] = ()
    seed: int | None = None


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
    header, run = content[HEADER], content.get("run") or {} if last else {}
    step = content.get("iteration", -1) + 1 if last else 0
    trained = () if options.init_parts else tuple(header.get("training_classes") or ())
    return InitialWeights(source, known_classes(header), step, trained, run.get("train.seed"))


class RunFacts:
    """The settings that a run must be resumed with to go on as it began; kept in its checkpoints."""

    def __init__(self, **facts: int) -> None:
        self.facts = facts
        self._processes = comm.get_world_size()

    def state_dict(self) -> dict[str, int]:
        """The facts, and the number of processes."""
        return {**self.facts, "processes": self._processes}

    def load_state_dict(self, stored: Mapping[str, int]) -> None:
        """Compare with those of the interrupted run.

        Another number of processes is only told: after a lost machine it is better than no run.

        Raises:
            InputError: a fact differs.
        """
        for name, value in self.facts.items():
            if stored.get(name, value) != value:
                raise InputError(f"expected {name} {stored[name]} of the interrupted run, got {value}")
        before = stored.get("processes", self._processes)
        if before != self._processes:
            numbers = before, self._processes
            logger.warning("resumed with %d -> %d processes: its steps see other photos than they would have", *numbers)


def restarted(folder: str) -> bool:
    """Whether torchrun starts a run's processes once more, which then goes on from its last checkpoint.

    After a failure torchrun counts; where machines come or go it does not: then its --rdzv-id tells the run.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0:
        return True
    run, file = _torchrun_id(), Path(folder, _TORCHRUN)
    return bool(run) and file.is_file() and file.read_text(errors="replace") == run


def remember_torchrun(folder: str) -> None:
    """Note which torchrun trains in a run's folder, for `restarted`."""
    if run := _torchrun_id():
        Path(folder, _TORCHRUN).write_text(run)
    else:
        Path(folder, _TORCHRUN).unlink(missing_ok=True)


def _torchrun_id() -> str:
    """Of this process; "" without torchrun, or where it was given no id: its default says nothing."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return "" if run == "none" else run


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """A run's folder for this process alone; temporary files of dead runs are removed.

    Raises:
        InputError: another living process trains there.
    """
    lock, owner = Path(folder, ".lock"), Path(folder, ".owner")
    try:
        with FileLock(lock, blocking=False):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            for left in Path(folder).rglob(".*.part"):
                left.unlink(missing_ok=True)
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
                if not Path(folder, "config.yaml").exists():  # refused before it began; the lock is still held
                    lock.unlink(missing_ok=True)
    except Timeout as error:
        who = owner.read_text() if owner.is_file() else "another process"
        raise InputError(f"expected a folder in which nobody trains, {who} trains in {folder}") from error


def changed_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The differences between two configs, as plain values: a line each, "key: before -> after"."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in keys]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(each, (Mapping, list)) for each in node):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{key}[{number}]")
    else:
        yield key, node


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
