"""Finding a detector's config and weights by a model name, a folder or a hub address."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detectron2.checkpoint import Checkpointer
from omegaconf import DictConfig
from torch import nn

from ovdet.engine.config import apply_overrides, load_config, read_run_values
from ovdet.errors import InputError, first_line
from ovdet.hub.model_folder import CARD, CONFIG, NAMES, WEIGHTS, read_model_config
from ovdet.hub.parts import check_run_parts
from ovdet.hub.published.weights import PREFIXES, fetch_published
from ovdet.hub.zero_shot import zero_shot_config
from ovdet.offline import offline_where_unreachable

logger = logging.getLogger(__name__)

RUN_CONFIG = "config.yaml"
HUB, ZERO_SHOT = "hf://", "hf:"
DEFAULT_MODEL = "ovdet-lite"
_ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {DEFAULT_MODEL: _ASSETS / "ovdet_lite", "ovdet-lite-base48": _ASSETS / "ovdet_lite_base48"}


class ModelFiles(NamedTuple):
    """A detector's config file and checkpoint, as `open_config` and `load_detector` take them."""

    config_file: str
    weights: str


def find_model(name: str | Path) -> ModelFiles:
    """The config and the weights of a detector.

    Args:
        name: "ovdet-lite" or "ovdet-lite-base48", which are part of the package; "detic:swin-b" and the like,
            published by others and fetched the first time (docs/published.md); a model folder (see ovdet pack);
            "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION", a model folder on the hub, kept in the hub's cache;
            "hf:OWNER/NAME" or "hf:FOLDER", a zero-shot detector of transformers; or the folder of a training run,
            wherever it was moved to, for its last checkpoint. No code of the folder is run.

    Raises:
        InputError: it is no such folder, the hub does not have it, nothing was trained there yet, or the run has parts
            that are not ovdet's (its config and weights open one by one, see `choose_model`).
    """
    if is_zero_shot(str(name)):
        return ModelFiles(str(name), "")
    folder = _folder_of(str(name))
    if (folder / CONFIG).is_file():
        if not (folder / WEIGHTS).is_file():
            raise InputError(f"expected {WEIGHTS} beside {folder / CONFIG}, got none")
        return ModelFiles(str(folder / CONFIG), str(folder / WEIGHTS))
    if not (folder / RUN_CONFIG).is_file():
        raise InputError(
            f"expected {', '.join(SHIPPED)}, {HUB}OWNER/NAME, {ZERO_SHOT}OWNER/NAME, or a folder with a model's "
            f"{CONFIG} or a training run's {RUN_CONFIG}, got {name}"
        )
    check_run_parts(read_run_values(folder / RUN_CONFIG), str(folder / RUN_CONFIG))
    weights = Checkpointer(nn.Identity(), str(folder)).get_checkpoint_file()
    if not weights or not Path(weights).is_file():
        raise InputError(f"expected a checkpoint of a training run in {name}, got none")
    return ModelFiles(str(folder / RUN_CONFIG), weights)


def is_zero_shot(name: str) -> bool:
    """Whether a model's name is of a zero-shot detector of transformers."""
    return name.startswith(ZERO_SHOT) and not name.startswith(HUB)


def _folder_of(name: str) -> Path:
    """Of a model by its name, fetched where it is not here."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name.startswith(HUB):
        return _fetch(name)
    return fetch_published(name) if name.startswith(PREFIXES) else Path(name)


def weights_file(source: str) -> str:
    """`train.init_checkpoint` as a checkpoint file: of a model that is named as for `find_model`, or itself."""
    is_model = (
        isinstance(source, str)
        and source
        and (source in SHIPPED or source.startswith((HUB, *PREFIXES)) or Path(source).is_dir())
    )
    return find_model(source).weights if is_model else source


def open_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Read the config of a training run or of a model folder.

    Args:
        path: see `load_config`; or a model folder's config.json, which runs no code; or a zero-shot detector's name.
        overrides: see `load_config`.

    Raises:
        InputError: as of `load_config` and `read_model_config`.
    """
    if is_zero_shot(path):
        return apply_overrides(zero_shot_config(path.removeprefix(ZERO_SHOT)), overrides)
    if Path(path).suffix == ".json" and Path(path).is_file():
        return apply_overrides(read_model_config(path), overrides)
    config = load_config(path, overrides)
    if "train" in config and config.train.get("init_checkpoint") in SHIPPED:  # a run's start, before it is trained
        config.train.init_checkpoint = weights_file(config.train.init_checkpoint)
    return config


def _fetch(name: str) -> Path:
    """hf://OWNER/NAME[@REVISION] -> the folder in the hub's cache; without a connection what the cache has."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise InputError(f"expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION, got {name}")
    try:
        with offline_where_unreachable():
            files = [CONFIG, WEIGHTS, NAMES, CARD]
            folder = snapshot_download(repository, revision=revision or None, allow_patterns=files)
    except Exception as error:  # whatever the hub's client raises
        raise InputError(f"expected a model on the hub, {name} cannot be had: {first_line(error)}") from error
    if not (Path(folder) / CONFIG).is_file():
        raise InputError(f"expected a model folder on the hub, {name} has no {CONFIG}")
    if not revision:
        commit = Path(folder).name  # of the hub's cache: snapshots/COMMIT
        logger.warning("%s: took the newest commit; %s@%s names this one for good", name, name, commit)
    return Path(folder)


def choose_model(
    model: str | None, config_file: str | None, weights: str | None, *, default: str | None = None
) -> ModelFiles:
    """The detector that a command line names: by --model, or by --config-file and --weights.

    Args:
        model: see find_model.
        config_file: instead of it.
        weights: of the config; None or "" for the last checkpoint of its run.
        default: the model where neither it nor a config is given; None wants one of them.

    Raises:
        InputError: both or neither are given, or as of find_model.
    """
    model = model or (None if config_file else default)
    for file in (model, weights):
        if file and file.endswith(".onnx"):
            raise InputError(f"expected a trained model, got {file}: exported files are for `ovdet detect --weights`")
    if bool(model) == bool(config_file):
        raise InputError("expected --model MODEL, or --config-file F with --weights W: one of the two")
    if not model:
        return ModelFiles(config_file, weights or "")
    if weights:
        raise InputError("expected --weights with --config-file, got it with --model, which has its own")
    return find_model(model)
