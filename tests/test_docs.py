"""Commands and Python in the documentation: every command of ovdet has options that exist, every block compiles."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from ovdet.cli.main import COMMANDS, build_parser, parse

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "configs/README.md",
    ROOT / "datasets/README.md",
]
CONFIGS = [file for file in sorted(ROOT.glob("configs/*/*.py")) if file.parent.name != "common"]
MODULES = [importlib.import_module(path) for path in COMMANDS.values()]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines that begin with `ovdet`, joined where they go on in the next one."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if re.match(r"\s*ovdet \w", line)]


def blocks(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds]


FENCED = [(page.name, line) for page in PAGES for block in blocks(page, "sh", "bash") for line in commands(block)]
DOCSTRINGS = [(file.stem, line) for file in CONFIGS for line in commands(file.read_text(encoding="utf-8"))]
# a docstring's command goes on in lines that are indented
HELP = [(module.__name__, line) for module in MODULES for line in commands(re.sub(r"\n[ ]{4,}", " ", module.__doc__))]


@pytest.mark.parametrize(("where", "line"), [*FENCED, *DOCSTRINGS, *HELP])
def test_a_command_that_is_written_down_can_be_parsed(where, line):
    words = re.split(r"\s{2,}\(", line)[0]  # a remark in brackets behind it
    words = shlex.split(words, comments=True)[1:]
    words = words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&", ";")), len(words))]
    if words[0].startswith("-"):
        with pytest.raises(SystemExit) as done:
            build_parser().parse_args(words)
        assert done.value.code == 0
        return
    assert words[0] in COMMANDS, line
    try:
        parse(importlib.import_module(COMMANDS[words[0]]), words[1:])
    except SystemExit:
        pytest.fail(f"{where}: {line}")


def test_there_are_some():
    assert len(FENCED) > 30 and len(DOCSTRINGS) > 20 and len(HELP) >= len(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
