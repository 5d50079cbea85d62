"""Who may import whom: the table of docs/design.md, held by reading the source."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ovdet"

# what each part may import of ovdet besides itself and the leaves that everyone may use
LEAVES = {"cache", "errors", "files", "memory", "memory_format"}
ALLOWED = {
    "cache": set(),
    "errors": set(),
    "files": set(),
    "memory": set(),
    "memory_format": set(),
    "imagenet_lite": set(),
    "losses": set(),
    "teachers": {"imagenet_lite"},
    "text": {"teachers"},
    "modeling": {"losses", "imagenet_lite"},
    "data": {"text"},
    "evaluation": set(),
    "engine": {"teachers", "text", "modeling", "data", "evaluation", "losses"},
    "predictor": {"teachers", "text", "modeling", "data", "engine", "visualize"},
    "visualize": set(),
    "export": {"teachers", "text", "modeling", "data", "engine", "predictor"},
    "demo": {"predictor", "visualize", "export", "engine", "data", "text"},
    "reproduce": {"engine"},
    "benchmark": {"teachers", "text", "modeling", "data", "evaluation", "engine", "losses", "predictor", "export"},
}
WITHOUT_DETECTRON2 = (*LEAVES, "imagenet_lite", "losses", "teachers", "text")
OF_DATA = ("images", "region_plan", "region_shard", "region_store", "split", "synthetic", "videos")
FILES_WITHOUT_DETECTRON2 = (
    *(f"data/{name}.py" for name in OF_DATA),
    *(f"data/prepare/{file.name}" for file in (PACKAGE / "data" / "prepare").glob("*.py")),
)


def imported_modules(file: Path) -> set[str]:
    """Absolute names of all that a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module)
    return names


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_downwards(file):
    part = part_of(file)
    assert part in ALLOWED, f"{part} is not in the table"
    allowed = ALLOWED[part] | {part} | LEAVES
    imported = {name.split(".")[1] for name in imported_modules(file) if name.startswith("ovdet.")}
    assert imported <= allowed, f"{part} may not import {sorted(imported - allowed)}"
    assert "ovdet" not in imported_modules(file), "name the module, not the facade"
    without = part in WITHOUT_DETECTRON2 or str(file.relative_to(PACKAGE)) in FILES_WITHOUT_DETECTRON2
    tops = {name.split(".")[0] for name in imported_modules(file)}
    assert not (without and "detectron2" in tops)
    assert not tops & {"tools", "configs", "tests"}


def test_no_drawers():
    for name in ("utils", "core", "common", "helpers", "misc"):
        assert not list(PACKAGE.rglob(name)) and not list(PACKAGE.rglob(f"{name}.py"))


def test_sizes():
    """Targets of length; a tool parses arguments and calls the library."""
    long_tools = [f.name for f in (ROOT / "tools").glob("*.py") if len(f.read_text().splitlines()) > 80]
    long_files = [f.name for f in FILES if len(f.read_text().splitlines()) > 400]
    assert not long_tools and not long_files


def top_level() -> set[str]:
    """What git keeps, so that nobody's own files count; where it keeps nothing, all that is there."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    except FileNotFoundError:
        listing = ""
    return {name.split("/")[0] for name in listing.split("\0") if name} or {entry.name for entry in ROOT.iterdir()}


def test_top_level():
    allowed = {"ovdet", "configs", "tools", "datasets", "tests", "docs", "setup.py", "README.md", "Makefile", "LICENSE",
               "CHANGELOG.md", "CITATION.cff"}  # fmt: skip
    written = {"output", "build", "ovdet.egg-info"}
    assert {name for name in top_level() if not name.startswith(".")} <= allowed | written
