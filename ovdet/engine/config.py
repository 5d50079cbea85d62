"""Reading configs: LazyConfig files, the resolved yaml of a run, and key=value overrides that must exist."""

from __future__ import annotations

import difflib
import inspect
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.config.instantiate import locate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, OmegaConf

from ovdet.errors import InputError, error_summary, first_line
from ovdet.files import atomic_write

PARTS = ("model", "teacher", "name_embedder", "dataset", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Read a config and apply overrides.

    Args:
        path: a LazyConfig .py, a config of the package by its name (see `find_config`), or the config.yaml that a run
            wrote; `hub.find.open_config` reads a model folder's too.
        overrides: `key=value`, keys with dots. A key must stand in the config, or be an argument of the node's target.
            Values are read by hydra's grammar; what it does not take for one value is text where text stands now, and
            needs quotes elsewhere.

    Raises:
        InputError: no such file, not a config, an override that is none, or whose key does not exist.
    """
    path = find_config(path)
    if not Path(path).is_file():
        why = "is a folder" if Path(path).is_dir() else "does not exist"
        raise InputError(f"expected a config file, {path} {why}")
    return apply_overrides(_run_config(path), overrides)


def find_config(path: str) -> str:
    """A config file: as given, or one of the package's by its name, "quick/vild" or "configs/quick/vild.py"."""
    if Path(path).is_file() or not path:
        return path
    package = Path(__file__).parents[1]
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"  # in a checkout
    own = configs / Path(path.removeprefix("configs/")).with_suffix(".py")
    return str(own) if own.is_file() else path


def apply_overrides(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with `key=value` overrides, see `load_config`.

    Raises:
        InputError: an override that is none, or whose key does not exist.
    """
    if not overrides:
        return config
    readable = [_readable(given, _present_value(config, given)) for given in overrides]
    try:
        return LazyConfig.apply_overrides(config, readable)
    except Exception as error:  # hydra's parser has its own family of errors
        given = " ".join(overrides)
        raise InputError(f"expected overrides as key=value, got {given!r}: {first_line(error)}") from error


def prepare_dataset(config: DictConfig) -> None:
    """Run the config's own preparation of its data set, if it has one: the synthetic one draws itself."""
    if "prepare" in config.dataset:
        instantiate(config.dataset.prepare)


def save_config(config: DictConfig, path: str | Path) -> None:
    """Write the resolved config as yaml, atomically.

    Raises:
        InputError: the place cannot be written to.
    """
    atomic_write(path, _as_yaml(config))


def _as_yaml(config: DictConfig) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        LazyConfig.save(config, f"{scratch}/config.yaml")
        return Path(scratch, "config.yaml").read_bytes()


def plain_values(config: DictConfig) -> dict[str, Any]:
    """A config as `read_run_values` would read it from the file of `save_config`."""
    return yaml.load(_as_yaml(config), _RunLoader)


def override(key: str, value: str) -> str:
    """A `key=value` for `load_config`, quoted so that the option gets exactly this text."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation, and backslashes before it stay as many
    return f"{key}={_quoted(text)}"


def _quoted(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.double).with_quotes()


def _run_config(path: str) -> DictConfig:
    if Path(path).suffix not in (".py", ".yaml", ".yml"):
        raise InputError(f"expected a config file (.py, a run's .yaml, or a model's .json), got {path}")
    if Path(path).suffix == ".py":
        try:
            config = LazyConfig.load(path)
        except Exception as error:  # a config is a program, it can fail in any way
            raise InputError(f"expected a readable config, {path} fails with {error_summary(error)}") from error
    else:
        config = OmegaConf.create(read_run_values(path), flags={"allow_objects": True})
    missing = [part for part in PARTS if part not in config]
    if missing:
        raise InputError(f"expected {', '.join(PARTS)} in a config, {path} has no {', '.join(missing)}")
    return config


def read_run_values(path: str | Path) -> dict[str, Any]:
    """The config.yaml of a training run as plain values and ShapeSpecs, in the names of today. Nothing in it is run.

    Raises:
        InputError: no yaml, no mapping, or other Python objects in it: reading those can run any code.
    """
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _RunLoader)
    except yaml.constructor.ConstructorError as error:
        raise InputError(f"expected plain values in {path}, reading others can run code: {error.problem}") from error
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"expected a readable config, {path} fails with {error_summary(error)}") from error
    if values is not None and not isinstance(values, dict):
        raise InputError(f"expected a config with {', '.join(PARTS)}, {path} holds a {type(values).__name__}")
    return values or {}


class _RunLoader(yaml.SafeLoader):
    """Safe yaml and the two kinds of Python objects that LazyConfig.save writes for a config of plain parts."""


def _shape_spec(loader: yaml.SafeLoader, node: yaml.Node) -> ShapeSpec:
    values = loader.construct_mapping(node, deep=True)
    if not all(isinstance(value, (int, type(None))) for value in values.values()):
        raise ValueError(f"expected whole numbers in a ShapeSpec, got {values}")
    return ShapeSpec(**values)


_PYTHON = "tag:yaml.org,2002:python/"
_RunLoader.add_constructor(f"{_PYTHON}object:{ShapeSpec.__module__}.ShapeSpec", _shape_spec)
_RunLoader.add_constructor(f"{_PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


def _readable(given: str, present: Any) -> str:
    """An override in hydra's grammar: as it was given, or in quotes where the present value is text.

    Raises:
        InputError: it is neither.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # a quarter of a second
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    key, _, value = given.partition("=")
    try:
        is_one_value = OverridesParser.create().parse_override(given).value_type is ValueType.ELEMENT
    except HydraException:
        is_one_value = False
    if is_one_value:
        return given
    if not isinstance(present, str):
        hint = "text with special characters in quotes: 'key=\"a,b\"'"
        raise InputError(f"expected an override as key=value, {hint}, got {given!r}")
    return f"{key}={_quoted(value)}"


def _present_value(config: DictConfig, given: str) -> Any:
    """The value that an override would replace.

    Raises:
        InputError: no `key=value`, or there is no such option.
    """
    key, equals, _ = given.partition("=")
    if not equals or not key:
        raise InputError(f"expected an override as key=value, got {given!r}")
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not OmegaConf.is_dict(node):
            raise InputError(f"expected {'.'.join(parts[:depth])} to hold options, it is a value: {given!r}")
        if part in node:
            node = node._get_node(part)
            continue
        arguments = _arguments_of(node)
        if depth < len(parts) - 1 or part not in arguments:
            known = sorted({*map(str, node), *arguments})
            near = difflib.get_close_matches(part, known, n=3, cutoff=0.4) or known
            raise InputError(f"no option {key!r} in the config; near it: {', '.join(near)}")
        return arguments[part]
    return OmegaConf.select(config, key, throw_on_resolution_failure=False)


def _arguments_of(node: DictConfig) -> dict[str, Any]:
    """The arguments of a node's target and their defaults; of a class, its bases' too."""
    target = node.get("_target_")
    if target is None:
        return {}
    target = locate(target) if isinstance(target, str) else target
    calls = [base.__init__ for base in reversed(target.__mro__[:-1])] if inspect.isclass(target) else [target]
    parameters = (parameter for call in calls for parameter in inspect.signature(call).parameters.values())
    gathering = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name: each.default for each in parameters if each.kind not in gathering and each.name != "self"}
