"""Where a detector's config and weights are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from detectron2.checkpoint import Checkpointer
from torch import nn

from ovdet.errors import InputError

CONFIG_FILE = "config.yaml"


class ModelFiles(NamedTuple):
    """What `load_config` and `load_detector` take."""

    config_file: str
    weights: str


def find_model(name: str | Path) -> ModelFiles:
    """The config and the last checkpoint of a training run's folder, wherever it was moved to.

    Args:
        name: the folder.

    Raises:
        InputError: it is no such folder, or nothing was trained there yet.
    """
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"expected the folder of a training run with its {CONFIG_FILE}, got {name}")
    weights = Checkpointer(nn.Identity(), str(folder)).get_checkpoint_file()
    if not weights or not Path(weights).is_file():
        raise InputError(f"expected a checkpoint of a training run in {name}, got none")
    return ModelFiles(str(folder / CONFIG_FILE), weights)


def choose_model(model: str | None, config_file: str | None, weights: str | None) -> ModelFiles:
    """What a command line names: a run's folder, or a config and its weights.

    Args:
        model: see find_model.
        config_file: instead of it.
        weights: of the config; None or "" for the last checkpoint of its run.

    Raises:
        InputError: both or neither are given, or as of find_model.
    """
    if bool(model) == bool(config_file):
        raise InputError("expected --model FOLDER, or --config-file F with --weights W: one of the two")
    if not model:
        return ModelFiles(config_file, weights or "")
    if weights:
        raise InputError("expected --weights with --config-file, got it with --model, which has its own")
    return find_model(model)
