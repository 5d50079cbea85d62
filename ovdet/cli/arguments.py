"""Arguments that several commands have in common."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovdet.errors import InputError, expand_home

if TYPE_CHECKING:
    from ovdet.inference.predictor import OpenVocabPredictor

MODELS = "a model's or run's folder, hf://OWNER/NAME, hf:OWNER/NAME (of transformers), ovdet-lite, ovdet-lite-base48"


def add_model_arguments(parser: argparse.ArgumentParser, default: str = "") -> None:
    """The detector: what `hub.find.choose_model` and `inference.load.load_predictor` take."""
    otherwise = f" (default: {default})" if default else ""
    parser.add_argument("--model", metavar="M", help=f"the detector: {MODELS}{otherwise}")
    add_config_argument(parser, "of the detector, instead of --model")
    parser.add_argument("--weights", metavar="W", help="its checkpoint (default: the last one of the config's run)")


def add_config_argument(parser: argparse.ArgumentParser, help: str, **more: Any) -> None:
    """--config-file: a file, or a config of the package by its name."""
    parser.add_argument("--config-file", "--config", metavar="F", help=f"{help}: a file, or such as quick/vild", **more)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """key=value behind the options."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the config")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    help = "on CUDA all of it as graphs, else torch.compile the backbone: slow to begin, then faster (little on CPUs)"
    parser.add_argument("--compile", action="store_true", help=help)


def add_half_argument(parser: argparse.ArgumentParser) -> None:
    help = "mixed precision: nearly the same detections (default: bfloat16 on CPUs where it is faster, measured once)"
    parser.add_argument("--half", action=argparse.BooleanOptionalAction, default=None, help=help)


def add_int8_argument(parser: argparse.ArgumentParser) -> None:
    help = "8 bits between backbone and scores, on CPUs where that is faster, measured once: nearly the same detections"
    parser.add_argument("--int8", action="store_true", help=help)


def add_runtime_argument(parser: argparse.ArgumentParser) -> None:
    help = "what runs the network; the others export it first, once, which takes a minute or more (default: torch)"
    parser.add_argument("--runtime", choices=("torch", "onnx", "openvino"), default="torch", help=help)


def add_json_argument(parser: argparse.ArgumentParser, what: str = "the result") -> None:
    parser.add_argument("--json", action="store_true", help=f"{what} as JSON on stdout, for programs")


def add_data_arguments(
    parser: argparse.ArgumentParser, annotations: str, *, required: bool = True, images_required: bool = True
) -> None:
    """Annotated photos: --annotations, with this help, and --images."""
    parser.add_argument("--annotations", required=required, metavar="X.json", help=annotations)
    parser.add_argument("--images", required=images_required, metavar="DIR", help="the folder of its photos")


def add_detector_arguments(parser: argparse.ArgumentParser, default: str = "", json: str = "the result") -> None:
    """The detector, its device, --json and key=value: the last of a command's arguments, see `open_predictor`."""
    add_model_arguments(parser, default)
    add_device_argument(parser)
    add_json_argument(parser, json)
    add_overrides(parser)


def open_predictor(arguments: argparse.Namespace) -> OpenVocabPredictor:
    """The detector that `add_detector_arguments` asks for, with --compile, --half, --int8 where a command has them.

    Raises:
        InputError: as of `load_predictor`.
    """
    from ovdet.inference.load import load_predictor

    keys = ("model", "config_file", "weights", "device", "overrides", "compile", "half", "int8")
    return load_predictor(**{key: getattr(arguments, key) for key in keys if hasattr(arguments, key)})


def parse_set(text: str, option: str = "--set") -> tuple[str, str]:
    """ "X.json=DIR", as an option has it, -> both. Each may begin with "~" and have a "=" of its own.

    Raises:
        InputError: it is something else, or as of `expand_home`.
    """
    end = text.lower().find(".json=") + 5
    annotations, equals, images = (text[:end], "=", text[end + 1 :]) if end > 5 else text.rpartition("=")
    if not equals or not annotations or not images:
        raise InputError(f"expected {option} X.json=DIR, got {text!r}")
    return expand_home(annotations), expand_home(images)


def read_card(file: str | None, config_file: str) -> str:
    """The text of a model card; None for that beside a model folder's config.

    Raises:
        InputError: it cannot be read.
    """
    from ovdet.hub.model_folder import CARD

    card = Path(file) if file else Path(config_file).with_name(CARD)
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a model card, {card} cannot be read: {error}") from error


def say(arguments: argparse.Namespace, line: str, values: dict[str, Any]) -> None:
    """A result on stdout: a line to read, or with --json its values on one line."""
    print(json.dumps(values, ensure_ascii=False) if arguments.json else line, flush=True)


@contextlib.contextmanager
def reports_on_stderr(wanted: bool) -> Iterator[None]:
    """Send lines for people to stderr, so that stdout is JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield
