"""Say what is installed here, which device detects and how fast, and what to do about what is missing.

ovdet doctor
ovdet doctor --fix    (installs detectron2, which has no name of its own on the package index)
"""

from __future__ import annotations

import argparse
import json
import sys

from ovdet.install import install_detectron2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="install detectron2 where it is missing")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout, for programs")


def run(arguments: argparse.Namespace) -> int:
    from ovdet.cli.diagnosis import diagnose

    if arguments.fix:
        print(install_detectron2(), file=sys.stderr)
    found = diagnose()
    if arguments.json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        print(*found.lines(), sep="\n")
    return 1 if found.problems else 0
