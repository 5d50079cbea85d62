"""Prepare scripts run as a user runs them."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from ovdet.data import catalog as builtin

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "datasets"))  # as where a script of it is run


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script of datasets/ in this process -> exit code, stdout, stderr."""

    def run_script(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"datasets/{name}", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "datasets" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_script


@pytest.fixture
def write(tmp_path):
    """Write an object as json below the test's folder -> the path."""

    def write(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.fixture
def registered():
    """Register a prepared data set by name, its photos drawn empty -> dataset dicts and metadata."""
    importlib.reload(builtin)

    def registered(name: str, root: Path) -> tuple[list[dict], Metadata]:
        entry = builtin.BUILTIN[name]
        for image in json.loads((root / entry.json_file).read_text())["images"]:
            photo = root / entry.images / image["file_name"]
            photo.parent.mkdir(parents=True, exist_ok=True)
            photo.touch()
        return DatasetCatalog.get(builtin.register_builtin(name, root)), MetadataCatalog.get(name)

    yield registered
    importlib.reload(builtin)


@pytest.fixture
def refused():
    """Of what a command left, the one line that refuses its input."""

    def refused(result: tuple[int, str, str]) -> str:
        code, out, err = result
        assert code == 2 and not out and "Traceback" not in err
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: expected ")
        return last

    return refused
