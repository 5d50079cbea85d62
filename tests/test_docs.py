"""Commands and Python in the documentation: each can be parsed, by the programs' own parsers, and each file is there.

tests/test_docs_run.py, slow, runs them.
"""

import functools
import importlib
import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import setuptools

from ovdet.cli.main import COMMANDS, build_parser, parse
from ovdet.engine.config import apply_overrides, find_config, load_config

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "configs/README.md",
    ROOT / "datasets/README.md",
    *sorted(ROOT.glob("ovdet/assets/*/README.md")),
    *sorted(ROOT.glob("tools/*/README.md")),
]
CONFIGS = [file for file in sorted(ROOT.glob("configs/*/*.py")) if file.parent.name != "common"]
MODULES = [importlib.import_module(path) for path in COMMANDS.values()]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines_of(block: str) -> list[str]:
    """Command lines, joined where they go on in the next one."""
    joined = re.sub(r"\\\n\s*", " ", block)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def of_ovdet(text: str) -> list[str]:
    return [line for line in lines_of(text) if re.match(r"ovdet \w", line)]


def blocks(page: Path, *kinds: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def words_of(line: str) -> list[str]:
    """Of the first command of a line, without remarks."""
    line = re.sub(r'^eval "\$\((.*)\)"', r"\1", line)  # what it prints is run by the shell
    words = shlex.split(re.split(r"\s{2,}\(", line)[0], comments=True)  # a remark in brackets behind it
    return words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&", ";", "&")), len(words))]


FENCED = [(page.name, line) for page in PAGES for block in blocks(page, "sh", "bash") for line in lines_of(block)]
DOCSTRINGS = [(file.stem, line) for file in CONFIGS for line in of_ovdet(file.read_text(encoding="utf-8"))]
# a docstring's command goes on in lines that are indented
HELP = [(module.__name__, line) for module in MODULES for line in of_ovdet(re.sub(r"\n[ ]{4,}", " ", module.__doc__))]


@functools.cache
def config(file: str):
    return load_config(file)


def check_ovdet(words: list[str], *, with_config: bool = True) -> None:
    if words[0].startswith("-"):
        with pytest.raises(SystemExit) as done:
            build_parser().parse_args(words)
        assert done.value.code == 0
        return
    file = vars(parse(importlib.import_module(COMMANDS[words[0]]), words[1:])).get("config_file")
    if words[0] in ("train", "extract"):
        if "CONFIG" in file:  # any of the folder
            file = str(next((ROOT / file).parent.glob("*.py")))
        assert Path(find_config(file)).is_file(), file
        if with_config:
            apply_overrides(config(find_config(file)).copy(), [word for word in words if re.match(r"[a-z_.]+=", word)])


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert words[1] in ("venv", "http.server"), words
        return
    script = ROOT / words[0]
    text = script.read_text(encoding="utf-8")
    if name := re.search(r'run_tool\("(.+)"\)', text):
        return check_ovdet([name[1], *words[1:]])
    parts = [file.read_text(encoding="utf-8") for file in script.parent.glob("*/*.py")]
    for option in filter(re.compile("--").match, words):
        assert any(f'"{option}"' in part for part in (text, *parts)), (words, option)


def check_make(words: list[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", text, re.MULTILINE), word


def check_pip(words: list[str]) -> None:
    given: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: given.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    assert words[0] == "install"
    for word in words[1:]:
        extras = re.search(r"\[(.+)\]", word)
        assert not extras or set(extras[1].split(",")) <= set(given["extras_require"]), word
        assert not word.startswith(".") or re.match(r"\.(\[.*\])?$", word) or (ROOT / word).is_file(), word


def check_curl(words: list[str]) -> None:
    fields = [after for word, after in zip(words, words[1:], strict=False) if word == "-F"]
    assert not any(";" in field for field in fields), "curl cuts these there: --form-string"
    route = re.fullmatch(r"https?://[^/]+(/\w*)", words[-1])[1]
    assert f'"{route}"' in (ROOT / "ovdet/serving/app.py").read_text(encoding="utf-8"), words


def check_docker(words: list[str]) -> None:
    assert words[0] in ("build", "run")
    if words[0] == "build":
        assert words[-1] == "." and (ROOT / words[words.index("-f") + 1]).is_file(), words


def check_cvat(words: list[str]) -> None:
    from ovdet.integrations import cvat

    given = [word.partition("=")[0] for word in words[words.index("-p") + 1 :]]
    assert words[words.index("--function-module") + 1] == cvat.__name__ and "names" in given


CHECKS = {
    "ovdet": check_ovdet,
    "python": check_python,
    "python3": check_python,
    "make": check_make,
    "pip": check_pip,
    "curl": check_curl,
    "docker": check_docker,
    "cvat-cli": check_cvat,
    "torchrun": lambda words: check_python(words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]),
    "source": lambda words: words == [".venv/bin/activate"] or pytest.fail(str(words)),
    "export": lambda words: re.match(r"[A-Z_]+=", words[0]) or pytest.fail(str(words)),
    "hf": lambda words: words[0] == "upload" or pytest.fail(str(words)),
}


@pytest.mark.parametrize(("where", "line"), DOCSTRINGS)
def test_a_config_says_how_it_is_run(where, line):
    """Each loads in tests/test_configs.py."""
    check_ovdet(words_of(line)[1:], with_config=False)


@pytest.mark.parametrize(("where", "line"), [*FENCED, *HELP])
def test_a_command_that_is_written_down_can_be_parsed(where, line):
    program, *words = words_of(line)
    if program == "cvat-cli":
        pytest.importorskip("cvat_sdk")
    try:
        CHECKS[program](words)
    except SystemExit:
        pytest.fail(f"{where}: {line}")


def test_there_are_some():
    assert len(FENCED) > 90 and len(DOCSTRINGS) > 20 and len(HELP) >= len(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_compiles_and_json_can_be_read(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for block in blocks(page, "json"):
        json.loads(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_are_there(page):
    """In text, too: `ovdet/text/classes.py`, `configs/lite/vild.py`, `tests/two_processes.py`."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:ovdet|configs|tools|tests|datasets|docs)/[\w./-]+\.(?:py|json|md))`", text)
    wanted = [name for name in named if not re.search(r"mine|NAME|squared", name)]  # of the reader's own
    assert not [name for name in wanted if not (ROOT / name).is_file()]
