"""The table of commands, and how one is run.

A command is a module with a docstring (a summary line, then examples), `add_arguments(parser)` and
`run(arguments) -> exit code | None`; one with commands of its own has a table COMMANDS of them. What takes time to
import is imported in `run`, so that help is there at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from ovdet.errors import InputError, command
from ovdet.version import VERSION

COMMANDS = {
    "detect": "ovdet.cli.detect",
    "label": "ovdet.cli.label",
    "track": "ovdet.cli.track",
    "describe": "ovdet.cli.describe",
    "evaluate": "ovdet.cli.evaluate",
    "train": "ovdet.cli.train",
    "extract": "ovdet.cli.extract",
    "verify": "ovdet.cli.verify",
    "embed": "ovdet.cli.embed",
    "teacher": "ovdet.cli.teacher",
    "average": "ovdet.cli.average",
    "calibrate": "ovdet.cli.calibrate",
    "learn": "ovdet.cli.learn",
    "few-shot": "ovdet.cli.few_shot",
    "export": "ovdet.cli.export",
    "convert": "ovdet.cli.convert",
    "pack": "ovdet.cli.pack",
    "serve": "ovdet.cli.serve",
    "benchmark": "ovdet.cli.benchmark",
    "doctor": "ovdet.cli.doctor",
    "completion": "ovdet.cli.completion",
}
_DESCRIPTION = "Open-vocabulary object detection: any list of class names in, boxes out."
_EXIT_CODES = "exit codes: 0 done, 1 something was found wrong, 2 what was given cannot be used, 130 interrupted"


@command
def main() -> None:
    """The console command `ovdet`."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        if code := run_command(words[0], words[1:]):
            sys.exit(code)
    else:
        build_parser().parse_args(words or ["--help"])


@command
def run_tool(name: str) -> None:
    """A script of tools/ that is a command by its name of old."""
    if code := run_command(name, sys.argv[1:], prog=None):
        sys.exit(code)


def run_command(name: str, words: Sequence[str], prog: str | None = "ovdet") -> int:
    """Parse the words behind a command's name and run it.

    Args:
        name: one of COMMANDS.
        words: the rest of the command line.
        prog: as help calls the program; None for the name of the running script, which then is this one command.

    Returns:
        The exit code.
    """
    module = importlib.import_module(COMMANDS[name])
    arguments = parse(module, words, prog and f"{prog} {name}")
    try:
        return module.run(arguments) or 0
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        _offer_detectron2()
        return module.run(arguments) or 0


def parse(module: ModuleType, words: Sequence[str], prog: str | None = None) -> argparse.Namespace:
    """The words behind a command's name, as its module takes them; `prog` as of argparse."""
    parser = _describe(argparse.ArgumentParser(prog=prog), module)
    has_commands = hasattr(module, "COMMANDS")  # argparse does not mix options with words there
    return parser.parse_args(words) if has_commands else parser.parse_intermixed_args(words)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, for help, mistakes and completion; running one takes `run_command`."""
    parser = argparse.ArgumentParser(prog="ovdet", description=_DESCRIPTION, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"ovdet {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        _describe(commands.add_parser(name, help=_first_line(module)), module)
    return parser


def _describe(parser: argparse.ArgumentParser, module: ModuleType) -> argparse.ArgumentParser:
    """A parser with a command's description, examples and arguments."""
    parser.description, parser.formatter_class = module.__doc__, argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    return parser


def _first_line(module: ModuleType) -> str:
    return module.__doc__.partition("\n")[0]


def _offer_detectron2() -> None:
    """Install detectron2 if the user says so.

    Raises:
        InputError: not asked, as nobody sits there; declined, or not installed.
    """
    from ovdet.install import DISTRIBUTION, install_detectron2

    needed = "expected detectron2, which is not installed: `ovdet doctor --fix` installs it"
    if not (sys.stdin and sys.stdin.isatty()):
        raise InputError(needed)
    print(f"detectron2 is needed and not installed. Install {DISTRIBUTION} from the package index? [y/N] ", end="")
    if input().strip().lower() not in ("y", "yes"):
        raise InputError(needed)
    print(install_detectron2())
