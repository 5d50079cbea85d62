"""Who may import whom, held by reading the source: the table, no circles, and what an import must not load."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ovdet"

# what a file may import of ovdet besides its own package and the leaves; the longest name that fits it counts
ALLOWED = {
    "teachers": (),
    "objectives": (),
    "text": ("teachers",),
    "modeling": ("objectives",),
    "modeling.calibration": ("text.class_names",),
    "modeling.detector": ("objectives", "text.class_names"),
    "data": ("text.class_names", "text.vocabulary"),
    "evaluation": ("data.coco",),
    "engine": ("data", "evaluation", "modeling", "objectives", "teachers.embedding_space", "text"),
    "engine.config": (),
    "engine.options": (),
    "hub": ("data.mapper", "engine", "modeling", "teachers", "text"),
    "regions": ("data", "engine.checkpoint", "engine.config", "hub", "teachers", "text"),
    "regions.plan": ("data.coco",),
    "regions.shard": (),
    "regions.store": ("data.coco", "teachers.embedding_space"),
    "export": ("hub", "inference", "modeling", "text"),
    "learning": ("data", "modeling", "text"),
    "inference": (
        "data",
        "engine",
        "evaluation",
        "export",
        "hub",
        "integrations",
        "learning",
        "modeling",
        "teachers",
        "text",
    ),
    "integrations": ("inference", "text.vocabulary"),
    "serving": ("data.images", "inference", "integrations.label_studio", "learning", "text.classes", "text.vocabulary"),
    "benchmarks": (
        "data",
        "engine",
        "evaluation",
        "export.runtimes",
        "hub",
        "inference",
        "modeling",
        "regions",
        "teachers",
        "text",
    ),
    "teacher_lab": ("data.dataset", "data.images", "evaluation.plots", "teachers", "text"),
    "cli": (
        "benchmarks",
        "data",
        "engine",
        "export",
        "hub",
        "inference",
        "learning",
        "regions",
        "serving",
        "teacher_lab",
        "teachers",
        "text",
    ),
    "__main__": ("cli",),
}
# files beside the packages, which import each other alone; all may import them
LEAVES = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__", "__main__"}

WITHOUT_DETECTRON2 = (
    *LEAVES,
    *("teachers", "objectives", "text"),
    *("data.coco", "data.images", "data.splits", "data.synthetic"),
    *("regions.plan", "regions.shard", "regions.store"),
)

FILES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
    if file != PACKAGE / "__init__.py"
}


def fits(name: str, prefixes) -> bool:
    """Whether a module is one of these or in one of them."""
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)


@functools.cache
def imports(name: str) -> set[str]:
    """Absolute names of all that a file imports, in functions too; what type checkers alone import is left out."""
    file = FILES[name]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name.removeprefix("ovdet.") in FILES else node.module for name in names)
    return found


@pytest.mark.parametrize("name", FILES)
def test_imports_are_those_of_the_table(name):
    own = {imported.removeprefix("ovdet.") for imported in imports(name) if imported.startswith("ovdet.")}
    if name in LEAVES:
        assert own <= LEAVES, f"{name} may import {sorted(LEAVES)} alone, it imports {sorted(own - LEAVES)}"
        return
    rows = [row for row in ALLOWED if fits(name, [row])]
    assert rows, f"{name} is not in the table"
    allowed = {*ALLOWED[max(rows, key=len)], name.split(".")[0], *LEAVES}
    odd = sorted(each for each in own if not fits(each, allowed))
    assert not odd, f"{name} may import {sorted(allowed - LEAVES)}, it imports {odd}"


@pytest.mark.parametrize("name", FILES)
def test_imports_of_other_packages(name):
    tops = {imported.split(".")[0] for imported in imports(name)}
    assert "ovdet" not in imports(name), "name the module, not the facade"
    assert not tops & {"tools", "configs", "tests"}
    assert not ("detectron2" in tops and fits(name, WITHOUT_DETECTRON2))


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: {each.removeprefix("ovdet.") for each in imports(name)} & FILES.keys() for name in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the files


def test_what_an_import_does_not_load():
    """What the first box and a config do not: tests/inference/test_start.py."""
    script = "import sys, ovdet; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "detectron2"} & set(run.stdout.split("\n"))


def top_level() -> set[str]:
    """What git keeps, so that nobody's own files count; where it keeps nothing, all that is there."""
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
    except FileNotFoundError:
        listing = ""
    return {name.split("/")[0] for name in listing.split("\0") if name} or {entry.name for entry in ROOT.iterdir()}


def test_top_level():
    folders = {"ovdet", "configs", "tools", "datasets", "tests", "docs"}
    files = {"setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile"}
    files.add("requirements.lock")
    written = {"output", "build", "ovdet.egg-info"}
    assert {name for name in top_level() if not name.startswith(".")} <= folders | files | written
