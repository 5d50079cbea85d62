"""Print a script that completes commands and options in a shell.

eval "$(ovdet completion bash)"
ovdet completion bash > ~/.local/share/bash-completion/completions/ovdet    (for all shells to come; make the folder)
ovdet completion zsh > ~/.zfunc/_ovdet    (with fpath+=~/.zfunc before compinit)
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell")


def run(arguments: argparse.Namespace) -> None:
    import shtab

    from ovdet.cli.main import build_parser

    print(shtab.complete(build_parser(), arguments.shell))
