"""Reading configs: LazyConfig files, the resolved yaml of a run, and key=value overrides that must exist."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.config.instantiate import locate
from omegaconf import DictConfig, OmegaConf

from ovdet.engine.model_folder import read_model_config
from ovdet.errors import InputError

PARTS = ("model", "teacher", "name_embedder", "dataset", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Read a config and apply overrides.

    Args:
        path: a LazyConfig .py, the config.yaml that a run wrote, or a model folder's config.json, which is no program.
        overrides: `key=value`, keys with dots. A key must stand in the config, or be an argument of the node's target.

    Raises:
        InputError: no such file, not a config, an override that is none, or whose key does not exist.
    """
    if not Path(path).is_file():
        why = "is a folder" if Path(path).is_dir() else "does not exist"
        raise InputError(f"expected a config file, {path} {why}")
    config = read_model_config(path) if Path(path).suffix == ".json" else _run_config(path)
    for override in overrides:
        _check_override(config, override)
    try:
        return LazyConfig.apply_overrides(config, list(overrides))
    except Exception as error:  # hydra's parser has its own family of errors
        message = str(error).strip().splitlines()[0]
        raise InputError(f"expected overrides as key=value, got {' '.join(overrides)!r}: {message}") from error


def _run_config(path: str) -> DictConfig:
    if Path(path).suffix not in (".py", ".yaml", ".yml"):
        raise InputError(f"expected a config file (.py, a run's .yaml, or a model's .json), got {path}")
    try:
        config = LazyConfig.load(path)
    except Exception as error:  # a config is a program, it can fail in any way
        message = " ".join(str(error).split())
        raise InputError(f"expected a readable config, {path} fails with {type(error).__name__}: {message}") from error
    missing = [part for part in PARTS if part not in config]
    if missing:
        raise InputError(f"expected {', '.join(PARTS)} in a config, {path} has no {', '.join(missing)}")
    return config


def _check_override(config: DictConfig, override: str) -> None:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise InputError(f"expected an override as key=value, got {override!r}")
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not OmegaConf.is_dict(node):
            raise InputError(f"expected {'.'.join(parts[:depth])} to hold options, it is a value: {override!r}")
        last = depth == len(parts) - 1
        if part not in node and not (last and part in _arguments_of(node)):
            known = sorted({*map(str, node), *_arguments_of(node)})
            near = difflib.get_close_matches(part, known, n=3, cutoff=0.4) or known
            raise InputError(f"no option {key!r} in the config; near it: {', '.join(near)}")
        node = node._get_node(part) if part in node else None


def _arguments_of(node: DictConfig) -> set[str]:
    """Arguments that the node's target takes but the config may leave at their defaults; of a class, the bases' too."""
    target = node.get("_target_")
    if target is None:
        return set()
    target = locate(target) if isinstance(target, str) else target
    calls = [base.__init__ for base in target.__mro__[:-1]] if inspect.isclass(target) else [target]
    parameters = (parameter for call in calls for parameter in inspect.signature(call).parameters.values())
    gathering = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {parameter.name for parameter in parameters if parameter.kind not in gathering} - {"self"}
